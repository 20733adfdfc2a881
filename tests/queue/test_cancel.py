"""Contract, on every server: cancel, and what an operator sees of jobs and queue."""

import pytest

from aragora_q.base import Completed, Failed, Job, JobStatus, Released, Retry
from aragora_q.errors import JobNotFound
from aragora_q.keys import GROUP
from aragora_q.status import BACKSTOP_MS


async def _delayed(stage, session):
    await stage.enqueue("a", delay_seconds=60)


async def _pending(stage, session):
    await stage.enqueue("a", priority=-1)


async def _processing(stage, session):
    await stage.enqueue("a")
    return await stage.started(session)


async def _retrying(stage, session):
    job = await _processing(stage, session)
    await stage.end(session, job, Retry("no", 0))


async def _promoted(stage, session):
    await _retrying(stage, session)
    await stage.queue.promote()


LIVE = {
    "delayed": _delayed,
    "pending": _pending,
    "processing": _processing,
    "retrying": _retrying,
    "promoted": _promoted,
}


@pytest.mark.parametrize("state", LIVE)
async def test_cancel_ends_any_live_job_at_once(stage, state):
    """A cancelled job never starts (again), keeps its payload, and what its worker says is refused."""
    session = await stage.worker()
    job = await LIVE[state](stage, session)
    assert await stage.queue.cancel("a")
    known = await stage.queue.get_job("a")
    assert (known.status, known.payload) == (JobStatus.CANCELLED, {"n": 1})
    assert known.created_at is not None
    assert known.completed_at >= known.created_at
    await stage.queue.promote()
    assert (await session.start(5)).jobs == []
    assert not await stage.queue.cancel("a")
    assert stage.counters()["cancelled"] == 1
    assert stage.events()[-1] == ("cancelled", "a")
    if job:
        for outcome in (Completed(b"{}"), Retry("late", 0), Failed("late"), Released()):
            assert await stage.end(session, job, outcome) == "cancelled"
        assert stage.counters().get("refused") is None  # a cancelled job is nobody's fault
        assert await stage.queue.get_status("a") is JobStatus.CANCELLED
    assert [stage.entries(priority) for priority in (1, 0, -1)] == [[], [], []]


async def test_cancel_of_what_has_ended_or_never_was(stage):
    """An ended job stays as it is; an unknown one, and one past retention, is not found."""
    session = await stage.worker()
    for name, outcome in (("done", Completed(b"{}")), ("dead", Failed("x"))):
        await stage.enqueue(name)
        await stage.end(session, await stage.started(session), outcome)
        assert not await stage.queue.cancel(name)
    with pytest.raises(JobNotFound, match="no job nothing in queue debates"):
        await stage.queue.cancel("nothing")
    stage.raw.pexpire(stage.keys.job("dead"), BACKSTOP_MS - 1)
    with pytest.raises(JobNotFound):
        await stage.queue.cancel("dead")


async def test_cancelled_running_job_frees_its_reclaim(stage):
    """Nothing of a cancelled job is left for reclaim to find."""
    session = await stage.worker()
    await _processing(stage, session)
    await stage.queue.cancel("a")
    assert stage.pending() == []
    assert await stage.queue.reclaim() == []


async def test_queue_before_first_use(stage):
    """Before any job or worker, everything reads as zero or nothing; no error, no key is made."""
    stats = await stage.queue.get_queue_stats()
    assert (stats["stream_length"], stats["pending_count"], stats["groups"]) == (0, 0, [])
    assert stats["waiting"] == {"high": 0, "normal": 0, "low": 0}
    assert (stats["delayed"], stats["completed"], stats["failed"], stats["cancelled"]) == (
        0,
        0,
        0,
        0,
    )
    assert (stats["oldest_waiting_seconds"], stats["next_due_seconds"]) == (None, None)
    assert (stats["counters"], stats["workers"], stats["paused"]) == ({}, [], False)
    assert set(stats["throughput"].values()) == {0}
    assert await stage.queue.get_job("a") is None
    assert await stage.queue.get_status("a") is None
    assert await stage.queue.reclaim() == []
    assert (await stage.queue.promote()).next_due_seconds is None
    assert not list(stage.raw.scan_iter(match=f"{stage.keys.stem}*"))


