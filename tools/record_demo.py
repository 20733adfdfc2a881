"""Draw docs/demo.svg: a run of `aragora-q demo` in a terminal of 80 columns. For `make screenshots`."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 80, 60
COMMAND = "aragora-q demo"
PICTURE = Path(__file__).parents[1] / "docs/demo.svg"
FONT_FACE = re.compile(r"@font-face\s*{[^}]*}")
"""rich's pictures download a font; without it, the reader's monospace font is used."""


def record(arguments: list[str]) -> str:
    """Return what a command writes to a terminal."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(arguments, stdin=child, stdout=child, stderr=child, close_fds=True)
    os.close(child)
    written = io.BytesIO()
    while True:
        try:
            part = os.read(parent, 65_536)
        except OSError:  # the command has closed its end
            break
        if not part:
            break
        written.write(part)
    if process.wait() != 0:
        sys.exit(f"{COMMAND} failed: {written.getvalue().decode()}")
    return written.getvalue().decode().replace("\r\n", "\n")


def draw(text: str) -> str:
    """Return an SVG picture of a terminal that shows `text`."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"\033[1m$ {COMMAND}\033[0m\n{text.rstrip()}"))
    picture = FONT_FACE.sub("", console.export_svg(title="aragora-q"))
    return picture.replace("<svg ", '<svg xml:space="preserve" ', 1)  # keeps the indentation


if __name__ == "__main__":
    command = [sys.executable, "-m", "aragora_q", *COMMAND.split()[1:], *sys.argv[1:]]
    PICTURE.write_text(draw(record(command)), encoding="utf-8")
