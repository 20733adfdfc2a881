"""Layouts: readable at every width, and no text of a job becomes anything but text."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support.sample_debates import SAMPLES, call, job, result

from aragora_q import formats
from aragora_q.base import JobStatus
from aragora_q.report import build_report, markdown, page, plain, read_calls
from aragora_q.report.document import Report, Row, Table

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert(1)) www.evil.example https://evil.example _www.evil.example",
    "mailto:a@evil.example @maintainer",
    "# heading\n## heading\nheading\n===\nheading\n---\n- list\n1. list\n+ list\n***",
    "| a | b |\n|---|---|\n| c | d |",
    "````\n`````\n```js\nalert(1)\n",
    "```\n<b>code</b>\n```",
    "`code` ``code`` **bold** _em_ ~~gone~~ $x^2$ &lt; &#60; \\<b>",
    "> quote\n> [!NOTE]\n<!-- comment",
    '" onmouseover="alert(1)" x="\' y=\'',
    "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\x00",
    "\u202eevil\u2066\u2069\u200b\ufeff\U000e0041",
    "x" * 500,
    "日本語の回答。👩\u200d💻❤\ufe0f é́ עברית العربية",
    "    indented\n\ttab\n<div>\n\n<style>*{display:none}</style>",
    "[^1]: note\n[ref]: https://evil.example\n[ref]",
    "a|b\\|c\\\\|d\\",
]
hostile = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30)), min_size=1, max_size=3
)
texts = hostile.map("\n".join).filter(str.strip)


def report_of(made, entries):
    return build_report(made, read_calls(entries, None))


def poisoned(text):
    """A debate in which every text that a client or a model writes is `text`."""
    found = result(text, [(text, [0, 1])], [(0, 90), (None, None)], reasons=text, error=text)
    found["dissent"] = [{"verdict": text, "seats": [1], "voters": [1], "reasons": [text, text]}]
    found["flags"] = [{"seat": 0, "phase": "propose", "round": 0, "why": text}]
    found["first_votes"] = [{"seat": 0, "verdict": text}]
    found["changed"] = [{"seat": 0, "before": text, "after": text}]
    found["record"]["labels"] = {text: 0}
    for vote, seat in zip(found["votes"], found["seats"], strict=True):
        vote |= {"agent": text, "model": text, "reason": text}
        seat |= {
            "agent": text,
            "model": text,
            "settings": {text: text},
            "dropped": text,
            "answered_by": [text],
        }
    made = job(text, [text, text], result=found, answer_form="choice", options=[text], judge=text)
    entries = dict([
        call("propose", 0, {"answer": text, "reasons": text}, step=0, agent=text),
        call("review", 0, {"points": text, "best": 1}, step=1, number=1, agent=text),
        call("vote", 1, None, step=2, agent=text, unusable=text, said=text),
        call("discuss", 0, {"points": text, "answer": text, "reasons": text}, step=3, number=2),
    ])  # fmt: skip
    return made, entries


def control_characters(text):
    return {char for char in text.replace("\n", "") if formats.safe_text(char) != char}


# -- text


@pytest.mark.parametrize("width", [40, 78, 120, 200])
@pytest.mark.parametrize("name", SAMPLES)
def test_lines_of_text_fit(name, width):
    """No line is wider than the terminal; colors do not change the text."""
    report = report_of(*SAMPLES[name]())
    text = plain.render(report, width)
    assert max(formats.columns(line) for line in text.splitlines()) <= width
    colored = plain.render(report, width, has_colors=True)
    assert re.sub(r"\x1b\[\d+m", "", colored) == text
    assert "\x1b[1m" in colored
    assert not any(line.endswith(" ") for line in text.splitlines())


@settings(max_examples=40, deadline=None)
@given(texts, st.sampled_from([40, 78, 150]))
def test_no_text_controls_the_terminal(text, width):
    """Control characters are escaped, and lines stay within the width, wide characters or not."""
    shown = plain.render(report_of(*poisoned(text)), width)
    assert control_characters(shown) == set()
    assert max(formats.columns(line) for line in shown.splitlines()) <= width


@pytest.mark.parametrize("width", [62, 78])
def test_numbers_are_in_one_line(width):
    """Long names make room for them: a number in two lines is misread."""
    rows = [
        Row(["an-agent-with-a-long-name", "openai:a-long-name", "12,345,678", "$12,345.00"]),
        Row(["ann", "", "7", "< $0.0001"]),
    ]
    table = Table(("Agent", "Model", "Tokens", "Cost"), rows, frozenset({"Tokens", "Cost"}))
    shown = plain.render(Report("Quote", [table], []), width).splitlines()
    assert max(map(len, shown)) <= width
    for text in ("12,345,678", "$12,345.00", "< $0.0001"):
        assert any(text in line for line in shown)


def test_rounds_are_side_by_side_where_there_is_room():
    """Three seats: one row at 150 columns, two at 78, one after another at 40."""
    report = report_of(*SAMPLES["agreeing"]())

    def rows(width):
        lines = plain.render(report, width).splitlines()
        start = lines.index("Independent answers")
        return [
            line.count("Seat ") for line in lines[start : start + 30] if line.startswith("Seat ")
        ]

    assert rows(150)[0] == 3
    assert rows(78)[:2] == [2, 1]
    assert rows(40)[:3] == [1, 1, 1]


# -- HTML

ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "section", "article", "div",
    "h1", "h2", "h3", "p", "b", "ul", "li", "dl", "dt", "dd",
    "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "dir", "class", "role", "aria-label", "tabindex",
    "scope", "colspan",
}  # fmt: skip


class Elements(HTMLParser):
    """Elements and attributes of a page, those that are open, and its text, with and without code."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.open, self.texts = [], set(), [], []
        self.prose = []
        self.declarations = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        self.prose += [] if "code" in self.open else [data]

    def handle_comment(self, data):
        self.declarations.append(data)


