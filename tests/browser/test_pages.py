"""Every page in a real browser: for all eyes, on a narrow screen, in both themes, and with hostile texts."""

import time

import pytest
from playwright.sync_api import expect
from support import experiments, shown_jobs

from aragora_q.base import Job
from aragora_q.contracts import Plan, ScheduleState
from aragora_q.web.roles import Role

PAYLOAD = '<script>window.ran = 1</script><img src=x onerror="window.ran = 2"><svg onload="window.ran = 3">'
LABEL = "<img/src=x/onerror=window.ran=4>"
TEXTS = {**shown_jobs.HOSTILE, "payload": PAYLOAD, "long": "ab" * 5_000}
PAGES = [
    "/", "/jobs", "/jobs?group=none", "/jobs?since=x", "/jobs/disagreeing", "/jobs/dropped", "/jobs/failed",
    "/jobs/running", "/jobs/held", "/groups", "/groups/nightly", "/groups/cities", "/groups/cities/table",
    "/groups/cities/compare", "/groups/cities/eval",
    "/workers", "/money", "/schedules", "/schedules/report", "/webhooks", "/webhooks/ops",
    "/changes", "/failed", "/held", "/new", "/login", "/no-such-page", "/jobs/long-completed",
]  # fmt: skip
HOSTILE = [f"/jobs/{name}-{end}" for name in TEXTS for end in ("failed", "completed")]


async def fill(queue):
    session = await shown_jobs.worker(queue)
    await experiments.fill_arms(queue, session, "cities", 8)
    for name, text in TEXTS.items():
        await shown_jobs.add_hostile(queue, session, name, text)
    await shown_jobs.fill(queue, session)
    await queue.enqueue_many([Job({"n": n}, id=f"many-{n}", group="many") for n in range(60)])
    await queue.cancel_many(["many-1"], by=PAYLOAD, reason=PAYLOAD)
    await queue.pause(by=PAYLOAD, reason=PAYLOAD)
    refused = Plan(ScheduleState("report"), 60_000, last_at=1, missed=1, error=PAYLOAD)
    await queue.schedules.plan([refused])
    await queue.schedules.pause("report", by=PAYLOAD, reason=PAYLOAD)
    await queue.outbox.disable("ops", by=PAYLOAD, reason=PAYLOAD)
    await shown_jobs.spend(queue)
    await shown_jobs.add_samples(queue)


def spoil(redis):
    """Write what no client of the queue writes: script in labels, groups, workers and events."""
    prefix = "aragora:queue:debates:"
    redis.hset(f"{prefix}labels", "waiting", f"group:{LABEL} tenant:{LABEL} tag:env={LABEL}")
    redis.zadd(f"{prefix}groups", {LABEL: int(time.time() * 1000)})
    redis.hset(f"{prefix}group:{LABEL}", mapping={"created_at": "1", "total": "1", "pending": "1"})
    redis.zadd(f"{prefix}workers", {PAYLOAD: int(time.time() * 1000)})
    redis.hset(
        f"{prefix}worker:{PAYLOAD}", mapping=dict.fromkeys(("host", "pid", "version"), PAYLOAD)
    )
    redis.hset(f"{prefix}schedules", mapping={f"next:{PAYLOAD}": "1", f"job:{PAYLOAD}": PAYLOAD})
    redis.hset(
        f"{prefix}webhooks", mapping={f"failures:{PAYLOAD}": "2", f"error:{PAYLOAD}": PAYLOAD}
    )
    redis.zadd(f"{prefix}sent:ops", {PAYLOAD: 1})
    fields = dict.fromkeys(("kind", "subject", "event", "result", "answer"), PAYLOAD)
    redis.hset(f"{prefix}delivery:{PAYLOAD}", mapping=fields)
    redis.xadd(f"{prefix}events", {"event": PAYLOAD, "ids": LABEL, "worker": PAYLOAD})


@pytest.fixture(scope="module")
def full_desk(desk):
    """A queue with jobs of every kind, and with hostile texts wherever a text can be."""
    desk.run(fill)
    spoil(desk.redis)
    return desk


@pytest.mark.parametrize("address", PAGES)
def test_a_page_is_for_all(full_desk, window, address):
    """WCAG 2.1 AA in both themes, also of what can be opened; no page is wider than a screen of 360 pixels."""
    window.open(address)
    window.page.evaluate(
        "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
    )
    assert window.faults() == []
    assert window.too_wide() == []


