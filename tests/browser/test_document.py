"""The page of a group of debates in a real browser: a file, without server, on a screen, a phone and paper."""

import re

import pytest
from playwright.sync_api import expect
from support.sample_debates import SAMPLES

from aragora_q.experiments.rows import row_of
from aragora_q.report import page
from aragora_q.report.calls import read_calls
from aragora_q.report.group import Title, build_chapter, build_front

NAMES = ("disagreeing", "failed", "running")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of some samples, one of them with a long question that has no blanks."""
    found = [SAMPLES[name]() for name in NAMES]
    found[0][0].payload["question"] = "x" * 400
    rows = [row_of(made) for made, _ in found]
    front = build_front(Title("survey", "open", 1.0, 2.0, {}), rows)
    path = tmp_path_factory.mktemp("document") / "survey.html"
    path.write_text(
        page.front(front)
        + "".join(
            page.chapter(build_chapter(n, row, made, read_calls(entries, None)))
            for n, (row, (made, entries)) in enumerate(zip(rows, found, strict=True), start=1)
        )
        + page.END
    )
    return path.as_uri()


def test_a_document_is_for_all(new_window, address):
    """WCAG 2.1 AA in both themes; as narrow as a phone; the first key skips the contents; links work."""
    window = new_window(address)
    window.page.goto(address)
    assert window.faults() == []
    assert window.too_wide() == []
    page, keys = window.page, window.page.keyboard
    keys.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("e => e === document.activeElement && e.getBoundingClientRect().left >= 0")
    page.locator("tbody a").nth(1).click()
    expect(page).to_have_url(f"{address}#debate.2")
    assert page.locator("[id='debate.2']").evaluate(
        "e => Math.abs(e.getBoundingClientRect().top) < 2"
    )


def test_a_document_on_paper(new_window, address):
    """Each debate begins a page, and what is for the screen only is not printed."""
    window = new_window(address)
    window.page.goto(address)
    window.page.emulate_media(media="print")
    chapters = window.page.locator(".chapter")
    breaks = chapters.evaluate_all("all => all.map((e) => getComputedStyle(e).breakBefore)")
    assert set(breaks) == {"page"}
    assert not window.page.locator(".back").first.is_visible()
    printed = window.page.pdf()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > len(NAMES)
