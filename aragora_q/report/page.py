"""Lay a report out as one HTML page: no script, nothing loaded, readable on paper and on a telephone.

The page forbids by its policy everything but its own style, should a text ever get past the escaping.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape

from aragora_q.formats import JOINERS, safe_text
from aragora_q.report.document import (
    Block,
    Facts,
    Notice,
    Report,
    Row,
    Speech,
    Speeches,
    Table,
)

STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5b6470; --line: #d8dde3; --page: #fff;
  --card: #f5f7f9; --good: #18794e; --caution: #915907; --bad: #b42318; --accent: #2457c5; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --soft: #9aa4b0; --line: #363d46;
  --page: #14171a; --card: #1d2126; --good: #4cc38a; --caution: #f1a10d; --bad: #ff8a7a; --accent: #8eb1ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
h1, h3, p, dd, td { overflow-wrap: anywhere; }
p { margin: .5rem 0; white-space: pre-wrap; tab-size: 4; max-width: 46rem; }
.notice { padding: .5rem .75rem; border-left: 4px solid var(--line); background: var(--card); }
.good { border-color: var(--good); } .caution { border-color: var(--caution); }
.bad { border-color: var(--bad); }
.good b { color: var(--good); } .caution b { color: var(--caution); } .bad b { color: var(--bad); }
.notice b { font-weight: 600; } .plain b { font-weight: 400; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; margin: .75rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
.wide { overflow-x: auto; margin: .75rem 0; }
.wide:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .94rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; }
tbody tr.first td, tbody tr.first th { border-top: 1px solid var(--line); }
td { max-width: 26rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.detail td { max-width: none; padding-top: 0; color: var(--soft); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: .75rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.lead { font-weight: 600; }
.code { font: .875rem/1.5 ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace; }
section > .lead { font-size: 1.3rem; line-height: 1.35; }
ul { list-style: none; margin: .25rem 0; padding: 0; color: var(--soft); font-size: .9rem;
  overflow-wrap: anywhere; }
@media screen and (max-width: 48rem) { td:not(.number) { min-width: 5.5rem; } }
@media (max-width: 26rem) { dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .5rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; }
  article, tr { break-inside: avoid; } .grid { grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); } }
"""

STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'"


def render(report: Report) -> str:
    """Return a report as an HTML page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(_body(report))
        + "\n</body>\n</html>\n"
    )


def _body(report: Report) -> Iterator[str]:
    yield f'<header>\n<h1 dir="auto">{_text(report.title)}</h1>'
    yield from elements(report.intro)
    yield "</header>\n<main>"
    for section in report.sections:
        yield f"<section>\n<h2>{_text(section.title)}</h2>"
        yield from elements(section.blocks, section.title)
        yield "</section>"
    yield "</main>"


def elements(blocks: Iterable[Block], title: str = "") -> Iterator[str]:
    """Yield the elements of blocks, for a page that has a style for them; `title` is that of their section."""
    for block in blocks:
        yield from _block(block, title)


def _block(block: Block, title: str = "") -> Iterator[str]:
    match block:
        case Notice():
            yield f'<p class="notice {block.tone}" dir="auto"><b>{_text(block.text)}</b></p>'
        case Facts():
            yield "<dl>"
            for name, value in block.rows:
                yield f'<dt>{_text(name)}</dt><dd dir="auto">{_text(value)}</dd>'
            yield "</dl>"
        case Table():
            yield from _table(block, title)
        case Speech():
            yield from _speech(block)
        case Speeches():
            yield '<div class="grid">'
            for item in block.items:
                yield "<article>"
                yield from _speech(item)
                yield "</article>"
            yield "</div>"


def _speech(speech: Speech) -> Iterator[str]:
    if speech.title:
        yield f'<h3 dir="auto">{_text(speech.title)}</h3>'
    if speech.notes:
        notes = "".join(f'<li dir="auto">{_text(note)}</li>' for note in speech.notes)
        yield f"<ul>{notes}</ul>"
    if speech.lead:
        yield f'<p class="lead" dir="auto">{_text(speech.lead)}</p>'
    if speech.body:
        code = ' class="code"' if speech.has_code else ""
        yield f'<p{code} dir="auto">{_text(speech.body)}</p>'


def _table(table: Table, title: str) -> Iterator[str]:
    # A wide table scrolls, also by keyboard.
    yield f'<div class="wide" role="region" aria-label="{_text(title)}" tabindex="0"><table>'
    cells = (f'<th scope="col"{_number(table, n)}>{_text(table.head[n])}</th>' for n in table.shown)
    yield f"<thead><tr>{''.join(cells)}</tr></thead>\n<tbody>"
    for row in table.rows:
        yield from _row(table, row)
    yield "</tbody></table></div>"


def _row(table: Table, row: Row) -> Iterator[str]:
    first, *others = table.shown
    cells = "".join(f'<td{_number(table, n)} dir="auto">{_text(row.cells[n])}</td>' for n in others)
    yield f'<tr class="first"><th scope="row">{_text(row.cells[first])}</th>{cells}</tr>'
    if row.detail:
        detail = f'<td colspan="{max(1, len(others))}" dir="auto">{_text(row.detail)}</td>'
        yield f'<tr class="detail"><td></td>{detail}</tr>'


def _number(table: Table, n: int) -> str:
    return ' class="number"' if table.head[n] in table.numbers else ""


def _text(text: str) -> str:
    return escape(safe_text(text, JOINERS))
