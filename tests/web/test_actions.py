"""Actions of pages: what each does, what it says, and what it never does."""

import pytest
from support.browsers import snapshot

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Failed, Report
from aragora_q.errors import RedisUnreachable
from aragora_q.web import selection
from aragora_q.web.pages import actions
from aragora_q.web.pages.rendering import command_line
from aragora_q.web.roles import Role

STATE = {
    "cancel": "pending", "hold": "pending", "unhold": "held", "requeue": "failed",
}  # fmt: skip


async def job_in(harness, status, job_id="j1", **labels):
    """Enqueue a job and bring it into a status."""
    await harness.enqueue(job_id, **labels)
    if status == "held":
        await harness.queue.hold(job_id)
    if status == "cancelled":
        await harness.queue.cancel(job_id)
    if status == "failed":
        session = await harness.worker(f"w-{job_id}")
        [job] = (await session.start(1)).jobs
        await session.report([Report(job, Failed("boom"))])
    return job_id


@pytest.mark.parametrize(
    ("verb", "before", "after", "said"),
    [
        ("cancel", "pending", "cancelled", "Job j1 is cancelled."),
        ("cancel", "failed", "failed", "Job j1 had already ended: failed."),
        ("hold", "pending", "held", "Job j1 is held."),
        ("hold", "cancelled", "cancelled", "Job j1 had already ended: cancelled."),
        ("unhold", "held", "pending", "Job j1 is unheld."),
        ("unhold", "pending", "pending", "Job j1 was not held."),
        ("requeue", "failed", "pending", "Job j1 is requeued."),
        ("requeue", "pending", "pending", "Job j1 is already pending."),
    ],
)
async def test_an_action_on_one_job(harness, operator, verb, before, after, said):
    """An action changes the job, or says why it does not; sent twice, it does no more."""
    await job_in(harness, before)
    page = await operator.done(f"/jobs/j1/{verb}", reason="a reason")
    assert said in page.words
    assert await harness.queue.get_status("j1") == after
    assert (await operator.post(f"/jobs/j1/{verb}")).status == 303
    assert await harness.queue.get_status("j1") == after


@pytest.mark.parametrize("verb", ["cancel", "requeue", "hold", "unhold"])
async def test_who_and_why_are_kept(harness, operator, verb):
    """An action is in the history of its job, and in the log: who did it, from where, and why."""
    await job_in(harness, STATE[verb])
    await operator.post(f"/jobs/j1/{verb}", reason="<b>prices</b> changed")
    logged = {"action": verb, "ids": "j1", "count": 1, "reason": "<b>prices</b> changed"}
    assert operator.logged == logged
    line = (await harness.queue.tracker.history("j1"))[-1]
    assert line["by"] == "alice from 10.0.0.7"
    assert line["reason"] == "<b>prices</b> changed"


@pytest.mark.parametrize("job_id", ["gone", "a:payload", "..", "%2e%2e", "x" * 65])
@pytest.mark.parametrize("verb", ["cancel", "requeue", "hold", "unhold"])
async def test_a_job_that_is_gone(operator, verb, job_id):
    """An action on a job that does not exist, or that no job's id can be, is answered with 404."""
    assert (await operator.post(f"/jobs/{job_id}/{verb}")).status == 404


@pytest.mark.parametrize("address", ["/jobs/j1/explode", "/jobs/explode", "/queue/explode"])
async def test_an_action_that_there_is_not(operator, address):
    """An unknown action is a page that does not exist."""
    assert (await operator.post(address)).status == 404


ACTIONS = [
    "/jobs/j1/cancel", "/jobs/j1/requeue", "/jobs/j1/hold", "/jobs/j1/unhold", "/jobs/j1/purge", "/jobs/cancel",
    "/jobs/purge", "/groups/g/seal", "/groups/g/cancel", "/queue/pause", "/queue/resume", "/providers/pause",
    "/providers/resume", "/budgets/set", "/budgets/reset",
]  # fmt: skip


@pytest.mark.parametrize("address", ACTIONS)
@pytest.mark.parametrize("role", [Role.VIEWER, Role.PRODUCER])
async def test_only_operators_act(harness, new_console, address, role):
    """An action of a lower role is refused, and changes nothing."""
    await job_in(harness, "pending", group="g")
    before = snapshot(harness.redis)
    answer = (
        await new_console()
        .browser(role)
        .post(address, id="j1", confirmed="9", name="x", matching="")
    )
    assert answer.status == 403
    assert snapshot(harness.redis) == before


