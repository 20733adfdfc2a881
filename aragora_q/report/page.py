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
    CONTENTS,
    Block,
    Facts,
    Front,
    Notice,
    Report,
    Row,
    Section,
    Speech,
    Speeches,
    Table,
    Topic,
    anchor,
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
h3, .chapter h4 { font-size: 1rem; margin: 0 0 .25rem; }
.chapter { margin-top: 4rem; padding-top: 1.5rem; border-top: 4px solid var(--line); }
.chapter > h2 { font-size: 1.4rem; line-height: 1.3; margin: 0 0 .25rem; padding: 0; border: 0; }
.chapter h3 { font-size: 1.1rem; margin: 2rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
.back { margin: 0 0 1rem; font-size: .9rem; }
a { color: var(--accent); } a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; top: .25rem; left: -100rem; } .skip:focus { left: 1.25rem; }
nav ul { color: inherit; font-size: 1em; } nav li { margin: .4rem 0; }
h1, h2, h3, h4, p, dd, td, tbody th { overflow-wrap: anywhere; }
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
table { border-collapse: collapse; font-size: .94em; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; }
tbody tr.first td, tbody tr.first th { border-top: 1px solid var(--line); }
td, tbody th { max-width: 26rem; } td:not(.number) { min-width: 5.5rem; }
tbody th a { display: inline-block; min-width: 10rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.detail td { max-width: none; padding-top: 0; color: var(--soft); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: .75rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.lead { font-weight: 600; }
.code { font: .875rem/1.5 ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace; }
section > .lead { font-size: 1.3rem; line-height: 1.35; }
ul { list-style: none; margin: .25rem 0; padding: 0; color: var(--soft); font-size: .9em;
  overflow-wrap: anywhere; }
@media (max-width: 26rem) { dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .5rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2, h3, h4 { break-after: avoid; }
  .wide { overflow: visible; } td:not(.number) { min-width: 4.8rem; } tbody th a { min-width: 8rem; }
  a { color: inherit; text-decoration: none; } .skip, .back { display: none; }
  .chapter { break-before: page; margin: 0; padding: 0; border: 0; }
  article, tr { break-inside: avoid; } .grid { grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); } }
"""

STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'"


END = "</main>\n</body>\n</html>\n"
"""Ends a page."""


def render(report: Report) -> str:
    """Return a report as an HTML page."""
    return f"{_head(report.title)}{_lines(_body(report))}{END}"


def front(found: Front) -> str:
    """Return the beginning of a page of many reports: chapters follow, then END."""
    return _head(found.title) + _lines(_front(found))


def chapter(report: Report) -> str:
    """Return a chapter of a page of many reports."""
    return _lines(_chapter(report))


def _lines(elements: Iterable[str]) -> str:
    return "".join(f"{element}\n" for element in elements)


def _head(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
    )


def _body(report: Report) -> Iterator[str]:
    yield f'<header>\n<h1 dir="auto">{_text(report.title)}</h1>'
    yield from elements(report.intro)
    yield "</header>\n<main>"
    for section in report.sections:
        yield from _section(section)


def _front(found: Front) -> Iterator[str]:
    yield '<a class="skip" href="#overview">Skip the contents</a>'
    yield f'<header>\n<h1 dir="auto">{_text(found.title)}</h1>'
    yield from elements(found.intro)
    yield f'</header>\n<nav aria-labelledby="{CONTENTS}">\n<h2 id="{CONTENTS}">Contents</h2>\n<ul>'
    yield from map(_topic, found.contents)
    yield '</ul>\n</nav>\n<main id="overview">'
    yield from _section(found.overview)


def _topic(topic: Topic) -> str:
    title = _text(topic.title)
    if len(topic.chapters) == 1:
        [(number, name)] = topic.chapters
        shown = _link(f"{number}. {title}{f' · {_text(name)}' if name else ''}", number)
    else:
        links = (
            _link(f"{number}.&nbsp;{_text(name)}" if name else str(number), number)
            for number, name in topic.chapters
        )
        shown = " · ".join([title, *links])
    return f'<li dir="auto">{shown}</li>'


def _link(content: str, number: int) -> str:
    return f'<a href="#{anchor(number)}">{content}</a>'


def _chapter(report: Report) -> Iterator[str]:
    yield f'<section class="chapter" id="{anchor(report.chapter)}">'
    yield f'<h2 dir="auto">{_text(report.title)}</h2>'
    yield f'<p class="back"><a href="#{CONTENTS}">Contents</a></p>'
    yield from elements(report.intro)
    for section in report.sections:
        yield from _section(section, 3, f", debate {report.chapter}")
    yield "</section>"


def _section(section: Section, level: int = 2, place: str = "") -> Iterator[str]:
    yield f"<section>\n<h{level}>{_text(section.title)}</h{level}>"
    yield from elements(section.blocks, section.title + place, level + 1)
    yield "</section>"


def elements(blocks: Iterable[Block], title: str = "", level: int = 3) -> Iterator[str]:
    """Yield the elements of blocks, for a page that has a style for them.

    `title` is that of their section, as no other section of the page has it; `level` is that of their headings.
    """
    for block in blocks:
        yield from _block(block, title, level)


def _block(block: Block, title: str, level: int) -> Iterator[str]:
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
            yield from _speech(block, level)
        case Speeches():
            yield '<div class="grid">'
            for item in block.items:
                yield "<article>"
                yield from _speech(item, level)
                yield "</article>"
            yield "</div>"


def _speech(speech: Speech, level: int) -> Iterator[str]:
    if speech.title:
        yield f'<h{level} dir="auto">{_text(speech.title)}</h{level}>'
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
    name = _text(row.cells[first])
    name = _link(f"{row.chapter}. {name}", row.chapter) if row.chapter else name
    yield f'<tr class="first"><th scope="row" dir="auto">{name}</th>{cells}</tr>'
    if row.detail:
        detail = f'<td colspan="{max(1, len(others))}" dir="auto">{_text(row.detail)}</td>'
        yield f'<tr class="detail"><td></td>{detail}</tr>'


def _number(table: Table, n: int) -> str:
    return ' class="number"' if table.head[n] in table.numbers else ""


def _text(text: str) -> str:
    return escape(safe_text(text, JOINERS))
