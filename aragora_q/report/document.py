"""The parts of a report: sections of facts, tables and speeches, without any layout.

Built by `content` and `group`, laid out by `plain`, `markdown` and `page`. Each text may hold anything that
a client or a model wrote; the layouts escape it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

CODE = re.compile(r"^(```|~~~|    |\t)", re.MULTILINE)
"""What a text with code has, as models write it."""


class Tone(StrEnum):
    """How a notice is meant."""

    GOOD = "good"
    CAUTION = "caution"
    BAD = "bad"
    PLAIN = "plain"


@dataclass(frozen=True)
class Notice:
    """A short statement that stands out."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Row:
    """A row of a table. `detail` is a longer text about it."""

    cells: Sequence[str]
    detail: str = ""
    chapter: int = 0
    """The chapter of the document that the first cell names, and leads to; 0: none."""


@dataclass(frozen=True)
class Table:
    """A table. The columns named in `numbers` hold numbers."""

    head: Sequence[str]
    rows: Sequence[Row]
    numbers: frozenset[str] = frozenset()
    detail: str = ""
    """The name of the rows' details."""

    @cached_property
    def shown(self) -> list[int]:
        """The indexes of the columns to show: the first, and each that is not blank in every row."""
        indexes = range(len(self.head))
        return [n for n in indexes if n == 0 or any(row.cells[n] for row in self.rows)]


@dataclass(frozen=True)
class Speech:
    """What someone said: what it comes to, and all of it. `notes` are ours."""

    lead: str = ""
    body: str = ""
    title: str = ""
    notes: Sequence[str] = ()

    @property
    def has_code(self) -> bool:
        """True if columns and blanks of the body matter."""
        return bool(CODE.search(self.body))


@dataclass(frozen=True)
class Speeches:
    """Speeches that are compared: side by side where there is room."""

    items: Sequence[Speech]


Block = Notice | Facts | Table | Speech | Speeches


@dataclass(frozen=True)
class Section:
    """A part of a report with a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """A report. `intro` stands before the first heading."""

    title: str
    intro: Sequence[Block]
    outcome: Sequence[Section]
    """What was asked and decided."""
    course: Sequence[Section] = ()
    """How it came about, and what it took."""
    chapter: int = 0
    """Its number in a document; 0: it stands alone."""

    @property
    def sections(self) -> Sequence[Section]:
        """All sections, in their order."""
        return [*self.outcome, *self.course]


@dataclass(frozen=True)
class Topic:
    """A line of the contents: what its chapters are about, and the number and name of each."""

    title: str
    chapters: Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Front:
    """What stands before the chapters of a document, which are reports with a number, from 1."""

    title: str
    intro: Sequence[Block]
    contents: Sequence[Topic]
    overview: Section


CONTENTS = "contents"
"""The anchor of the contents."""


def anchor(chapter: int) -> str:
    """Return the anchor of a chapter: GitHub makes anchors of headings, too, and none of them has a point."""
    return f"debate.{chapter}"
