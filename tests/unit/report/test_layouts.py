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
from aragora_q.base import Job, JobStatus
from aragora_q.experiments.rows import row_of
from aragora_q.report import markdown, page, plain
from aragora_q.report.calls import Calls, read_calls
from aragora_q.report.content import build_report
from aragora_q.report.document import Report, Row, Table
from aragora_q.report.group import Title, build_chapter, build_front

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
texts = hostile.map("\n".join).filter(lambda text: text.replace("; ", "").strip())
"""Not blank, and more than what stands between two problems: a result without a problem has no such section."""


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


@settings(max_examples=40)
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
        self.links, self.ids = [], []
        self.prose = []
        self.declarations = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attributes}
        self.links += [value for name, value in attributes if name == "href"]
        self.ids += [value for name, value in attributes if name == "id"]
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


@settings(max_examples=60)
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


@settings(max_examples=60)
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


# -- many debates in one document


def noted(made, arm, number, **note):
    """A job as a debate of an experiment."""
    made.payload["metadata"] = {"experiment": {"arm": arm, "number": number, "place": 0, **note}}
    return made


def group_of(*found):
    """Front and chapters of jobs with their journals, in this order; None for a journal: the job is gone."""
    rows = [row_of(made) for made, _ in found]
    title = Title("survey", "open", 1_795_834_981.0, 1_795_838_581.0, {})
    chapters = [
        build_chapter(
            n,
            row,
            None if entries is None else made,
            Calls() if entries is None else read_calls(entries, None),
        )
        for n, (row, (made, entries)) in enumerate(zip(rows, found, strict=True), start=1)
    ]
    return build_front(title, rows), chapters


def documents(front, chapters):
    """The document as HTML, as Markdown, and as HTML that is made of the Markdown."""
    html = "".join([page.front(front), *map(page.chapter, chapters), page.END])
    text = "".join([markdown.front(front), *map(markdown.chapter, chapters)])
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return html, text, reader.render(text)


def lines_of(front, chapters, width):
    return plain.front(front, width) + "".join(plain.chapter(each, width) for each in chapters)


def all_kinds():
    """Debates of two arms, one of them wrong; one that runs, one that failed, one that is gone; another job."""
    first, second = SAMPLES["agreeing"](), SAMPLES["dropped"]()
    noted(first[0], "debate", 1, expected=["Canberra"])
    noted(second[0], "vote", 1, expected=["Sydney"])
    second[0].result["dissent"] = [{"verdict": "Sydney"}]
    other = Job({"n": 1}, id="other", status=JobStatus.FAILED, error="no such file")
    gone = job("Gone?", ["a", "b"])
    return [first, second, SAMPLES["running"](), SAMPLES["failed"](), (gone, None), (other, {})]


def test_each_link_of_a_document_leads_to_its_chapter():
    """Contents and overview have a link to each chapter, each chapter one back, and ids are there once."""
    for html in documents(*group_of(*all_kinds()))[::2]:
        found = Elements(html)
        links = [link for link in found.links if link != "#overview"]
        assert sorted(links) == sorted(
            [f"#debate.{n}" for n in range(1, 7)] * 2 + ["#contents"] * 6
        )
        assert len(set(found.ids)) == len(found.ids)
        assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
        assert found.open == []


def test_a_document_has_its_headings_in_order():
    """One h1; chapters are h2, and nothing skips a level; regions have different names."""
    html, _, rendered = documents(*group_of(*all_kinds()))
    for found in (html, rendered):
        levels = [int(level) for level in re.findall(r"<h(\d)", found)]
        assert (levels[0], levels.count(1), levels.count(2)) == (1, 1, 2 + 6)
        assert all(after - before <= 1 for before, after in pairwise(levels))
    names = re.findall(r'aria-label="([^"]+)"', html)
    regions = [name for name in names if not name.startswith("Verdict")]
    assert len(set(regions)) == len(regions)


