"""Lay a report out as Markdown, as GitHub renders it.

Texts of clients and models appear as they are written: no part of them becomes a heading, a link, a picture, a
table, HTML or the mention of a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from aragora_q.formats import JOINERS, safe_text
from aragora_q.report.document import (
    Block,
    Facts,
    Notice,
    Report,
    Section,
    Speech,
    Speeches,
    Table,
    Tone,
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

LINE_START = re.compile(r"^( *)([-+](?=[-+\s]|$)|\d+(?=[.)](?:\s|$)))")
"""What begins a list or a rule, or makes the line before it a heading."""

ALERTS = {Tone.CAUTION: "> [!WARNING]", Tone.BAD: "> [!CAUTION]"}


def render(report: Report) -> str:
    """Return a report as Markdown."""
    blocks = [f"# {_inline(report.title)}"]
    for block in report.intro:
        blocks += _block(block)
    for section in report.sections:
        blocks += _section(section)
    return "\n\n".join(filter(None, blocks)) + "\n"


def render_table(table: Table) -> str:
    """Return a table alone as Markdown."""
    return f"{_table(table)}\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {_inline(section.title)}"
    for block in section.blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Notice():
            alert = ALERTS.get(block.tone)
            text = _inline(block.text)
            yield f"{alert}\n> {text}" if alert else text
        case Facts():
            rows = [f"| {_inline(name)} | {_inline(value)} |" for name, value in block.rows]
            yield "\n".join(["| | |", "|---|---|", *rows])
        case Table():
            yield _table(block)
        case Speech():
            yield from _speech(block)
        case Speeches():
            for item in block.items:
                yield from _speech(item)


def _speech(speech: Speech) -> Iterator[str]:
    if speech.title:
        yield f"### {_inline(speech.title)}"
    if speech.notes:
        yield "<br>\n".join(_inline(note) for note in speech.notes)
    said = [f"**{_inline(speech.lead)}**"] if speech.lead else []
    if speech.body:
        said.append(_fenced(speech.body) if speech.has_code else _prose(speech.body))
    if said:
        yield _quoted("\n\n".join(said))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" if line else ">" for line in text.split("\n"))


def _table(table: Table) -> str:
    has_details = any(row.detail for row in table.rows)
    lines = [[table.head[n] for n in table.shown]]
    lines += [[row.cells[n] for n in table.shown] for row in table.rows]
    if has_details:
        lines[0].append(table.detail)
        for cells, row in zip(lines[1:], table.rows, strict=True):
            cells.append(row.detail)
    rules = ["--:" if name in table.numbers else "---" for name in lines[0]]
    escaped = [[_inline(cell) for cell in cells] for cells in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (escaped[0], rules, *escaped[1:]))


def _inline(text: str) -> str:
    """Return `text` on one line, escaped."""
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    text = safe_text(text, JOINERS).translate(SPECIAL)
    text = LINK.sub(lambda found: f"{found[0]}<!-- -->", text)
    # As entities, because a backslash before a digit would be shown.
    return LINE_START.sub(
        lambda found: found[1] + "".join(f"&#{ord(char)};" for char in found[2]), text
    )


def _prose(text: str) -> str:
    """Return `text`, escaped, with its lines and paragraphs."""
    lines = [_escaped(line.strip()) for line in text.splitlines()]
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
