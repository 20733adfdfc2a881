"""Contract, on every server: cancel, and what an operator sees of jobs and queue."""

import pytest

from aragora_q.base import Completed, Failed, Job, JobStatus, Released, Retry
from aragora_q.errors import JobNotFound
from aragora_q.keys import GROUP
from aragora_q.status import BACKSTOP_MS


async def _delayed(harness, session):
    await harness.enqueue("a", delay_seconds=60)


async def _pending(harness, session):
    await harness.enqueue("a", priority=-1)


async def _processing(harness, session):
    await harness.enqueue("a")
    return await harness.start_one(session)


async def _retrying(harness, session):
    job = await _processing(harness, session)
    await harness.report(session, job, Retry("no", 0))


async def _promoted(harness, session):
    await _retrying(harness, session)
    await harness.queue.promote()


LIVE = {
    "delayed": _delayed,
    "pending": _pending,
    "processing": _processing,
    "retrying": _retrying,
    "promoted": _promoted,
}


@pytest.mark.parametrize("state", LIVE)
async def test_cancel_ends_any_live_job_at_once(harness, state):
    """A cancelled job never starts (again), keeps its payload, and what its worker says is refused."""
    session = await harness.worker()
    job = await LIVE[state](harness, session)
    assert await harness.queue.cancel("a")
    known = await harness.queue.get_job("a")
    assert (known.status, known.payload) == (JobStatus.CANCELLED, {"n": 1})
    assert known.created_at is not None
    assert known.completed_at >= known.created_at
    await harness.queue.promote()
    assert (await session.start(5)).jobs == []
    assert not await harness.queue.cancel("a")
    assert harness.counters()["cancelled"] == 1
    assert harness.events()[-1] == ("cancelled", "a")
    if job:
        for outcome in (Completed(b"{}"), Retry("late", 0), Failed("late"), Released()):
            assert await harness.report(session, job, outcome) == "cancelled"
        assert harness.counters().get("refused") is None  # a cancelled job is nobody's fault
        assert await harness.queue.get_status("a") is JobStatus.CANCELLED
    assert [harness.entries(priority) for priority in (1, 0, -1)] == [[], [], []]


async def test_cancel_of_what_has_ended_or_never_was(harness):
    """An ended job stays as it is; an unknown one, and one past retention, is not found."""
    session = await harness.worker()
    for name, outcome in (("done", Completed(b"{}")), ("dead", Failed("x"))):
        await harness.enqueue(name)
        await harness.report(session, await harness.start_one(session), outcome)
        assert not await harness.queue.cancel(name)
    with pytest.raises(JobNotFound, match="no job nothing in queue debates"):
        await harness.queue.cancel("nothing")
    harness.redis.pexpire(harness.keys.job("dead"), BACKSTOP_MS - 1)
    with pytest.raises(JobNotFound):
        await harness.queue.cancel("dead")


async def test_cancelled_running_job_frees_its_reclaim(harness):
    """Nothing of a cancelled job is left for reclaim to find."""
    session = await harness.worker()
    await _processing(harness, session)
    await harness.queue.cancel("a")
    assert harness.pending() == []
    assert await harness.queue.reclaim() == []


async def test_queue_before_first_use(harness):
    """Before any job or worker, everything reads as zero or nothing; no error, no key is made."""
    stats = await harness.queue.get_queue_stats()
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
    assert await harness.queue.get_job("a") is None
    assert await harness.queue.get_status("a") is None
    assert await harness.queue.reclaim() == []
    assert (await harness.queue.promote()).next_due_seconds is None
    assert not list(harness.redis.scan_iter(match=f"{harness.keys.stem}*"))


async def test_queue_at_a_glance(harness):
    """Lengths, lanes, delays, ends and rates agree with what was done."""
    session = await harness.worker()
    for name, fields in {
        "h1": {"priority": 1}, "h2": {"priority": 1}, "n1": {}, "n2": {}, "n3": {}, "l1": {"priority": -1},
        "d1": {"delay_seconds": 60}, "c1": {},
    }.items():  # fmt: skip
        await harness.enqueue(name, **fields)
    await harness.queue.cancel("c1")
    jobs = (await session.start(4)).jobs
    await harness.report(session, jobs[0], Completed(b"{}"))
    await harness.report(session, jobs[1], Failed("x"))
    stats = await harness.queue.get_queue_stats()
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


async def test_groups_are_as_redis_tells_them(harness):
    """`groups` are the rows of XINFO GROUPS; name, consumers and pending among them."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    groups = (await harness.queue.get_queue_stats())["groups"]
    told = [
        group for stream in harness.keys.streams for group in harness.redis.xinfo_groups(stream)
    ]
    assert groups == told
    assert {group["name"] for group in groups} == {GROUP}
    assert sum(group["pending"] for group in groups) == 1
    await harness.report(session, job, Completed(b"{}"))


async def test_oldest_waiting_is_not_misled(harness):
    """Delivered and cancelled jobs do not count as waiting."""
    session = await harness.worker()
    for name in ("running", "cancelled", "waiting"):
        await harness.enqueue(name)
    await harness.start_one(session)
    await harness.queue.cancel("cancelled")
    stats = await harness.queue.get_queue_stats()
    assert stats["waiting"]["normal"] == 1
    assert stats["oldest_waiting_seconds"] is not None
    await harness.queue.cancel("waiting")
    stats = await harness.queue.get_queue_stats()
    assert (stats["waiting"]["normal"], stats["oldest_waiting_seconds"]) == (0, None)


async def test_events_resume_after_an_id(harness):
    """A reader that comes back with the last id it saw misses nothing."""
    await harness.enqueue("a")
    seen = []
    async for event in harness.queue.events(after="0-0"):
        seen.append(event)
        break
    await harness.enqueue("b")
    await harness.queue.cancel("a")
    async for event in harness.queue.events(after=seen[0]["id"]):
        seen.append(event)
        if event["event"] == "cancelled":
            break
    assert [(e["event"], e["ids"]) for e in seen] == [
        ("enqueued", "a"),
        ("enqueued", "b"),
        ("cancelled", "a"),
    ]


async def test_events_are_capped(harness):
    """The tail of events never grows beyond a few thousand entries, whatever happens."""
    for n in range(120):
        await harness.queue.enqueue_many([Job(payload={}, id=f"a{n}-{i}") for i in range(20)])
        await harness.queue.pause(paused=n % 2 == 0)
    for n in range(500):
        await harness.queue.pause(paused=n % 2 == 0)
    assert harness.redis.xlen(harness.keys.events) < 700
