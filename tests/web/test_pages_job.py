"""The page of a job, and what pages do with texts that others wrote."""

import re
from html import escape
from html.parser import HTMLParser

import pytest
from support import shown_jobs
from support.shown_jobs import HOSTILE

from aragora_q.formats import JOINERS, safe_text
from aragora_q.web.roles import Role

ELEMENTS = frozenset({
    "html", "head", "meta", "title", "link", "script", "noscript", "body", "header", "main", "footer", "nav",
    "section", "article", "h1", "h2", "h3", "a", "p", "span", "div", "ul", "ol", "li", "dl", "dt", "dd", "b",
    "code", "pre", "time", "table", "thead", "tbody", "tfoot", "tr", "th", "td", "form", "fieldset", "legend",
    "label", "input", "select", "option", "output", "button", "details", "summary",
})  # fmt: skip
"""What templates write, without charts."""

VOID = frozenset({"meta", "link", "input", "br"})


class Parsed(HTMLParser):
    """A page's elements and attributes; fails for what is not balanced."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.headings, self._open = [], [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        self.ids += [value for name, value in attributes if name == "id"]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def check_structure(text):
    """Fail for what the content policy blocks, for elements that no template has, and for wrong structure."""
    page = Parsed(text)
    assert set(page.tags) <= ELEMENTS
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("h1") == 1
    assert all(
        after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False)
    )
    for tag, name, value in page.attributes:
        assert name != "style"
        assert not name.startswith("on")
        if name in ("href", "src", "action", "formaction"):
            assert value.startswith(("/", "#")), (tag, name, value)
            assert not value.startswith("//")
        if tag == "script":
            assert name in ("src", "defer")
    return page


@pytest.fixture
async def session(harness):
    """The session of a worker."""
    return await shown_jobs.worker(harness.queue)


@pytest.mark.parametrize("name", HOSTILE)
async def test_texts_of_others_stay_texts(harness, session, operator, name):
    """Whatever a client or a model writes, in any field, is text: no element, no control, no direction."""
    ids = await shown_jobs.add_hostile(harness.queue, session, name)
    for address in ("/", "/jobs", *(f"/jobs/{job_id}" for job_id in ids)):
        page = await operator.get(address)
        assert page.status == 200
        if address != "/":  # which has charts
            check_structure(page.text)
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2060-\u2069\ufeff\u200b]", page.text
        )
        assert "<img" not in page.text
    assert escape(safe_text(HOSTILE[name][:20], JOINERS)) in page.text


async def test_a_debate(harness, session, operator):
    """The page of a debate has its outcome, its course by seats and phases, and its data."""
    await shown_jobs.add_debate(
        harness.queue, session, "disagreeing", "d1", group="g1", tags={"a": "b"}
    )
    page = await operator.get("/jobs/d1")
    check_structure(page.text)
    for text in (
        "Should a team of four start a new product", "No consensus (majority), agreement 40%", "Dissent",
        "Both know Kubernetes.", "seat 5, eve", "changed its mind", "Round 1: revisions", "$0.0155",
        "Before and after the debate", "group g1", "a=b", "web1-1", "aragora-q show d1",
    ):  # fmt: skip
        assert text in page.words, text
    assert 'href="/groups/g1"' in page.text
    assert 'href="/jobs?tag=a%3Db"' in page.text


async def test_the_trace_of_a_debate(harness, session, operator):
    """The page has the id of the debate's trace, and says if it is not sampled; without one, no row for it."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    traceparent = f"00-{trace_id}-00f067aa0ba902b7"
    for job_id, trace in (("d1", f"{traceparent}-01"), ("d2", "<b>"), ("d3", f"{traceparent}-00")):
        await shown_jobs.add_debate(harness.queue, session, "running", job_id)
        harness.redis.hset(harness.keys.job(job_id), "trace", trace)
    page = await operator.get("/jobs/d1")
    check_structure(page.text)
    assert f"Trace {trace_id}" in page.words
    assert "not sampled" not in page.words
    assert f"Trace {trace_id} (not sampled)" in (await operator.get("/jobs/d3")).words
    assert "Trace" not in (await operator.get("/jobs/d2")).words


async def test_the_link_to_the_receipt(harness, session, operator):
    """A job that has ended has one, any other none."""
    await shown_jobs.fill(harness.queue, session)
    for job_id, has_one in (
        ("agreeing", True),
        ("failed", True),
        ("command", True),
        ("running", False),
    ):
        page = await operator.get(f"/jobs/{job_id}")
        check_structure(page.text)
        assert (f"/jobs/{job_id}/receipt" in page.text) == has_one
        assert (f"aragora-q receipt {job_id}" in page.words) == has_one