async def test_no_role_without_its_credential(harness, new_console):
    """Where the console has no credential for operators, an operator's action is refused, too."""
    await job_in(harness, "pending")
    console = new_console(roles=(Role.VIEWER,))
    answer = await console.browser().post("/jobs/j1/cancel")
    assert (answer.status, await harness.queue.get_status("j1")) == (403, "pending")


async def test_checked_jobs_are_confirmed_with_their_number(harness, operator):
    """An action on checked jobs asks first, with their ids and number; then it says what it did."""
    for n in range(3):
        await job_in(harness, "pending", f"j{n}")
    await job_in(harness, "cancelled", "ended")
    asked = await operator.post("/jobs/cancel", id=["j0", "j1", "ended"], to="/jobs?status=pending")
    assert "Cancel 3 jobs?" in asked.words
    assert "aragora-q cancel j0 j1 ended" in asked.words
    assert await harness.queue.get_status("j0") == "pending"
    page = await operator.done("/jobs/cancel", asked.fields("/jobs/cancel"), reason="why")
    assert "2 jobs cancelled; 1 job: had already ended: cancelled." in page.words
    statuses = await harness.queue.get_statuses(["j0", "j1", "j2"])
    assert list(statuses.values()) == ["cancelled", "cancelled", "pending"]
    assert (await harness.queue.tracker.history("j0"))[-1]["reason"] == "why"


async def test_all_that_match_are_confirmed_with_filter_and_number(harness, operator):
    """An action on all jobs of a filter names it and the number, and leaves other jobs alone."""
    for n in range(3):
        await job_in(harness, "pending", f"j{n}", group="g", tags={"env": "prod"})
    await job_in(harness, "pending", "other")
    filter_ = {"matching": "1", "group": "g", "tag": "env=prod"}
    asked = await operator.post("/jobs/hold", filter_)
    assert "Hold 3 jobs of group g, tag env=prod, status" in asked.words
    assert "aragora-q hold --group g --tag env=prod" in asked.words
    page = await operator.done("/jobs/hold", asked.fields("/jobs/hold"))
    assert "3 jobs held." in page.words
    assert await harness.queue.count_held() == 3


async def test_a_number_that_has_grown_is_confirmed_again(harness, operator):
    """If more jobs match than were confirmed, nothing is done, and the page asks with the new number."""
    await job_in(harness, "pending", "j1", group="g")
    asked = await operator.post("/jobs/cancel", matching="1", group="g")
    await job_in(harness, "pending", "j2", group="g")
    again = await operator.post("/jobs/cancel", asked.fields("/jobs/cancel"))
    assert again.status == 409
    assert "has grown from 1 to 2: nothing was cancelled." in again.words
    assert await harness.queue.get_status("j1") == "pending"
    await operator.done("/jobs/cancel", again.fields("/jobs/cancel"))
    assert await harness.queue.get_status("j2") == "cancelled"


async def test_no_more_jobs_are_changed_than_were_confirmed(harness, operator, monkeypatch):
    """Jobs that come while an action works are not changed: the number that was confirmed is the limit."""
    for n in range(3):
        await job_in(harness, "pending", f"j{n}", group="g")

    async def count(*_):
        return 1

    monkeypatch.setattr(selection.Selection, "count", count)
    await operator.done("/jobs/cancel", matching="1", group="g", confirmed="1")
    statuses = await harness.queue.get_statuses(["j0", "j1", "j2"])
    assert sorted(statuses.values()) == ["cancelled", "pending", "pending"]


async def test_a_long_action_says_how_to_go_on(harness, operator, monkeypatch):
    """When its time is up, an action says what is done, and asks to go on with what is left."""
    monkeypatch.setattr(selection, "BULK_SECONDS", 0.0)
    for n in range(150):
        await harness.queue.enqueue(Job({"n": n}, id=f"j{n}", group="g"))
    asked = await operator.post("/jobs/cancel", id=[f"j{n}" for n in range(150)])
    rest = await operator.post("/jobs/cancel", asked.fields("/jobs/cancel"))
    assert rest.status == 200
    assert "So far: 100 jobs cancelled. To go on, confirm again." in rest.words
    monkeypatch.undo()
    page = await operator.done("/jobs/cancel", rest.fields("/jobs/cancel"))
    assert "50 jobs cancelled; 100 jobs: had already ended: cancelled." in page.words


