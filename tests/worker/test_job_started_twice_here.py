"""A worker that gets a job again while its first attempt is still ending keeps the new lease."""

import asyncio
import time

import pytest
from support.wait import wait_until
from support.workers import reclaiming

from aragora_q.base import Job, JobStatus

LEASE_SECONDS = 0.8


class _SlowToStop:
    """Each attempt runs until `gate` is set; one that is cancelled ends when `may_stop` is set."""

    def __init__(self):
        self.gate, self.may_stop = asyncio.Event(), asyncio.Event()
        self.began, self.stopped = [], []

    async def __call__(self, job):
        self.began.append(job.fence)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await self.may_stop.wait()
            self.stopped.append(job.fence)
            raise
        return {"fence": job.fence}


def _lose_the_start(harness, entries):
    """What a failover does that lost the start of `a`: the primary holds what it held before."""
    pipe = harness.redis.pipeline()
    pipe.delete(harness.keys.job("a"), harness.keys.stream_normal)
    for entry, values in entries:
        pipe.xadd(harness.keys.stream_normal, values, id=entry)
        job = {"status": "pending", "max_attempts": 3, "entry": entry}
        pipe.hset(harness.keys.job("a"), mapping=job)
    pipe.rpush(harness.keys.bell, 1)
    pipe.execute()


async def _replace(harness):
    """Cancel the job, purge it, and enqueue another one with its id."""
    await harness.queue.cancel("a")
    await asyncio.sleep(0.005)
    await harness.queue.purge(JobStatus.CANCELLED, older_than_seconds=0)
    await harness.enqueue("a")


@pytest.mark.slow
@pytest.mark.parametrize("cause", ["failover", "replaced"])
async def test_end_of_the_old_attempt_keeps_the_new_lease(new_harness, worker_pool, cause):
    """The lease of the second attempt is renewed until it ends: nothing is reclaimed, no crash is charged."""
    harness = new_harness(claim_idle_ms=round(LEASE_SECONDS * 1000))
    executor = _SlowToStop()
    worker = worker_pool.start(harness, executor, max_concurrent=3)
    await harness.queue.enqueue(Job({"n": 1}, id="a"))
    entries = harness.entries()
    await wait_until(lambda: executor.began)
    async with reclaiming(harness) as claimed:
        if cause == "failover":
            _lose_the_start(harness, entries)
        else:
            await _replace(harness)
        await wait_until(lambda: len(executor.began) == 2, what="the second attempt")
        first, second = executor.began
        assert second > first
        executor.may_stop.set()
        await wait_until(lambda: executor.stopped == [first], what="the end of the first attempt")
        ended_at = time.monotonic()
        await wait_until(lambda: time.monotonic() - ended_at > 2 * LEASE_SECONDS)
        assert worker.keeper._leases == {"a": second}
        executor.gate.set()
        job = await harness.wait_for_end("a")
    assert claimed == []
    assert (job.status, job.crashes, job.result) == ("completed", 0, {"fence": second})
    assert executor.began == [first, second]
