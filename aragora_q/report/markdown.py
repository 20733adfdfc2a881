"""Lay a report out as Markdown, as GitHub renders it.

Texts of clients and models appear as they are written: no part of them becomes a heading, a link, a picture, a
table, HTML or the mention of a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from aragora_q.formats import JOINERS, safe_text
from aragora_q.report.document import (
    CONTENTS,
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
    Topic,
    anchor,
)

SPECIAL = str.maketrans(
    {
        **{char: f"\\{char}" for char in "\\`*_{}[]#~!^="},
        "<": "&lt;",
        ">": "&gt;",
        "&": "&amp;",
        "|": "&#124;",  # also within tables
        "$": "&#36;",  # begins a formula
        "@": "@<!-- -->",  # a mention notifies people, however it is escaped
    }
)
LINK = re.compile(r"www(?=\.)|(https?|ftp|mailto|xmpp)(?=:)", re.IGNORECASE)
"""What GitHub makes a link without any markup."""

AMOUNT = re.compile(r"\$[\d,.]+")
"""A price alone in a cell: one dollar sign does not begin a formula."""

LINE_START = re.compile(r"^(?:[-+](?=[-+\s]|$)|\d+(?=[.)](?:\s|$)))")
"""What begins a list or a rule, or makes the line before it a heading."""

ALERTS = {Tone.CAUTION: "> [!WARNING]", Tone.BAD: "> [!CAUTION]"}


def render(report: Report) -> str:
    """Return a report as Markdown."""
    return _joined(_report(report))


def front(found: Front) -> str:
    """Return what stands before the chapters of a document."""
    blocks = [f"# {_inline(found.title)}"]
    for block in found.intro:
        blocks += _block(block)
    blocks += [_anchor(CONTENTS), "## Contents", "\n".join(map(_topic, found.contents))]
    return _joined([*blocks, *_section(found.overview)])


def chapter(report: Report) -> str:
    """Return a chapter of a document; it follows the front, or another chapter."""
    blocks = [_anchor(anchor(report.chapter)), *_report(report, level=2)]
    return f"\n{_joined([*blocks, f'[Contents](#{CONTENTS})'])}"


def render_table(table: Table) -> str:
    """Return a table alone as Markdown."""
    return f"{_table(table)}\n"


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(filter(None, blocks)) + "\n"


def _report(report: Report, level: int = 1) -> Iterator[str]:
    yield f"{'#' * level} {_inline(report.title)}"
    for block in report.intro:
        yield from _block(block)
    for section in report.sections:
        yield from _section(section, level + 1)


def _anchor(name: str) -> str:
    return f'<a id="{name}"></a>'


def _topic(topic: Topic) -> str:
    if len(topic.chapters) == 1:
        [(number, name)] = topic.chapters
        title = f"{number}. {_inline(topic.title)}{f' · {_inline(name)}' if name else ''}"
        return f"- {_link(title, number)}"
    links = (
        _link(f"{number}. {_inline(name)}" if name else str(number), number)
        for number, name in topic.chapters
    )
    return f"- {' · '.join([_line(topic.title), *links])}"


def _link(text: str, number: int) -> str:
    return f"[{text}](#{anchor(number)})"


def _section(section: Section, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {_inline(section.title)}"
    for block in section.blocks:
        yield from _block(block, level + 1)


def _block(block: Block, level: int = 3) -> Iterator[str]:
    match block:
        case Notice():
            alert = ALERTS.get(block.tone)
            text = _line(block.text)
            yield f"{alert}\n> {text}" if alert else text
        case Facts():
            rows = [f"| {_inline(name)} | {_cell(value)} |" for name, value in block.rows]
            yield "\n".join(["| | |", "|---|---|", *rows])
        case Table():
            yield _table(block)
        case Speech():
            yield from _speech(block, level)
        case Speeches():
            for item in block.items:
                yield from _speech(item, level)


def _speech(speech: Speech, level: int) -> Iterator[str]:
    if speech.title:
        yield f"{'#' * level} {_inline(speech.title)}"
    if speech.notes:
        yield "<br>\n".join(_line(note) for note in speech.notes)
    said = [f"**{_inline(speech.lead)}**"] if speech.lead else []
    if speech.body:
        said.append(_fenced(speech.body) if speech.has_code else _prose(speech.body))
    if said:
        yield _quoted("\n\n".join(said))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" if line else ">" for line in text.split("\n"))


def _table(table: Table) -> str:
    has_details = any(row.detail for row in table.rows)
    head = [*(table.head[n] for n in table.shown), *[table.detail] * has_details]
    rules = ["--:" if name in table.numbers else "---" for name in head]
    lines = [[_inline(name) for name in head], rules]
    for row in table.rows:
        shown = [*(row.cells[n] for n in table.shown), *[row.detail] * has_details]
        cells = [_cell(cell) for cell in shown]
        if row.chapter:
            cells[0] = _link(f"{row.chapter}. {cells[0]}", row.chapter)
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    return text if AMOUNT.fullmatch(text) else _inline(text)


def _inline(text: str) -> str:
    """Return `text` on one line, escaped, to follow what begins a line: of a heading, a cell, a link."""
    return _escaped(" ".join(text.split()))


def _line(text: str) -> str:
    """Return `text` on one line, escaped, to begin a line."""
    return _begun(_inline(text))


def _escaped(text: str) -> str:
    text = safe_text(text, JOINERS).translate(SPECIAL)
    return LINK.sub(lambda found: f"{found[0]}<!-- -->", text)


def _begun(text: str) -> str:
    """Return escaped `text` so that it does not become a list at the start of a line."""
    # As entities, because a backslash before a digit would be shown.
    return LINE_START.sub(lambda found: "".join(f"&#{ord(char)};" for char in found[0]), text)


def _prose(text: str) -> str:
    """Return `text`, escaped, with its lines and paragraphs."""
    lines = [_begun(_escaped(line.strip())) for line in text.splitlines()]
    return "\n".join(
        f"{line}\\" if line and n + 1 < len(lines) and lines[n + 1] else line
        for n, line in enumerate(lines)
    )


def _fenced(text: str) -> str:
    """Return `text` as a block of code, between fences that it does not contain."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [safe_text(line.expandtabs(4), JOINERS) for line in text.splitlines()]
    return "\n".join([f"{fence}text", *lines, fence])
