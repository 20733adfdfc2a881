"""The pages of schedules: times, last jobs, and what operators do."""

import re
import time

import pytest

from aragora_q.base import JobStatus
from aragora_q.contracts import Plan, ScheduleState, Tick
from aragora_q.web.roles import Role

SCHEDULES = {
    "report": {
        "cron": "30 6 * * MON",
        "time_zone": "Europe/Berlin",
        "job": {"payload": {"text": "weekly"}},
    },
    "cleanup": {"cron": "* * * * *", "job": {"payload": {}}},
    "elsewhere": {"cron": "* * * * *", "queue": "other", "job": {"payload": {}}},
}
BY = "alice from 10.0.0.7"


@pytest.fixture
async def console(new_console):
    """A console whose configuration has two schedules, and one of another queue."""
    return new_console(schedules=SCHEDULES)


@pytest.fixture
async def operator(console):
    return console.browser()


@pytest.fixture
def queue(console):
    return console.console.roles[Role.OPERATOR].queue


def minute(offset=0):
    """The start of a minute, in Unix ms."""
    return (int(time.time()) // 60 + offset) * 60_000


async def tick(queue, name, at):
    """Enqueue the job of a time."""
    job = queue.config.scheduled_job(name, str(at // 1000))
    assert await queue.schedules.enqueue([Tick(name, at, at + 60_000, job)]) == ["created"]
    return job.id


async def test_times_and_last_jobs(operator, queue):
    """A schedule has its expression, its next time also in its own zone, and its last job with its status."""
    job_id = await tick(queue, "cleanup", minute())
    page = await operator.get("/schedules")
    assert page.status == 200
    assert "2 schedules, 1 with a problem" in page.words
    assert "report 30 6 * * MON Europe/Berlin not loaded" in page.words
    assert "cleanup * * * * * UTC active" in page.words
    assert re.search(r"Mon \d{4}-\d\d-\d\d 06:30 CES?T", page.words)
    assert f"{job_id} pending" in page.words
    assert f'href="/jobs/{job_id.replace("@", "%40")}"' in page.text
    assert "elsewhere" not in page.words


async def test_one_schedule(operator, queue):
    """Its page has the next ten times, the last jobs, and what it enqueues."""
    job_id = await tick(queue, "cleanup", minute())
    page = await operator.get("/schedules/cleanup")
    assert page.text.count("<li><time") == 10
    assert job_id in page.words
    assert "What it enqueues" in page.words
    assert '"text": "weekly"' in (await operator.get("/schedules/report")).words
    for name in ("none", "elsewhere", "a%20b"):
        assert (await operator.get(f"/schedules/{name}")).status == 404


async def test_run_now(operator, queue):
    """The job is enqueued with an id and a history that say so; a double click enqueues one."""
    page = await operator.done("/schedules/report/run", reason="ask <b>now</b>", to="/schedules")
    [job_id] = set(re.findall(r"report@\d+-run", page.words))
    assert f"Job {job_id} is enqueued." in page.words
    job = await queue.get_job(job_id)
    assert (job.status, job.payload) == (JobStatus.PENDING, {"text": "weekly"})
    page = await operator.get(f"/jobs/{job_id}")
    assert BY in page.words
    assert "ask <b>now</b>" in page.words


async def test_pause_and_resume(operator, queue):
    """A pause names who did it and why; a second one changes nothing; resume ends it."""
    page = await operator.done("/schedules/cleanup/pause", reason="freeze", to="/schedules")
    assert "Schedule cleanup is paused." in page.words
    assert f"paused by {BY}" in page.words
    assert ": freeze" in page.words
    assert "already paused" in (await operator.done("/schedules/cleanup/pause")).words
    earliest = minute(1)
    page = await operator.done("/schedules/cleanup/resume")
    assert "Schedule cleanup is resumed." in page.words
    assert "was not paused" in (await operator.done("/schedules/cleanup/resume")).words
    state = (await queue.schedules.read()).states["cleanup"]
    assert state.next_at * 1000 in range(earliest, minute(1) + 1, 60_000)


async def test_what_is_wrong_comes_first(harness, operator, queue):
    """A time that is long over, and a job that was refused, are marked, before all others."""
    at = minute(-600)
    await queue.schedules.plan([Plan(ScheduleState("report"), at, last_at=at - 60_000)])
    refused = Plan(
        ScheduleState("cleanup"), minute(1), last_at=at, missed=3, error="no <i>agent</i>"
    )
    await queue.schedules.plan([refused])
    page = await operator.get("/schedules")
    assert "2 schedules, 2 with a problem" in page.words
    assert page.words.index("overdue") < page.words.index("refused no <i>agent</i>")
    page = await operator.get("/")
    said = page.words[page.words.index("Needs attention") : page.words.index("Waiting")]
    assert "Schedule report was due 10 h ago, and its job is not enqueued" in said
    assert "Schedule cleanup: its last job was refused: no <i>agent</i>" in said


async def test_a_schedule_that_is_not_configured_here(operator, queue):
    """It is shown as far as Redis knows it, cannot be run, and is forgotten once that is confirmed."""
    await queue.schedules.plan([Plan(ScheduleState("old"), minute(5))])
    page = await operator.get("/schedules")
    assert "old not configured here" in page.words
    page = await operator.get("/schedules/old")
    assert "This schedule is not configured here" in page.words
    assert 'action="/schedules/old/run"' not in page.text
    assert (await operator.post("/schedules/old/run")).status == 404
    asked = await operator.post("/schedules/old/forget", reason="renamed")
    assert "Delete what Redis keeps of schedule old?" in asked.words
    assert "old" in (await queue.schedules.read()).states
    page = await operator.done("/schedules/old/forget", asked.fields("/schedules/old/forget"))
    assert "Schedule old is forgotten." in page.words
    assert "old" not in (await queue.schedules.read()).states


async def test_a_schedule_that_is_configured_here_is_not_forgotten(operator, queue):
    """It would begin again at once: nothing is deleted, and the page says what to do."""
    await operator.done("/schedules/cleanup/pause")
    answer = await operator.post("/schedules/cleanup/forget", confirmed="1")
    assert answer.status == 422
    assert "is configured here" in answer.words
    assert (await queue.schedules.read()).states["cleanup"].paused


async def test_a_viewer_reads_and_does_nothing(console):
    """A viewer sees all of it, without buttons; an action is refused."""
    viewer = console.browser(Role.VIEWER)
    for address in ("/schedules", "/schedules/cleanup"):
        page = await viewer.get(address)
        assert page.status == 200
        assert 'action="/schedules' not in page.text
    for verb in ("run", "pause", "resume", "forget"):
        assert (await viewer.post(f"/schedules/cleanup/{verb}")).status == 403


async def test_no_schedules(new_console):
    """Without schedules the page says how to have some."""
    assert "There are no schedules." in (await new_console().browser().get("/schedules")).words