async def test_queue_at_a_glance(stage):
    """Lengths, lanes, delays, ends and rates agree with what was done."""
    session = await stage.worker()
    for name, fields in {
        "h1": {"priority": 1}, "h2": {"priority": 1}, "n1": {}, "n2": {}, "n3": {}, "l1": {"priority": -1},
        "d1": {"delay_seconds": 60}, "c1": {},
    }.items():  # fmt: skip
        await stage.enqueue(name, **fields)
    await stage.queue.cancel("c1")
    jobs = (await session.start(4)).jobs
    await stage.end(session, jobs[0], Completed(b"{}"))
    await stage.end(session, jobs[1], Failed("x"))
    stats = await stage.queue.get_queue_stats()
    assert stats["stream_length"] == 4
    assert stats["pending_count"] == stats["running"] == 2
    assert stats["waiting"] == {"high": 0, "normal": 1, "low": 1}
    assert (stats["delayed"], stats["completed"], stats["failed"], stats["cancelled"]) == (
        1,
        1,
        1,
        1,
    )
    assert 0 <= stats["oldest_waiting_seconds"] < 60
    assert 0 < stats["next_due_seconds"] <= 60
    assert stats["throughput"]["completed_1m"] == stats["throughput"]["failed_15m"] == 1
    assert stats["counters"]["enqueued"] == 8
    [worker] = stats["workers"]
    assert (worker["worker_id"], worker["host"]) == ("w1", "here")
    assert worker["heartbeat_age_seconds"] < 60


async def test_groups_are_as_redis_tells_them(stage):
    """`groups` are the rows of XINFO GROUPS; name, consumers and pending among them."""
    session = await stage.worker()
    await stage.enqueue("a")
    job = await stage.started(session)
    groups = (await stage.queue.get_queue_stats())["groups"]
    told = [group for stream in stage.keys.streams for group in stage.raw.xinfo_groups(stream)]
    assert groups == told
    assert {group["name"] for group in groups} == {GROUP}
    assert sum(group["pending"] for group in groups) == 1
    await stage.end(session, job, Completed(b"{}"))


async def test_oldest_waiting_is_not_misled(stage):
    """Delivered and cancelled jobs do not count as waiting."""
    session = await stage.worker()
    for name in ("running", "cancelled", "waiting"):
        await stage.enqueue(name)
    await stage.started(session)
    await stage.queue.cancel("cancelled")
    stats = await stage.queue.get_queue_stats()
    assert stats["waiting"]["normal"] == 1
    assert stats["oldest_waiting_seconds"] is not None
    await stage.queue.cancel("waiting")
    stats = await stage.queue.get_queue_stats()
    assert (stats["waiting"]["normal"], stats["oldest_waiting_seconds"]) == (0, None)


async def test_events_resume_after_an_id(stage):
    """A reader that comes back with the last id it saw misses nothing."""
    await stage.enqueue("a")
    seen = []
    async for event in stage.queue.events(after="0-0"):
        seen.append(event)
        break
    await stage.enqueue("b")
    await stage.queue.cancel("a")
    async for event in stage.queue.events(after=seen[0]["id"]):
        seen.append(event)
        if event["event"] == "cancelled":
            break
    assert [(e["event"], e["ids"]) for e in seen] == [
        ("enqueued", "a"),
        ("enqueued", "b"),
        ("cancelled", "a"),
    ]


async def test_events_are_capped(stage):
    """The tail of events never grows beyond a few thousand entries, whatever happens."""
    for n in range(120):
        await stage.queue.enqueue_many([Job(payload={}, id=f"a{n}-{i}") for i in range(20)])
        await stage.queue.pause(paused=n % 2 == 0)
    for n in range(500):
        await stage.queue.pause(paused=n % 2 == 0)
    assert stage.raw.xlen(stage.keys.events) < 700