async def test_redis_goes_away_in_the_middle(harness, operator, monkeypatch):
    """If Redis stops answering, the page says how many jobs are done for sure, and how to go on."""
    for n in range(150):
        await harness.queue.enqueue(Job({"n": n}, id=f"j{n}"))
    asked = await operator.post("/jobs/hold", id=[f"j{n}" for n in range(150)])
    send, calls = harness.queue.hold_many, []

    async def hold_many(ids, **options):
        calls.append(ids)
        if len(calls) == 2:
            raise RedisUnreachable("no server answers")
        return await send(ids, **options)

    monkeypatch.setattr(harness.queue, "hold_many", hold_many)
    answer = await operator.post("/jobs/hold", asked.fields("/jobs/hold"))
    assert answer.status == 503
    assert "Stopped after at least 100 jobs held: no server answers." in answer.words
    page = await operator.done("/jobs/hold", answer.fields("/jobs/hold"))
    assert "50 jobs held; 100 jobs: was already held." in page.words


async def test_redis_is_away(harness, operator, monkeypatch):
    """An action while Redis is away is answered with 503, and says that it may be repeated."""
    await job_in(harness, "pending")

    async def run(*_, **__):
        raise RedisUnreachable("no server answers")

    monkeypatch.setattr(harness.queue.connection, "run", run)
    answer = await operator.post("/jobs/j1/cancel")
    assert answer.status == 503
    assert "Doing it again does no harm." in answer.words
    assert "data-live" not in answer.text


async def test_nothing_selected(operator):
    """An action without a job says so."""
    page = await operator.done("/jobs/cancel", to="/jobs")
    assert "No job was selected: nothing was cancelled." in page.words
    page = await operator.done("/jobs/cancel", matching="1", status="completed")
    assert "No job matches that could be cancelled" in page.words


async def test_failed_jobs_are_deleted_once_confirmed(harness, operator):
    """Deleting asks first, for one job, too; then the job is gone, and live ones are not touched."""
    await job_in(harness, "failed", "j1")
    await job_in(harness, "pending", "j2")
    asked = await operator.post("/jobs/j1/purge", to="/failed")
    assert "Delete 1 job?" in asked.words
    assert "cannot be undone" in asked.words
    assert await harness.queue.get_status("j1") == "failed"
    page = await operator.done("/jobs/purge", asked.fields("/jobs/purge"))
    assert "1 job deleted." in page.words
    assert await harness.queue.get_status("j1") is None
    page = await operator.done("/jobs/purge", id="j2", confirmed="1")
    assert "0 jobs deleted; 1 job: has not ended: it is pending." in page.words


async def test_groups_are_sealed_and_cancelled(harness, operator):
    """Sealing a group twice says so; cancelling one asks with its live jobs, and again if there are more."""
    await job_in(harness, "pending", "j1", group="g")
    asked = await operator.post("/groups/g/cancel")
    assert "Cancel 1 live job of group g?" in asked.words
    await job_in(harness, "pending", "j2", group="g")
    again = await operator.post("/groups/g/cancel", asked.fields("/groups/g/cancel"))
    assert (again.status, await harness.queue.get_status("j1")) == (409, "pending")
    assert "Group g is sealed." in (await operator.done("/groups/g/seal")).words
    assert "Group g was sealed before." in (await operator.done("/groups/g/seal")).words
    page = await operator.done("/groups/g/cancel", again.fields("/groups/g/cancel"), reason="why")
    assert "Group g is cancelled: 2 jobs." in page.words
    assert (await harness.queue.tracker.history("j2"))[-1]["by"] == "alice from 10.0.0.7"
    assert (await operator.post("/groups/none/seal")).status == 404
    assert (await operator.post("/groups/none/cancel")).status == 404


async def test_jobs_that_do_not_change_are_counted_once(harness, operator):
    """What is done says once how many jobs were so already, however often jobs are looked for."""
    await job_in(harness, "held", "j1", group="g")
    await job_in(harness, "pending", "j2", group="g")
    asked = await operator.post("/jobs/hold", matching="1", group="g")
    page = await operator.done("/jobs/hold", asked.fields("/jobs/hold"))
    assert "1 job held; 1 job: was already held." in page.words


async def test_a_long_cancel_of_a_group(harness, operator, monkeypatch):
    """When its time is up, the page says how many live jobs are left, and how to go on."""
    await job_in(harness, "pending", "j1", group="g")
    monkeypatch.setattr(actions, "BULK_SECONDS", 0.0)
    answer = await operator.post("/groups/g/cancel", confirmed="1")
    assert "1 live job of it left. To go on, confirm again." in answer.words
    monkeypatch.undo()
    page = await operator.done("/groups/g/cancel", answer.fields("/groups/g/cancel"))
    assert "Group g is cancelled: 1 job." in page.words


async def test_the_queue_is_paused_and_resumed(harness, operator):
    """Pause and resume say whether they changed anything."""
    for verb, said in [
        ("pause", "is paused."), ("pause", "was already paused."), ("resume", "is resumed."),
        ("resume", "was not paused."),
    ]:  # fmt: skip
        page = await operator.done(f"/queue/{verb}", to="/workers")
        assert f"Queue debates {said}" in page.words
        assert (await harness.queue.get_queue_stats())["paused"] == (verb == "pause")


