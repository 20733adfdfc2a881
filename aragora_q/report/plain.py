"""Lay a report out as text for a terminal, or for a file of plain text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from aragora_q.formats import columns, padded, wrapped
from aragora_q.report.document import (
    Block,
    Facts,
    Front,
    Notice,
    Report,
    Section,
    Speech,
    Speeches,
    Table,
    Tone,
)

PROSE_WIDTH = 96
"""Longer lines are hard to read. Tables and columns use the whole width."""

SPEECH_WIDTH = 36
"""Minimum width of one of several columns of text."""

GAP = 3
MIN_COLUMN = 6
INDENT = 2

BOLD, DIM = "1", "2"
COLORS = {Tone.GOOD: "32", Tone.CAUTION: "33", Tone.BAD: "31", Tone.PLAIN: ""}

Line = list[tuple[str, str]]
"""Escaped texts with their ANSI styles."""


def render(report: Report, width: int = 78, *, has_colors: bool = False) -> str:
    """Return a report as lines of at most `width` columns, with ANSI styles if `has_colors`."""
    return _text(_report(report, width), has_colors=has_colors)


def front(found: Front, width: int, *, has_colors: bool = False) -> str:
    """Return what stands before the chapters of a document. Its overview is the contents, too."""
    return _text(
        _report(Report(found.title, found.intro, [found.overview]), width), has_colors=has_colors
    )


def chapter(report: Report, width: int, *, has_colors: bool = False) -> str:
    """Return a chapter of a document; it follows the front, or another chapter."""
    rule: Line = [("═" * width, DIM)]
    return _text(itertools.chain([[], [], rule, []], _report(report, width)), has_colors=has_colors)


def _text(lines: Iterable[Line], *, has_colors: bool) -> str:
    return "".join(f"{_styled(line, has_colors=has_colors)}\n" for line in lines)


def _styled(line: Line, *, has_colors: bool) -> str:
    while line and not line[-1][0].strip():
        line = line[:-1]
    if line:
        text, style = line[-1]
        line = [*line[:-1], (text.rstrip(), style)]
    return "".join(
        f"\033[{style}m{text}\033[0m" if style and has_colors else text for text, style in line
    )


def _report(report: Report, width: int) -> Iterator[Line]:
    yield from _texts(report.title, min(width, PROSE_WIDTH), BOLD)
    for block in report.intro:
        yield []
        yield from _block(block, width)
    for section in report.sections:
        yield []
        yield from _section(section, width)


def _section(section: Section, width: int) -> Iterator[Line]:
    yield []
    yield from _texts(section.title, width, BOLD)
    yield [("─" * min(columns(section.title), width), DIM)]
    for n, block in enumerate(section.blocks):
        if n:
            yield []
        yield from _block(block, width)


def _block(block: Block, width: int) -> Iterator[Line]:
    match block:
        case Notice():
            yield from _texts(block.text, min(width, PROSE_WIDTH), COLORS[block.tone])
        case Facts():
            yield from _facts(block, min(width, PROSE_WIDTH))
        case Table():
            yield from _table(block, width)
        case Speech():
            yield from _speech(block, min(width, PROSE_WIDTH))
        case Speeches():
            yield from _speeches(block, width)


def _texts(text: str, width: int, style: str = "") -> Iterator[Line]:
    for row in wrapped(text, width):
        yield [(row, style)]


def _facts(facts: Facts, width: int) -> Iterator[Line]:
    name_width = min(max(columns(name) for name, _ in facts.rows), width // 3) + 2
    for name, value in facts.rows:
        names = wrapped(name, name_width - 2)
        values = wrapped(value, width - name_width)
        for n in range(max(len(names), len(values))):
            first = names[n] if n < len(names) else ""
            yield [(padded(first, name_width), DIM), (values[n] if n < len(values) else "", "")]


def _speech(speech: Speech, width: int) -> Iterator[Line]:
    if speech.title:
        yield from _texts(speech.title, width, BOLD)
    for note in speech.notes:
        yield from _texts(note, width, DIM)
    if speech.lead:
        yield from _texts(speech.lead, width, BOLD if not speech.title else "")
    if speech.lead and speech.body:
        yield []
    if speech.body:
        yield from _texts(speech.body, width)


def _speeches(speeches: Speeches, width: int) -> Iterator[Line]:
    """Yield speeches in columns, as many as fit; one after another if only one fits."""
    at_once = max(1, min(len(speeches.items), (width + GAP) // (SPEECH_WIDTH + GAP)))
    rows = -(-len(speeches.items) // at_once)
    at_once = -(-len(speeches.items) // rows) if rows else 1  # 4 in two rows, not 3 and 1
    column = min((width + GAP) // at_once - GAP, PROSE_WIDTH)
    for start in range(0, len(speeches.items), at_once):
        if start:
            yield []
        parts = [list(_speech(each, column)) for each in speeches.items[start : start + at_once]]
        for n in range(max(map(len, parts))):
            yield _side_by_side([part[n] if n < len(part) else [] for part in parts], column)


def _side_by_side(cells: Sequence[Line], column: int) -> Line:
    line: Line = []
    for n, cell in enumerate(cells):
        line += cell
        if n < len(cells) - 1:
            used = sum(columns(text) for text, _ in cell)
            line.append((" " * (column - used + GAP), ""))
    return line


def _table(table: Table, width: int) -> Iterator[Line]:
    # The name of a chapter is long: it has a line before its rows, which have the number.
    has_chapters = any(row.chapter for row in table.rows)
    shown = table.shown[has_chapters:]
    head = [*["No."] * has_chapters, *(table.head[n] for n in shown)]
    rows = [
        [*[str(row.chapter)] * has_chapters, *(row.cells[n] for n in shown)] for row in table.rows
    ]
    names = [row.cells[0] if has_chapters else "" for row in table.rows]
    if len(head) * (MIN_COLUMN + 2) > width + 2:
        yield from _narrow_table(table, head, rows, names, width)
        return
    are_numbers = [name in table.numbers or name == "No." for name in head]
    widths = _column_widths([head, *rows], are_numbers, width)
    yield from _row(head, widths, are_numbers, DIM)
    before = ""
    for cells, row, name in zip(rows, table.rows, names, strict=True):
        if name != before:
            yield []
            yield from _texts(name, min(width, PROSE_WIDTH), BOLD)
            before = name
        yield from _row(cells, widths, are_numbers)
        if row.detail:
            for text in wrapped(row.detail, min(width, PROSE_WIDTH) - INDENT - widths[0]):
                yield [(" " * (widths[0] + INDENT) + text, DIM)]


def _narrow_table(
    table: Table,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    names: Sequence[str],
    width: int,
) -> Iterator[Line]:
    for n, (cells, row, name) in enumerate(zip(rows, table.rows, names, strict=True)):
        if n:
            yield []
        if name:
            yield from _texts(name, width, BOLD)
        named = [*zip(head, cells, strict=True), (table.detail, row.detail)]
        yield from _facts(Facts([each for each in named if each[1]]), width)


def _row(
    cells: Sequence[str], widths: Sequence[int], are_numbers: Sequence[bool], style: str = ""
) -> Iterator[Line]:
    parts = [wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for n in range(max(map(len, parts))):
        texts = []
        for part, width, is_number in zip(parts, widths, are_numbers, strict=True):
            text = part[n] if n < len(part) else ""
            texts.append(" " * (width - columns(text)) + text if is_number else padded(text, width))
        yield [("  ".join(texts), style)]


def _column_widths(
    rows: Sequence[Sequence[str]], are_numbers: Sequence[bool], width: int
) -> list[int]:
    """Return the widths of a table's columns: the widest are made narrower until all fit.

    Columns of numbers come last: a number in two lines is misread.
    """
    widths = [
        max(2, *(columns(line) for row in rows for line in wrapped(row[n], width)))
        for n in range(len(rows[0]))
    ]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > MIN_COLUMN:
        texts = [
            n for n, is_number in enumerate(are_numbers) if not is_number and widths[n] > MIN_COLUMN
        ]
        widths[max(texts or range(len(widths)), key=widths.__getitem__)] -= 1
    return widths
