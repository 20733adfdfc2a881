"""Write data to stdout and messages to stderr, with control characters in job texts escaped.

Used by all commands. Does not depend on the queue. The formats of `formats` are exported here, too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from aragora_q import formats
from aragora_q.formats import ago, columns, count, duration, padded, safe_text, truncate

__all__ = ["ago", "count", "duration", "safe_text", "truncate"]  # to import from here, too

DEFAULT_WIDTH = 78
"""Width of text where stdout is not a terminal."""

MAX_WIDTH = 120
"""Width of text on a wide terminal."""


MAX_ERROR_CHARS = 4_000
"""Longest line of an error message: it may contain what a caller passed, such as the name of a file."""


_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _write(text: str) -> None:
    _make_blocking()
    sys.stdout.write(text)


def flush() -> None:
    """Write what is buffered for stdout."""
    _make_blocking()
    sys.stdout.flush()


def _make_blocking() -> None:
    """Undo what a process that shares stdout may do at any time: Python would drop what does not fit."""
    with suppress(OSError):  # a test's stream has no descriptor
        os.set_blocking(sys.stdout.fileno(), True)


class StoppedBySignal(Exception):
    """The command stopped cleanly on signal `number`; the process must exit by this signal."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def line(text: str = "") -> None:
    """Write one line of data, escaped."""
    _write(f"{safe_text(text)}\n")


def write(text: str) -> None:
    """Write one line of data that is already escaped and may contain ANSI styles."""
    _write(f"{text}\n")


def data(content: bytes) -> None:
    """Write bytes as they are, whatever the encoding of the locale."""
    flush()
    sys.stdout.buffer.write(content)


def lines(rows: Iterable[str]) -> None:
    """Write lines of data, escaped, all at once."""
    _write("".join([f"{safe_text(row)}\n" for row in rows]))


def json_line(value: Mapping[str, Any]) -> None:
    """Write one JSON object on one line."""
    _write(f"{json_text(value)}\n")


def json_lines(values: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects, each on one line, all at once."""
    _write("".join([f"{json_text(value)}\n" for value in values]))


def json_text(value: Mapping[str, Any]) -> str:
    """Return JSON on one line, as ASCII: no text in it can control a terminal."""
    return _ENCODER.encode(value)


def info(text: str) -> None:
    """Write a message to stderr. If stderr is closed or full, the message is dropped."""
    with suppress(OSError):
        sys.stderr.write(f"{safe_text(text)}\n")


note = info  # the name that cli/bench.py uses


def error(text: str, hint: str = "") -> None:
    """Write an error message to stderr, followed by what to do about it."""
    first, *rest = [row[:MAX_ERROR_CHARS] for row in text.split("\n")]
    info(f"aragora-q: error: {first}")
    for row in rest:
        info(f"  {row}")
    if hint:
        info(f"  hint: {hint}")


def without_urls(text: str) -> str:
    """Return `text` without what follows the scheme of a URL: it may hold a password."""
    return re.sub(r"://(?:.*@)?\S*", "://…", text, flags=re.DOTALL)


def width(limit: int = MAX_WIDTH) -> int:
    """Return the maximum width of text, in columns; on a terminal, its width up to `limit`."""
    if not sys.stdout.isatty():
        return DEFAULT_WIDTH
    return min(max(shutil.get_terminal_size().columns - 2, 40), limit)


def wrapped(text: str, indent: int = 0) -> list[str]:
    """Return `text`, escaped, as one or more lines that fit next to an indent of `indent` columns."""
    return formats.wrapped(text, width() - indent)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table as aligned text. No cell is broken: the terminal continues a row that is too wide."""
    cells = [head, *([safe_text(cell) for cell in row] for row in rows)]
    widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
    first, *others = ("  ".join(map(padded, row, widths)).rstrip() for row in cells)
    write(styled(first, "1"))
    for text in others:
        write(text)


class ProgressBar:
    """A bar on stderr if it is a terminal, with the time that has passed; nothing is left of it at the end.

    With `is_shown` False, there is none: results that scroll over the same screen would break it.
    """

    def __init__(self, total: int, *, is_shown: bool = True) -> None:
        self._bar: Any = None
        if not is_shown or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        )
        console = Console(file=sys.stderr, highlight=False)
        # Rich would write what is for stdout, which may be a file, to its console.
        self._bar = Progress(*columns, console=console, transient=True, redirect_stdout=False)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, text: str, total: int | None = None) -> None:
        """Show that `done` of `total` (None: as before) are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=safe_text(text), total=total)


def styled(text: str, style: str) -> str:
    """Return `text`, escaped; in an ANSI style (`1` bold, `2` dim, `31` red) if stdout shows colors."""
    safe = safe_text(text)
    return f"\033[{style}m{safe}\033[0m" if has_colors() else safe


def has_colors() -> bool:
    """Return True if stdout is a terminal and NO_COLOR (no-color.org) is not set."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return terminal and not os.environ.get("NO_COLOR")
