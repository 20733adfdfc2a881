"""The page of changes: who did what, when and why."""

from aragora_q.web.roles import Role


async def test_the_page_shows_what_operators_did(harness, new_console):
    """A viewer sees actions of pages with their sender; text is escaped; deleted jobs are no links."""
    console = new_console()
    operator, viewer = console.browser(), console.browser(Role.VIEWER)
    assert "No operator has changed anything yet." in (await viewer.get("/changes")).words
    for job_id in ("a", "b"):
        await harness.enqueue(job_id)
    await operator.done("/jobs/a/cancel", reason="<b>bold</b> \x1b[31m\u202e")
    await operator.done("/jobs/purge", {"id": "a", "confirmed": "1"}, reason="private")
    await operator.done("/jobs/b/hold")
    page = await viewer.get("/changes")
    assert page.status == 200
    for text in ("purge 1 job: a", "hold 1 job: b", "private", "alice from ", "\\u001b[31m\\u202e"):
        assert text in page.words, text
    assert "&lt;b&gt;bold&lt;/b&gt;" in page.text
    assert '<a class="id" href="/jobs/b">b</a>' in page.text
    assert "purge 1 job: a" in page.text
    assert "data-live" in page.text


async def test_more_than_a_page(harness, new_console):
    """The page has the newest 100, and leads to all that are kept."""
    for n in range(101):
        await harness.queue.pause(paused=n % 2 == 0, by="ann", reason=f"reason-{n}-")
    viewer = new_console().browser(Role.VIEWER)
    page = await viewer.get("/changes")
    assert "reason-100-" in page.text
    assert "reason-0-" not in page.text
    assert "/changes?limit=2000" in page.text
    assert "reason-0-" in (await viewer.get("/changes?limit=2000")).text


async def test_a_page_without_login_is_refused(new_console):
    """Without a role there are no changes to see."""
    answer = await new_console().browser(None).get("/changes")
    assert answer.status in (303, 401)
