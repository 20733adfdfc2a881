"""A fence is used once: it rises even if the server has lost the last one."""

import asyncio

from aragora_q.base import JobStatus
from aragora_q.contracts import Completed, Failed, Released, Retry

OUTCOMES = (Completed(b"{}"), Retry("x", 0), Failed("x"), Released())


async def _assert_refused(harness, session, old):
    """Reports and renewals of an old attempt change nothing."""
    fields = harness.fields("a")
    for outcome in OUTCOMES:
        assert await harness.report(session, old, outcome) == "lost"
    assert (await harness.renew(session, old)).lost == {"a": "lost"}
    assert harness.fields("a") == fields


async def _start_on_a_server_that_lost_it(harness, session):
    """Start `a`, then put back what the server held before, as a failover does that lost the start."""
    job_key, stream = harness.keys.job("a"), harness.keys.stream_normal
    fields, entries = harness.fields("a"), harness.entries()
    job = await harness.start_one(session)
    await asyncio.sleep(0.005)  # no failover is that fast
    harness.redis.delete(job_key, stream)
    harness.redis.hset(job_key, mapping=fields)
    for entry, values in entries:
        harness.redis.xadd(stream, values, id=entry)
    return job


async def test_fence_rises_after_a_failover_that_lost_the_start(harness):
    """The same worker starts the job again with a higher fence; the first attempt is refused."""
    session = await harness.worker()
    await harness.enqueue("a")
    fences = []
    for _ in range(3):
        old = await _start_on_a_server_that_lost_it(harness, session)
        fences.append(old.fence)
    job = await harness.start_one(session)
    fences.append(job.fence)
    assert fences == sorted(set(fences))
    await _assert_refused(harness, session, old)
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


async def test_fence_rises_after_a_purge(harness):
    """A job that is cancelled, purged and enqueued under the same id gets a higher fence."""
    session = await harness.worker()
    await harness.enqueue("a")
    old = await harness.start_one(session)
    await harness.queue.cancel("a")
    await asyncio.sleep(0.005)
    await harness.queue.purge(JobStatus.CANCELLED, older_than_seconds=0)
    assert not harness.fields("a")
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert job.fence > old.fence
    await _assert_refused(harness, session, old)
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


async def test_fence_rises_if_the_clock_is_set_back(harness):
    """A job whose last fence lies in the future gets the next higher one."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await harness.report(session, job, Released())
    future = job.fence + 86_400_000
    harness.redis.hset(harness.keys.job("a"), "fence", future)
    assert (await harness.start_one(session)).fence == future + 1
