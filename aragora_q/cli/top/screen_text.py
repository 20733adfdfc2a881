"""The last filter of every line before it reaches the terminal: no text can control it.

Texts of jobs are escaped where they are laid out (`formats.safe_text`). This filter holds for all that is
shown, whatever it was made of: input fields, names, what a library adds. It also replaces what a terminal
that is not UTF-8 cannot show.
"""

from __future__ import annotations

import locale
from codecs import lookup

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

ASCII = str.maketrans("─│╭╮╰╯▁▂▃▄▅▆▇█▔…", "-|++++" + 8 * "|" + "-~")
"""What borders and scroll bars are drawn with, and cut texts end with, where the terminal shows ASCII only."""


class SafeText(LineFilter):
    """Replaces every character that could control a terminal, or that it cannot show."""

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self._ascii_only = ascii_only

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        return [
            segment if self._is_safe(segment.text) else self._replaced(segment)
            for segment in segments
        ]

    def _is_safe(self, text: str) -> bool:
        return text.isprintable() and (text.isascii() or not self._ascii_only)

    def _replaced(self, segment: Segment) -> Segment:
        text = segment.text.translate(ASCII) if self._ascii_only else segment.text
        shown = (
            char if self._is_safe(char) or char == "\u3000" else "?" * cell_len(char)
            for char in text
        )
        return segment._replace(text="".join(shown))


def is_ascii_only() -> bool:
    """Return True if the locale's encoding is not UTF-8. Python writes UTF-8 in the locale C nevertheless."""
    try:
        return lookup(locale.getencoding()).name != "utf-8"
    except LookupError:
        return True
