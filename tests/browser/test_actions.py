"""Every action as a person does it, with script and without: its effect is in Redis."""

import re

import pytest
from support import shown_jobs

from aragora_q.base import Job
from aragora_q.contracts import Failed, Report
from aragora_q.gates.accounts import Accounts
from aragora_q.gates.book import Book
from aragora_q.web.roles import Role


@pytest.fixture(params=["script", "no script"])
def window(desk, new_window, request):
    """The window of an operator, with script and without."""
    desk.redis.flushall()
    is_scripted = request.param == "script"
    return new_window(desk.address, state=desk.state(Role.OPERATOR), is_scripted=is_scripted)


def act(page, action, reason="", **fields):
    """Open an action, fill its form and send it; return what the next page says."""
    page.locator(f"#{action} > summary").click()
    form = page.locator(f"#{action} form")
    for name, value in fields.items():
        field = form.locator(f"[name={name}]")
        field.select_option(value) if field.evaluate(
            "e => e.localName"
        ) == "select" else field.fill(value)
    if reason:
        form.locator("[name=reason]").fill(reason)
    press(form.locator("button:not(.copy)"))
    return said(page)


def press(button):
    """Press a button, and wait for the page that it leads to."""
    with button.page.expect_navigation():
        button.click()


def said(page):
    return page.locator("#flash").inner_text()


def confirm(page, question, reason=""):
    """Confirm what a page asks; return what the next page says."""
    assert question in page.locator(".question").inner_text()
    if reason:
        page.locator(".confirmation [name=reason]").fill(reason)
    press(page.locator(".confirmation button:not(.copy)"))
    return said(page)


def enqueue(desk, *ids, **labels):
    desk.run(
        lambda queue: queue.enqueue_many([Job({"n": 1}, id=job_id, **labels) for job_id in ids])
    )


def statuses(desk, *ids):
    return list(desk.run(lambda queue: queue.get_statuses(ids)).values())


def test_one_job(desk, window):
    """A job is held, freed, cancelled, requeued and deleted; its history has who did it, and why."""
    enqueue(desk, "j1")
    window.open("/jobs/j1")
    for action, text, status in (
        ("hold", "Job j1 is held.", "held"), ("unhold", "Job j1 is unheld.", "pending"),
        ("cancel", "Job j1 is cancelled.", "cancelled"), ("requeue", "Job j1 is requeued.", "pending"),
        ("cancel", "Job j1 is cancelled.", "cancelled"),
    ):  # fmt: skip
        assert act(window.page, action, f"to {action} <b>") == text
        assert statuses(desk, "j1") == [status]
        assert f"to {action} <b>" in window.page.locator("#history").inner_text()
    assert "the-operator from 127.0.0.1" in window.page.locator("#history").inner_text()
    window.page.locator("#purge > summary").click()
    window.page.locator("#purge button.danger").click()
    assert confirm(window.page, "Delete 1 job?") == "1 job deleted."
    assert not desk.redis.exists("aragora:queue:debates:job:j1")


def test_checked_jobs(desk, window):
    """Checked jobs are held together, once confirmed with their number; others are left alone."""
    enqueue(desk, "j1", "j2", "j3")
    window.open("/jobs?status=pending")
    for job_id in ("j1", "j3"):
        window.page.get_by_label(f"Select job {job_id}").check()
    window.page.get_by_role("button", name="Hold…").click()
    assert set(window.page.locator(".ids").inner_text().split()) == {"j1", "j3"}
    assert window.faults() + window.too_wide() == []
    assert statuses(desk, "j1", "j2", "j3") == ["pending"] * 3
    assert confirm(window.page, "Hold 2 jobs?", "wait for prices") == "2 jobs held."
    assert statuses(desk, "j1", "j2", "j3") == ["held", "pending", "held"]
    assert window.page.url.endswith("/jobs?status=pending")


def test_all_jobs_that_match(desk, window):
    """All of a filter are cancelled; if the number has grown since the question, it is asked again."""
    enqueue(desk, "j1", "j2", group="g")
    enqueue(desk, "other")
    window.open("/jobs?group=g")
    window.page.get_by_role("button", name="Cancel all…").click()
    enqueue(desk, "j3", group="g")
    window.page.locator(".confirmation button.danger").click()
    assert "grown from 2 to 3" in window.page.locator(".notice").inner_text()
    assert statuses(desk, "j1", "j2", "j3") == ["pending"] * 3
    assert window.faults() == []
    assert confirm(window.page, "Cancel 3 jobs of group g") == "3 jobs cancelled."
    assert statuses(desk, "j1", "j3", "other") == ["cancelled", "cancelled", "pending"]


