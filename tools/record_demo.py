"""Draws docs/demo.svg: a real run of `aragora-q demo` in a terminal of 80 columns. By `make picture`."""

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
FONT_FACE = re.compile(r"@font-face\s*{[^}]*}")
"""rich's pictures fetch a font from elsewhere; a reader's own monospace does."""


def recorded(arguments: list[str]) -> str:
    """What a command writes to a terminal."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(arguments, stdin=its, stdout=its, stderr=its, close_fds=True)
    os.close(its)
    written = io.BytesIO()
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written.write(part)
    if process.wait() != 0:
        sys.exit(f"{COMMAND} failed: {written.getvalue().decode()}")
    return written.getvalue().decode().replace("\r\n", "\n")


def drawn(text: str) -> str:
    """The picture of a terminal that shows `text`."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"\033[1m$ {COMMAND}\033[0m\n{text.rstrip()}"))
    picture = FONT_FACE.sub("", console.export_svg(title="aragora-q"))
    return picture.replace("<svg ", '<svg xml:space="preserve" ', 1)  # or indents are lost


if __name__ == "__main__":
    command = [sys.executable, "-m", "aragora_q", *COMMAND.split()[1:], *sys.argv[1:]]
    Path(__file__).with_name("demo.svg").write_text(drawn(recorded(command)), encoding="utf-8")
