"""Split input into lines of JSON, in batches and constant memory."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from aragora_q import codec
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig

_PLAIN_WORDS = {
    "expected value": "a value is missing or misspelled",
    "expected ident": "a word that is not true, false or null",
    "key must be a string": "names need double quotes",
    "invalid unicode code point": "text that is not UTF-8",
    "recursion limit exceeded": "nested too deeply",
}
"""Reasons of the decoder that only its authors understand."""

READ_BYTES = 65_536
BATCH_LINES = 100

Item = tuple[int, Callable[[], Any]]
"""The number of a line, and a function that decodes it."""


class Line(NamedTuple):
    """A line of the input; `text` is None if the line is too long."""

    number: int
    text: bytes | None


class LineSplitter:
    """Splits chunks of input into lines, without blank ones. Keeps at most one line of `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._number = 0
        self._rest = b""
        self._is_too_long = False

    def feed(self, chunk: bytes) -> list[Line]:
        """Return the lines that the chunk completes."""
        *texts, rest = (self._rest + chunk).split(b"\n")
        lines: list[Line] = []
        for text in texts:
            self._number += 1
            if self._is_too_long or len(text) > self.max_bytes:
                lines.append(Line(self._number, None))
            elif text.strip():
                lines.append(Line(self._number, text))
            self._is_too_long = False
        if self._is_too_long or len(rest) > self.max_bytes:
            rest, self._is_too_long = b"", True
        self._rest = rest
        return lines

    def end(self) -> list[Line]:
        """Return the last line, if no newline ends it."""
        if self._is_too_long or self._rest.strip():
            return [Line(self._number + 1, None if self._is_too_long else self._rest)]
        return []


def max_line_bytes(config: QueueConfig) -> int:
    """Return the length of the longest line that is read.

    Escapes may make the JSON of a valid payload longer than the limit, but not by this much.
    """
    return 4 * config.max_payload_bytes + READ_BYTES


def undecoded(lines: Sequence[Line], max_bytes: int) -> list[Item]:
    """Return lines with what decodes them."""
    return [(number, partial(_parse, text, max_bytes)) for number, text in lines]


def in_batches(items: list[Item]) -> Iterator[list[Item]]:
    """Yield items, BATCH_LINES at a time."""
    for start in range(0, len(items), BATCH_LINES):
        yield items[start : start + BATCH_LINES]


def _parse(raw: bytes | None, max_bytes: int) -> Any:
    if raw is None:
        raise InvalidPayload(f"line is longer than {max_bytes:,} bytes")
    return decode(raw)


def decode(raw: bytes) -> Any:
    """Return the value of JSON. Raises InvalidPayload."""
    try:
        return codec.decode(raw.removeprefix(codecs.BOM_UTF8))  # files with it, one after the other
    except ValueError as error:
        raise InvalidPayload(f"not JSON: {_in_plain_words(str(error))}") from None


def _in_plain_words(reason: str) -> str:
    """Return, for example, `it ends inside an object (column 7)`."""
    what, _, place = reason.partition(" at line ")
    line, _, column = place.partition(" column ")
    what = what.replace("EOF while parsing", "it ends inside")
    place = f"column {column}" if line == "1" else f"line {line}, column {column}"
    return f"{_PLAIN_WORDS.get(what, what)} ({place})" if column else what
