"""The overview, the frame of every page, and what they need: no script, no style from elsewhere."""

import re
from pathlib import Path

from support import shown_jobs

from aragora_q.base import Job
from aragora_q.errors import TryAgain
from aragora_q.web import pages
from aragora_q.web.pages.rendering import ENVIRONMENT
from aragora_q.web.roles import Role
from aragora_q.web.snapshot import SharedReads

TEMPLATES = Path(pages.__file__).parent / "templates"


async def test_attention_comes_first(harness, operator):
    """What needs attention stands before everything else: failures, holds, missing workers, a pause."""
    session = await shown_jobs.worker(harness.queue)
    await shown_jobs.fill(harness.queue, session)
    await harness.queue.pause()
    page = await operator.get("/")
    said = page.words[page.words.index("Needs attention") : page.words.index("Waiting")]
    for text in (
        "Queue paused", "1 job failed within 15 min", "1 job is held", "Failed within 24 hours",
        "no seat could vote",
    ):  # fmt: skip
        assert text in said, text
    for text in (
        "Recently ended",
        "What is the capital of",
        "Latest events",
        "review, round 2 of 3",
    ):
        assert text in page.words, text
    assert 'action="/queue/resume"' in page.text


async def test_events_that_repeat_are_one_line(harness, operator):
    """A job that reports its progress often does not crowd out the latest events of others."""
    session = await shown_jobs.worker(harness.queue)
    await harness.enqueue("quiet")
    await harness.enqueue("busy")
    job = await shown_jobs.start(harness.queue, session, "busy")
    for n in range(30):
        await session.report_progress(job, {"note": str(n)})
    page = await operator.get("/")
    said = page.words[page.words.index("Latest events") :]
    assert said.count("progress busy") == 1
    assert "enqueued quiet" in said


async def test_events_say_of_what_and_by_whom(harness, operator):
    """A pause of one schedule is not that of another; what operators did has their name."""
    for name in ("weekly", "nightly"):
        await harness.queue.schedules.pause(name, by="ann@ops", reason="holidays")
    await harness.queue.pause(by="bob@ops")
    page = await operator.get("/")
    said = page.words[page.words.index("Latest events") :]
    for text in (
        "schedule paused weekly by ann@ops",
        "schedule paused nightly",
        "paused by bob@ops",
    ):
        assert text in said, text


async def test_a_new_queue(operator):
    """An empty queue is shown as one: nothing needs attention, and no list is without words."""
    page = await operator.get("/")
    assert page.status == 200
    for text in ("Nothing needs attention.", "No job runs now.", "No job has ended yet."):
        assert text in page.words, text


async def test_spans(operator):
    """The charts show the span of the address; another value is the default."""
    spans = {"": "2 hours", "48h": "48 hours", "90d": "90 days", "x": "2 hours"}
    for span, current in spans.items():
        page = await operator.get(f"/?span={span}")
        assert re.findall(r'aria-current="true">([^<]*)<', page.text) == [current]


async def test_the_overview_is_read_for_all_at_once(harness, new_console):
    """Many who follow the overview cost Redis as much as one; who comes from an action sees its effect."""
    console = new_console()
    console.console.shared = SharedReads(max_age_seconds=600.0)
    await console.browser().get("/")
    commands = harness.redis.info("stats")["total_commands_processed"]
    for _ in range(10):
        assert (await console.browser(Role.VIEWER).get("/")).status == 200
    assert harness.redis.info("stats")["total_commands_processed"] - commands < 10
    page = await console.browser().done("/queue/pause", reason="prices")
    assert "Queue paused" in page.words


async def test_a_viewer_sees_no_action(new_console):
    """Without the role of an operator there is no form that changes anything, except to end a login here."""
    browser = new_console().browser(Role.VIEWER)
    for cookies, forms in (({}, set()), ({"aragora_q_8080": "x"}, {"/logout"})):
        browser.cookies = cookies
        page = await browser.get("/")
        assert set(re.findall(r'<form method="post" action="([^"]*)"', page.text)) == forms


async def test_pages_are_not_kept(operator):
    """A page is not kept by caches: it shows data that only some may see, and that changes."""
    assert (await operator.get("/")).headers["cache-control"] == "no-store"


def test_templates_have_no_inline_code():
    """No template has a style, a script or an address that the content policy blocks, or turns escaping off."""
    for path in TEMPLATES.glob("*.html"):
        text = path.read_text()
        assert not re.search(
            r"\sstyle=|<style|\son\w+=|javascript:|\|\s*safe\b|autoescape", text
        ), path
        assert not re.search(r"https?://", text), path
        assert all("src=" in each for each in re.findall(r"<script[^>]*>", text)), path


def test_times_are_right_without_script():
    """A time is relative to the server's clock, and has the absolute time at hand."""
    shown = ENVIRONMENT.from_string("{{ at|time }} {{ none|time }} {{ far|time }}").render(
        at=1_000.0, none=None, far=1e18, now=1_180.0
    )
    assert (
        '<time datetime="1970-01-01T00:16:40Z" title="1970-01-01 00:16:40 UTC">3 min ago</time>'
        in shown
    )
    assert shown.endswith("?")


async def test_redis_is_away(new_console):
    """Without Redis, each page is an error that says so, and reloads itself also without script."""
    browser = new_console(redis_url="redis://127.0.0.1:1").browser()
    for address in ("/", "/jobs", "/jobs?since=1h", "/jobs/j1"):
        page = await browser.get(address)
        assert page.status == 503
        assert "Redis does not answer" in page.words
        assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page.text
        assert 'data-live="/events"' in page.text


async def test_what_is_no_outage_is_not_said_to_be_one(harness, operator, monkeypatch):
    """A command that Redis refuses, and a server that is full, have words that are not those of an outage."""
    harness.redis.set(harness.keys.groups, "of another program")
    page = await operator.get("/groups")
    harness.redis.delete(harness.keys.groups)
    assert page.status == 502
    assert "Redis refuses a command" in page.words
    assert "does not answer" not in page.words

    async def pause(**_):
        raise TryAgain("Redis refuses: OOM", hint="let workers drain")

    monkeypatch.setattr(harness.queue, "pause", pause)
    page = await operator.post("/queue/pause")
    assert page.status == 503
    assert "Not possible now" in page.words
    assert "let workers drain" in page.words
    assert "does not answer" not in page.words


async def test_warnings_lead_to_their_page(harness, new_console):
    """A warning of the overview has a link to the page that shows what it is about."""
    await harness.queue.enqueue(Job({"question": "Tea?"}))
    browser = new_console().browser()
    assert attention(await browser.get("/")) == {
        "No live worker: jobs will not run until one starts": "/workers"
    }
    assert "aragora-q worker" in (await browser.get("/workers")).words
    await shown_jobs.fill(harness.queue, await shown_jobs.worker(harness.queue))
    found = attention(await new_console().browser().get("/"))
    assert found["1 job failed within 15 min: run aragora-q list --status failed"] == "/failed"


def attention(page):
    """The address that each warning of the overview leads to; blank: none."""
    warnings = re.findall(
        r'<li class="notice[^>]*><span>([^<]*)</span>(?: <a href="([^"]*)")?', page.text
    )
    return dict(warnings)