def test_the_header_fits_one_line(full_desk, window):
    """At 1,280 pixels, all pages that an operator can choose stand beside the queue and the login."""
    window.open("/")
    top = window.page.locator(".top")
    lines = {
        round(each.bounding_box()["y"] + each.bounding_box()["height"] / 2)
        for each in (*top.locator("nav a").all(), top.locator(".brand"), top.locator(".actor"))
    }
    assert max(lines) - min(lines) < 8, lines


def test_no_text_is_executed_or_breaks_a_page(full_desk, new_window):
    """Even without content policy, script in any text of a job, a label, a worker or an event stays text."""
    window = new_window(full_desk.address, state=full_desk.state(Role.OPERATOR), bypass_csp=True)
    window.page.set_viewport_size({"width": 360, "height": 740})
    for address in (
        *HOSTILE, "/", "/jobs", "/groups", f"/groups/{LABEL.replace('/', '%2F')}", "/jobs/waiting",
        "/jobs/many-1", "/schedules", "/schedules/report", "/webhooks", "/webhooks/ops",
        "/changes", "/workers", "/failed", "/held", f"/new?group={LABEL}", f"/jobs?tag={LABEL}",
    ):  # fmt: skip
        window.open(address)
        assert window.page.evaluate("window.ran") is None, address
        assert window.page.locator("script").count() == 2, address
        assert window.too_wide() == [], address
    for address in (
        "/", "/groups", "/workers", "/jobs/waiting", "/jobs/many-1", "/schedules", "/webhooks", "/webhooks/ops",
        "/changes",
    ):  # fmt: skip
        window.open(address)
        assert "onerror" in window.page.locator("main").inner_text(), address


def test_all_is_readable_without_script(full_desk, new_window):
    """Without script each page has its content, its times, and its filters."""
    window = new_window(full_desk.address, state=full_desk.state(Role.OPERATOR), is_scripted=False)
    page = window.page
    for address, text in (
        ("/", "Needs attention"), ("/jobs/disagreeing", "The debate"), ("/groups/nightly", "Jobs by status"),
        ("/workers", "web1"), ("/money", "tenant:acme"), ("/failed", "failed"), ("/new", "Question"),
        ("/held", "prices changed"),
    ):  # fmt: skip
        assert window.open(address) == 200
        assert text in page.locator("main").inner_text(), address
    window.open("/jobs")
    assert page.locator("time").first.inner_text().endswith("ago")
    page.get_by_label("Group").fill("many")
    page.get_by_label("pending").check()
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page.locator("#jobs tbody tr")).to_have_count(50)
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(9)
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(50)
    page.get_by_role("searchbox").fill("agreeing")
    page.get_by_role("button", name="Open").click()
    page.wait_for_url("**/jobs/agreeing")


def test_keyboard_only(full_desk, window):
    """The first key leads to the content; what has the focus is seen; a job is cancelled without a mouse."""
    page, keys = window.page, window.page.keyboard
    window.open("/jobs/waiting")
    keys.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("e => e === document.activeElement && e.getBoundingClientRect().top >= 0")
    keys.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(20):
        keys.press("Tab")
        style = page.evaluate("getComputedStyle(document.activeElement).outline")
        assert "none" not in style
        assert not style.startswith("0px")
        if page.evaluate("document.activeElement.innerText") == "Cancel…":
            break
    keys.press("Enter")
    keys.press("Tab")
    keys.type("not needed")
    keys.press("Escape")
    assert page.evaluate("document.activeElement.localName") == "summary"
    keys.press("Space")
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Enter")
    assert page.locator("#flash").inner_text() == "Job waiting is cancelled."
    assert "not needed" in page.locator("#history").inner_text()
    assert full_desk.run(lambda queue: queue.get_status("waiting")) == "cancelled"


def test_a_command_line_is_copied(full_desk, window):
    """The button next to a command line selects or copies it, and says so."""
    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    window.open("/jobs/command")
    button = window.page.locator(".cli [data-copy]:visible").first
    button.click()
    expect(button).to_have_text("Copied")
    assert (
        window.page.evaluate("navigator.clipboard.readText()") == "aragora-q status command --json"
    )