def test_the_overview_has_a_row_for_each_job():
    """Question, arm, verdict, agreement, whether it is right, dissent, price; of others status and error."""
    front, chapters = group_of(*all_kinds())
    [table] = front.overview.blocks
    rows = [dict(zip(table.head, row.cells, strict=True)) for row in table.rows]
    assert rows[0] == {
        "Debate": "What is the capital of Australia?", "Arm": "debate", "Status": "", "Verdict": "Canberra",
        "Agreement": "100%", "Right": "yes", "Cost": "$0.0372", "Calls": "12", "Time": "31 s",
    }  # fmt: skip
    assert table.rows[1].detail == "dissent: Sydney"
    assert (rows[1]["Right"], rows[1]["Cost"]) == ("no", ">= $0.0372")
    assert [row["Status"] for row in rows[2:]] == ["processing", "failed", "", "failed"]
    assert table.rows[5].detail == "no such file"
    assert [row["Debate"] for row in rows[4:]] == ["Gone?", "Job other"]
    facts = dict(front.intro[0].rows)
    assert facts["jobs"] == "6: 1 processing, 3 completed, 2 failed"
    assert facts["right"] == "1 of 2"
    assert (facts["arms"], facts["questions"]) == ("debate, vote", "3")
    assert chapters[0].title == "1. What is the capital of Australia? · debate"
    assert chapters[1].intro[0].text == "Not right: expected Sydney."


@settings(max_examples=30)
@given(texts)
def test_no_text_changes_a_document(text):
    """Hostile text adds no element, no link and no anchor, whatever heading or label it is in."""
    made, entries = poisoned(text)
    noted(made, text, 1, expected=[text])
    other = Job({"n": 1}, id="x", status=JobStatus.FAILED, error=text)
    group = group_of((made, entries), (other, {}))
    html, shown, rendered = documents(*group)
    as_page, as_markdown = Elements(html), Elements(rendered)
    assert set(as_page.elements) <= ELEMENTS | {"nav", "a", "h4"}
    assert as_page.attributes <= ATTRIBUTES | {"href", "id", "aria-labelledby"}
    assert (as_page.open, as_page.declarations) == ([], [])
    assert as_page.links == ["#overview", *["#debate.1", "#debate.2"] * 2, *["#contents"] * 2]
    assert as_page.ids == ["contents", "overview", "debate.1", "debate.2"]
    assert as_markdown.links == as_page.links[1:]
    assert as_markdown.ids == ["contents", "debate.1", "debate.2"]
    assert not {"h5", "h6", "img", "script", "ol", "em"} & set(as_markdown.elements)
    assert as_markdown.elements.count("h2") == 4
    assert not re.search(r"www\.|https?:|mailto:|\w@\w", "\n".join(as_markdown.prose))
    assert control_characters(re.sub(f"[{formats.JOINERS}]", "", shown)) == set()
    for width in (40, 78):
        lines = lines_of(*group, width)
        assert control_characters(lines) == set()
        assert max(formats.columns(line) for line in lines.splitlines()) <= width


def test_a_document_as_text():
    """The overview names a question once, before the rows of its debates; rules divide the chapters."""
    lines = lines_of(*group_of(*all_kinds()), 78).splitlines()
    assert lines[0] == "Group survey"
    place = lines.index("What is the capital of Australia?")
    assert lines[place + 2].split()[:2] == ["2", "vote"]
    assert lines[place + 1].split() == [
        "1",
        "debate",
        "Canberra",
        "100%",
        "yes",
        "$0.0372",
        "12",
        "31",
        "s",
    ]
    assert lines.count("═" * 78) == 6


def test_a_long_table_takes_time_in_proportion():
    """The columns that are blank are looked for once, not for each row."""

    class Rows(list):
        reads = 0

        def __iter__(self):
            Rows.reads += 1
            return super().__iter__()

    rows = Rows([Row(["1", "", "x"]) for _ in range(50)])
    assert markdown.render_table(Table("abc", rows)).count("\n| 1 | x |") == 50
    assert Rows.reads < 10


def test_a_price_alone_in_a_cell_is_written_as_it_is():
    """Two dollar signs make a formula; a text may have any number of them."""
    cells = ["$0", "$1,234.50", "$5 or $6", "$x$", "$"]
    [*_, row] = markdown.render_table(Table(["a"] * 5, [Row(cells)])).splitlines()
    assert row == "| $0 | $1,234.50 | &#36;5 or &#36;6 | &#36;x&#36; | &#36; |"
