"""promote.lua: due jobs move to their lanes."""

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Retry


async def test_promote_moves_what_is_due(harness):
    """Due jobs go to the tail of their lane, earliest first, at most 100 a call."""
    session = await harness.worker()
    jobs = [Job(payload={}, id=f"j{n:03}", delay_seconds=1000 + n) for n in range(150)]
    await harness.queue.enqueue_many(
        [*jobs, Job(payload={}, id="high", delay_seconds=900, priority=1)]
    )
    assert (await harness.queue.promote()).promoted == 0
    for n, job in enumerate(jobs):
        harness.redis.zadd(harness.keys.delayed, {job.id: n})
    harness.redis.zadd(harness.keys.delayed, {"high": 1000})
    first = await harness.queue.promote()
    assert (first.promoted, first.next_due_seconds) == (100, 0)
    second = await harness.queue.promote()
    assert (second.promoted, second.next_due_seconds) == (51, None)
    assert [fields["id"] for _, fields in harness.entries()] == [job.id for job in jobs]
    assert (await harness.start_one(session)).id == "high"
    assert harness.counters()["promoted"] == 151


async def test_promoted_retry_stays_retrying(harness):
    """After its backoff, a job waits in its lane as RETRYING until it starts."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.report(session, await harness.start_one(session), Retry("no", 0))
    assert (await harness.queue.promote()).promoted == 1
    known = await harness.queue.get_job("a")
    assert (known.status, known.due_at, known.payload) == (JobStatus.RETRYING, None, {"n": 1})
    assert (await harness.start_one(session)).attempts == 2


async def test_promote_survives_deleted_keys(harness):
    """A job without payload becomes a dead letter, one without hash runs; other jobs are promoted."""
    session = await harness.worker()
    for name in ("bare", "unhashed", "good"):
        await harness.enqueue(name, delay_seconds=60)
        harness.redis.zadd(harness.keys.delayed, {name: 1})
    harness.redis.delete(harness.keys.payload("bare"))
    harness.redis.delete(harness.keys.job("unhashed"))
    await harness.queue.promote()
    known = await harness.queue.get_job("bare")
    assert known.status is JobStatus.FAILED
    assert "deleted by another program" in known.error
    assert {job.id for job in (await session.start(5)).jobs} == {"unhashed", "good"}


async def test_promote_returns_when_the_next_job_is_due(harness):
    """The seconds until the earliest delayed job; None if no job is delayed."""
    for name, seconds in (("second", 200), ("first", 100)):
        await harness.enqueue(name, delay_seconds=seconds)
    assert 90 < (await harness.queue.promote()).next_due_seconds <= 100
    await harness.queue.cancel("first")
    assert 190 < (await harness.queue.promote()).next_due_seconds <= 200
    await harness.queue.cancel("second")
    assert (await harness.queue.promote()).next_due_seconds is None
