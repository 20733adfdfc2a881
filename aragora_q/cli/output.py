"""What the commands print: data to stdout, messages to stderr, nothing that a job's text could forge.

Used by all commands. Knows nothing of queues.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

DAY_SECONDS = 86_400
WIDTH, WIDEST = 78, 120
"""Longest line of text for people, where the terminal does not say; and at most."""


class StoppedBySignal(Exception):
    """The command ended well because of signal `number`; the process shall end by it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def line(text: str = "") -> None:
    """Write one line of data, escaped."""
    sys.stdout.write(f"{safe_text(text)}\n")


def write(text: str) -> None:
    """Write one line of data that is escaped already, and styled perhaps."""
    sys.stdout.write(f"{text}\n")


def lines(rows: Iterable[str]) -> None:
    """Write lines of data."""
    for row in rows:
        line(row)


def json_line(value: Mapping[str, Any]) -> None:
    """Write one JSON object on a line of its own; ASCII, so that no text in it can act on a terminal."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


def note(text: str) -> None:
    """Tell the operator something that is no data. If nobody can hear it, the command goes on."""
    with suppress(OSError):
        sys.stderr.write(f"{safe_text(text)}\n")


def error(text: str, hint: str = "") -> None:
    """Tell the operator what went wrong, and what to do about it."""
    first, *rest = text.split("\n")
    note(f"aragora-q: error: {first}")
    for row in rest:
        note(f"  {row}")
    if hint:
        note(f"  hint: {hint}")


def safe_text(text: str) -> str:
    """`text` with everything escaped that could act on a terminal or disguise what is written:
    control characters, escape sequences, bidirectional and invisible formatting.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else _escaped(char) for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x1_0000 else f"\\U{ord(char):08x}"


def truncate(text: str, most: int) -> str:
    """`text`, escaped, on one line of at most `most` characters."""
    text = safe_text(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 1] + "…"


def width() -> int:
    """How wide text for people may be."""
    if not sys.stdout.isatty():
        return WIDTH
    return min(max(shutil.get_terminal_size().columns - 2, 40), WIDEST)


def wrapped(text: str, indent: int = 0) -> list[str]:
    """`text`, escaped, in lines that fit beside an indent; at least one."""
    return [
        part
        for row in text.splitlines() or [""]
        for part in textwrap.wrap(safe_text(row), width() - indent, break_on_hyphens=False) or [""]
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table: with rich on a terminal, else as plain aligned text."""
    safe = [[safe_text(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(head, safe)
        return
    columns = [max(len(row[n]) for row in [head, *safe]) for n in range(len(head))]
    for row in [head, *safe]:
        cells = (cell.ljust(column) for cell, column in zip(row, columns, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style = "bold" if has_colors() else ""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=style)
    for name in head:
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(grid)


def styled(text: str, style: str) -> str:
    """`text`, escaped, in an ANSI style (`1` bold, `2` dim, `31` red), if stdout shows colours."""
    safe = safe_text(text)
    return f"\033[{style}m{safe}\033[0m" if has_colors() else safe


def has_colors() -> bool:
    """Whether stdout is a terminal whose user did not ask for NO_COLOR (no-color.org)."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return terminal and not os.environ.get("NO_COLOR")


def duration(seconds: float) -> str:
    """A length of time as people say it: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (2 * DAY_SECONDS, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / DAY_SECONDS:.0f} d"


def ago(moment: float) -> str:
    """A moment, Unix seconds, as people say it: `3 min ago`, `in 5 h`."""
    distance = time.time() - moment
    return f"{duration(distance)} ago" if distance >= 0 else f"in {duration(-distance)}"


def count(number: int, singular: str) -> str:
    """`1 job`, `1,024 jobs`."""
    return f"{number:,} {singular}{'' if number == 1 else 's'}"