def test_failed_and_held_jobs(desk, window):
    """Jobs that failed alike are requeued together; held jobs are freed together."""

    async def fill(queue):
        session = await shown_jobs.worker(queue)
        for n in (1, 2):
            await queue.enqueue(Job({"n": n}, id=f"f{n}"))
            job = await shown_jobs.start(queue, session, f"f{n}")
            await session.report([Report(job, Failed("no such model"))])
            await queue.enqueue(Job({"n": n}, id=f"h{n}"))
            await queue.hold(f"h{n}", by="ann")

    desk.run(fill)
    window.open("/failed")
    window.page.get_by_role("button", name="Requeue 2 jobs…").click()
    assert confirm(window.page, "Requeue 2 jobs?") == "2 jobs requeued."
    window.open("/held")
    window.page.get_by_label("Select job h2").check()
    window.page.get_by_role("button", name="Unhold…").click()
    assert confirm(window.page, "Unhold 1 job?") == "1 job unheld."
    assert statuses(desk, "f1", "f2", "h1", "h2") == ["pending", "pending", "held", "pending"]


def test_a_group(desk, window):
    """A group is sealed, then cancelled once confirmed."""
    enqueue(desk, "j1", "j2", group="g")
    window.open("/groups")
    window.page.get_by_role("link", name="g", exact=True).click()
    assert act(window.page, "seal") == "Group g is sealed."
    window.page.locator("#cancel > summary").click()
    window.page.locator("#cancel button.danger").click()
    assert confirm(window.page, "", "wrong prompt") == "Group g is cancelled: 2 jobs."
    assert statuses(desk, "j1", "j2") == ["cancelled"] * 2
    assert {"sealed_at", "cancelled_at"} <= set(desk.redis.hgetall("aragora:queue:debates:group:g"))


def test_the_queue(desk, window):
    """The queue is paused and resumed."""
    window.open("/")
    assert "paused" in act(window.page, "pause", "maintenance")
    assert desk.redis.hget("aragora:queue:debates:control", "paused")
    assert "Queue paused" in window.page.locator("#attention").inner_text()
    assert "resumed" in act(window.page, "resume")
    assert not desk.redis.hget("aragora:queue:debates:control", "paused")


def test_money(desk, window):
    """A budget is set and reset, a provider is paused and resumed, with who did it and why."""
    desk.run(shown_jobs.spend)
    window.open("/money")
    text = act(window.page, "set-budget", "launch", name="month", limit_usd="50")
    assert text == "Budget month is set to $50.00/month (was $10.00/month)."

    async def gates(queue):
        connection = queue.connection.for_gates()
        try:
            budget = await Book(connection).budget("month")
            return budget.limit_usd, await Accounts(connection).pauses()
        finally:
            await connection.close()

    assert desk.run(gates) == (50, {})
    assert "launch" in window.page.locator(".budgets").inner_text()
    assert "reset" in act(window.page, "reset-month")
    row = window.page.locator(".providers tbody tr").first
    row.locator("summary").click()
    row.locator("[name=reason]").fill("bill")
    press(row.locator("form button:not(.copy)"))
    limit_usd, [pause] = desk.run(gates)
    assert (limit_usd, "bill" in window.page.locator(".providers").inner_text()) == (10, True)
    row = window.page.locator(".providers tbody tr").first
    row.locator("summary").click()
    press(row.locator("form button:not(.copy)"))
    assert pause in said(window.page)
    assert desk.run(gates) == (10, {})


def test_a_new_debate(desk, window):
    """What is wrong is said next to its field; then the quote is shown, and the button enqueues the debate."""
    window.open("/new")
    page = window.page
    page.get_by_label("Question").fill("Tea or coffee?")
    page.get_by_label(re.compile("^Agents")).fill("demo:bold, zed")
    page.get_by_role("button", name="Show the quote").click()
    assert "zed" in page.locator("#problem-agents").inner_text()
    assert page.get_by_label("Question").input_value() == "Tea or coffee?"
    assert window.faults() + window.too_wide() == []
    page.get_by_label(re.compile("^Agents")).fill("demo:bold, demo:careful")
    page.get_by_label("Group").fill("drinks")
    page.locator("[name=answer_form]").select_option("choice")
    page.locator("[name=options]").fill("tea\ncoffee")
    page.get_by_role("button", name="Show the quote").click()
    page.locator("#quote").wait_for()
    assert window.faults() + window.too_wide() == []
    page.get_by_role("button", name=re.compile("^Enqueue")).click()
    job_id = re.fullmatch(r"Job (\S+) is enqueued\.", said(page))[1]
    assert page.url.endswith(f"/jobs/{job_id}")
    job = desk.run(lambda queue: queue.get_job(job_id))
    assert (job.payload["question"], job.group) == ("Tea or coffee?", "drinks")
    assert job.payload["options"] == ["tea", "coffee"]