@settings(max_examples=60, deadline=None)
@given(texts)
def test_no_text_becomes_markup(text):
    """Hostile text adds no element, attribute or comment; elements are closed in order."""
    found = Elements(page.render(report_of(*poisoned(text))))
    assert set(found.elements) <= ELEMENTS
    assert found.attributes <= ATTRIBUTES
    assert found.open == []
    assert found.declarations == []
    assert formats.safe_text(text.strip(), formats.JOINERS) in "".join(found.texts)


def test_the_page_is_closed_to_everything_but_its_style():
    """The policy allows exactly the style that is there; nothing is loaded."""
    text = page.render(report_of(*SAMPLES["dropped"]()))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text
    assert "url(" not in style
    assert "@import" not in style
    assert "<script" not in text
    for needed in ("prefers-color-scheme: dark", "@media print", "max-width", 'lang="en"'):
        assert needed in text


@pytest.mark.parametrize("name", SAMPLES)
def test_headings_and_tables_are_marked(name):
    """One h1, no level skipped; each table has column and row headers and can be scrolled by keyboard."""
    found = page.render(report_of(*SAMPLES[name]()))
    levels = [int(level) for level in re.findall(r"<h(\d)", found)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert found.count("<table>") == found.count('tabindex="0"><table>')
    assert 'scope="col"' in found or name == "running"
    assert "<th>" not in found


# -- Markdown


@settings(max_examples=60, deadline=None)
@given(texts)
def test_no_text_becomes_markdown(text):
    """As GitHub reads it: hostile text becomes no heading, link, picture, list, emphasis or HTML."""
    plain_one = markdown.render(report_of(*poisoned("x")))
    shown = markdown.render(report_of(*poisoned(text)))
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found = Elements(reader.render(shown))
    assert set(found.elements) <= {
        "h1", "h2", "h3", "p", "strong", "blockquote", "br", "pre", "code",
        "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    headings = [line for line in plain_one.splitlines() if line.startswith("#")]
    extra = sum(line == "## Question" for line in shown.splitlines())
    assert sum(found.elements.count(f"h{n}") for n in (1, 2, 3)) == len(headings) + extra
    assert set(found.declarations) <= {" "}
    line = formats.safe_text(" ".join(text.split()), formats.JOINERS)
    assert f"\n{line}\n" in f"\n{''.join(found.texts)}\n"  # all of it, as the verdict
    assert not re.search(r"www\.|https?:|mailto:|\w@\w", "\n".join(found.prose))
    assert control_characters(re.sub(f"[{formats.JOINERS}]", "", shown)) == set()


def test_prose_and_code_survive_markdown():
    """Prose keeps its lines and characters; code is in a fence that is longer than any inside."""
    made, entries = SAMPLES["agreeing"]()
    code = "Use:\n\n````\n    <b>x</b>\n````"
    name, entry = call("propose", 0, {"answer": "1. *a* | b", "reasons": code}, step=0)
    html = MarkdownIt("commonmark").render(
        markdown.render(report_of(made, entries | {name: entry}))
    )
    text = "".join(Elements(html).texts)
    assert "1. *a* | b" in text
    assert code in text
    assert "- Sydney is larger\n- Melbourne was the first seat" in text


def test_a_question_of_many_lines_is_shown_in_full():
    """The title is its first line; a long line is shortened there only."""
    question = f"{'long ' * 60}end\n\nmore"
    made = job(question, ["a", "b"], JobStatus.PENDING)
    for layout in (plain, markdown, page):
        shown = " ".join(layout.render(report_of(made, {})).split())
        assert "end" in shown
        assert "more" in shown
        assert "…" in shown