async def test_a_debate_as_it_happens(harness, session, operator):
    """A debate that runs shows which seats have not answered in the current phase, and the cost so far."""
    await shown_jobs.add_debate(harness.queue, session, "running", "d1")
    page = await operator.get("/jobs/d1")
    check_structure(page.text)
    assert page.text.count('class="note asked"') == 5
    assert "Round 2: reviews" in page.words
    assert "Cost so far $0.0465" in page.words
    assert 'data-live="/events?job=d1"' in page.text


async def test_another_job(harness, session, operator):
    """A job of another executor shows what went in and what came out."""
    await shown_jobs.fill(harness.queue, session)
    page = await operator.get("/jobs/command")
    check_structure(page.text)
    assert '"command": "resize"' in page.words
    assert '"resized": 2' in page.words


@pytest.mark.parametrize(
    ("job_id", "verbs"),
    [
        ("agreeing", {"purge"}),
        ("failed", {"requeue", "purge"}),
        ("cancelled", {"requeue", "purge"}),
        ("running", {"hold", "cancel"}),
        ("waiting", {"hold", "cancel"}),
        ("held", {"unhold", "cancel"}),
    ],
)
async def test_actions(harness, session, new_console, job_id, verbs):
    """A page has the actions that the job's state allows, with command lines; without the role, none."""
    await shown_jobs.fill(harness.queue, session)
    console = new_console()
    for role in Role:
        page = await console.browser(role).get(f"/jobs/{job_id}")
        found = set(re.findall(rf'action="/jobs/{job_id}/(\w+)"', page.text))
        assert found == (verbs if role is Role.OPERATOR else set())
        assert all(f"aragora-q {verb} {job_id}" in page.words for verb in found)
    no_credential = new_console(roles=(Role.VIEWER, Role.PRODUCER))
    page = await no_credential.browser(Role.OPERATOR).get(f"/jobs/{job_id}")
    assert f'action="/jobs/{job_id}/' not in page.text


async def test_a_job_that_waits_says_what_is_in_the_way(harness, operator):
    """A job that could start now names what keeps it from starting: no worker, or a paused queue."""
    await harness.enqueue("due")
    await harness.enqueue("later", delay_seconds=600)
    assert (
        "No live worker: the job will not run until one starts."
        in (await operator.get("/jobs/due")).words
    )
    assert "No live worker" not in (await operator.get("/jobs/later")).words
    await harness.queue.pause()
    assert "The queue is paused: no jobs start." in (await operator.get("/jobs/due")).words


async def test_history_says_who_and_why(harness, session, operator):
    """What an operator did is in the history of the page."""
    await shown_jobs.fill(harness.queue, session)
    page = await operator.get("/jobs/held")
    assert "ann@desk prices changed" in page.words


@pytest.mark.parametrize(
    "job_id", ["nope", "a%2Fb", "%3Cscript%3E", "..%2F..%2Fetc", "a%00b", "x" * 65]
)
async def test_unknown_jobs(operator, job_id):
    """An id that no job has, or can have, gives the page of an error."""
    page = await operator.get(f"/jobs/{job_id}")
    assert page.status == 404
    assert "<script>" not in page.text


async def test_corrupted_data_is_named(harness, session, operator):
    """A job whose data another program has broken is an error that says so, and not one of the console."""
    await shown_jobs.fill(harness.queue, session)
    harness.redis.hset(harness.keys.job("waiting"), "priority", "x")
    page = await operator.get("/jobs/waiting")
    harness.redis.hdel(harness.keys.job("waiting"), "priority")
    assert page.status == 422
    assert "corrupted" in page.words


async def test_a_failed_debate_is_requeued_from_a_phase(harness, session, operator):
    """The page offers the phases that the debate reached; an unknown phase changes nothing."""
    job_id = await shown_jobs.add_debate(harness.queue, session, "failed", "d1")
    page = await operator.get(f"/jobs/{job_id}")
    assert re.findall(r'<option value="([a-z0-9.]*)"', page.text) == [
        "", "propose", "r1.review", "vote",
    ]  # fmt: skip
    assert (await operator.post("/jobs/d1/requeue", from_phase="r0.vote")).status == 422
    done = await operator.done("/jobs/d1/requeue", from_phase="judge")
    assert "did not reach that phase" in done.words
    assert await harness.queue.get_status("d1") == "failed"
    done = await operator.done("/jobs/d1/requeue", from_phase="r1.review")
    assert "Job d1 is requeued" in done.words
    journal = await harness.queue.tracker.checkpoints("d1")
    assert {name.split("/")[0] for name in journal if "r1.review" in name} == {"past"}
