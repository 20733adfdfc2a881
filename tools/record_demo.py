"""Draw docs/demo.svg, a run of `aragora-q demo`, and docs/show.svg, the beginning of what `show` prints of it.

In a terminal of 80 columns. For `make screenshots`.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 80, 60
COMMAND = "aragora-q demo"
DOCS = Path(__file__).parents[1] / "docs"
SHOWN_ROWS = 76
"""Rows of the report that are drawn: the outcome and the first answers."""

SERVER = {"REDIS_URL": "embedded://", "ARAGORA_QUEUE_NAME": "demo"}
"""Where the demo leaves its debate."""

FONT_FACE = re.compile(r"@font-face\s*{[^}]*}")
"""rich's pictures download a font; without it, the reader's monospace font is used."""


def record(command: str) -> str:
    """Return what an `aragora-q` command writes to a terminal."""
    arguments = [sys.executable, "-m", "aragora_q", *shlex.split(command)[1:]]
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        arguments, stdin=child, stdout=child, stderr=child, close_fds=True, env=os.environ | SERVER
    )
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
        sys.exit(f"{command} failed: {written.getvalue().decode()}")
    return written.getvalue().decode().replace("\r\n", "\n")


def draw(command: str, text: str) -> str:
    """Return an SVG picture of a terminal that shows a command and what it wrote."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"\033[1m$ {command}\033[0m\n{text.rstrip()}"))
    picture = FONT_FACE.sub("", console.export_svg(title="aragora-q"))
    return picture.replace("<svg ", '<svg xml:space="preserve" ', 1)  # keeps the indentation


if __name__ == "__main__":
    demo = record(shlex.join([*COMMAND.split(), *sys.argv[1:]]))
    (DOCS / "demo.svg").write_text(draw(COMMAND, demo), encoding="utf-8")
    show = re.search(r"aragora-q show \w+", demo)[0]  # the demo suggests it
    report = "".join(record(show).splitlines(keepends=True)[:SHOWN_ROWS])
    (DOCS / "show.svg").write_text(draw(show, report), encoding="utf-8")