@pytest.mark.parametrize(
    "to",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/a\r\nX: y",
        "é",
    ],
)
async def test_no_open_redirect(harness, operator, to):
    """An action leads back to a page of this console, whatever address the form names."""
    await job_in(harness, "pending")
    answer = await operator.post("/jobs/j1/cancel", to=to)
    assert answer.headers["location"] == "/jobs/j1"
    assert "x" not in answer.headers


async def test_a_reason_is_bounded(harness, operator):
    """A reason that is too long is refused, and nothing is done."""
    await job_in(harness, "pending")
    assert (await operator.post("/jobs/j1/cancel", reason="x" * 501)).status == 422
    assert await harness.queue.get_status("j1") == "pending"


async def test_commands_are_quoted(harness, operator):
    """The command line of a confirmation is what a shell reads as the same action, with its queue."""
    await job_in(harness, "pending", group="g")
    asked = await operator.post("/jobs/cancel", id="j1", reason="it's <i>late</i>; rm -rf $HOME")
    assert """aragora-q cancel j1 --reason 'it'"'"'s <i>late</i>; rm -rf $HOME'""" in asked.words
    assert "<i>late" not in asked.text


async def test_actions_of_the_api_are_in_the_log(harness, operator):
    """The log names what the API did as it names what a page did; a filter in words."""
    await job_in(harness, "pending", group="g")
    api = "/api/v1/queues/debates"
    for address, body, action, ids in [
        ("/jobs/j1/hold", b'{"reason": "r"}', "hold", "j1"),
        ("/jobs/unhold", b'{"ids": ["j1", "a:b"], "reason": "r"}', "unhold", "j1"),
        (
            "/jobs/cancel",
            b'{"filter": {"group": "g"}, "expected_count": 1, "reason": "r"}',
            "cancel",
            "of group g, status pending, processing, retrying or held",
        ),
        ("/groups/g/cancel", b'{"reason": "r"}', "group cancel", "g"),
        ("/pause", b'{"reason": "r"}', "pause", ""),
    ]:
        answer = await operator.send(api + address, body)
        assert answer.status == 200, answer.text
        found = operator.logged
        assert (found["action"], found["ids"], found["reason"]) == (action, ids, "r")


async def test_the_log_says_how_many_jobs_were_meant(harness, operator):
    """The log line has the number of jobs that were changed, also for a filter and for lines."""
    api = "/api/v1/queues/debates/jobs"
    many = b"".join(b'{"payload": {}, "group": "g"}\n' for _ in range(3))
    assert (await operator.send(api, many, content_type=b"application/x-ndjson")).status == 200
    assert operator.logged["changed"] == 3
    asked = await operator.post("/jobs/hold", matching="1", group="g")
    await operator.post("/jobs/hold", asked.fields("/jobs/hold"))
    assert operator.logged["changed"] == 3
    body = b'{"filter": {"group": "g"}, "expected_count": 3}'
    assert (await operator.send(f"{api}/cancel", body)).status == 200
    assert operator.logged["changed"] == 3


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (b"multipart/form-data", b"x", 400),
        (b"multipart/form-data; boundary=b", b"--b\r\ngarbage", 303),
        (
            b"multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="id"; filename="f"\r\n\r\nx\r\n--b--\r\n',
            400,
        ),
        (b"application/json", b'{"id": "j1"}', 303),
        (b"application/x-www-form-urlencoded", b"id=%ff%00&=&&&%", 404),
        (b"application/x-www-form-urlencoded", b"&".join(b"id=j1" for _ in range(3_000)), 400),
        (b"application/x-www-form-urlencoded", b"id=j1&confirmed=-1&confirmed=\xd9\xa3", 200),
    ],
)
async def test_bodies_that_no_form_sends(harness, operator, content_type, body, status):
    """A body that is not a form of the console is refused or means nothing; it is never a defect."""
    await job_in(harness, "pending")
    answer = await operator.send("/jobs/cancel", body, content_type)
    assert answer.status == status, answer.words
    assert await harness.queue.get_status("j1") == "pending"


def test_a_command_line_leads_to_the_queue_that_is_shown():
    """An embedded server and a queue's name are part of the line; the secret of another server is not."""
    here = QueueConfig(redis_url="embedded:///a b", queue="demo")
    assert command_line(here, "pause") == (
        "aragora-q pause --redis-url 'embedded:///a b' --queue demo"
    )
    there = QueueConfig(redis_url="redis://user:secret@example.com", queue="debates")
    assert command_line(there, "pause") == "aragora-q pause"
