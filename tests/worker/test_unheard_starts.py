"""Jobs that Redis started for a worker which has not read the reply yet keep their lease."""

import asyncio
import time

import pytest
from support.executors import succeed
from support.proxy import Proxy
from support.wait import wait_until
from support.workers import WorkerPool, reclaiming

from aragora_q.base import Job, JobStatus
from aragora_q.redis import scripts

LEASE_SECONDS = 0.8


def _blocking_executor(harness, runs, block_seconds):
    """The first job waits until a start is in flight and has started `unheard`, then blocks the loop."""

    async def executor(job):
        runs.append((job.id, job.fence))
        if job.id == "blocking":
            while harness.fields("unheard").get("status") != "processing":
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            runs.append(("started", int(harness.fields("unheard")["fence"])))
            time.sleep(block_seconds)
        return {}

    return executor


async def _start_beside_a_blocked_loop(harness, worker_pool, block_seconds):
    runs = []
    await harness.queue.enqueue_many([Job({}, id=name) for name in ("blocking", "unheard")])
    executor = _blocking_executor(harness, runs, block_seconds)
    worker_pool.start(harness, executor, max_concurrent=2)
    jobs = await harness.wait_for_end("blocking", "unheard")
    assert [job.status for job in jobs] == [JobStatus.COMPLETED] * 2
    assert all((job.attempts, job.crashes) == (1, 0) for job in jobs)
    [fence] = [fence for name, fence in runs if name == "unheard"]
    return fence, dict(runs)["started"]


@pytest.mark.slow
async def test_start_beside_a_blocked_loop_keeps_its_lease(new_harness, worker_pool):
    """A job whose start is read only three leases later is not reclaimed: no crash is charged.

    The late reply starts nothing: the job is released, uncharged, and runs with another fence.
    """
    harness = new_harness(claim_idle_ms=round(LEASE_SECONDS * 1000))
    async with reclaiming(harness) as claimed:
        ran, started = await _start_beside_a_blocked_loop(harness, worker_pool, 3 * LEASE_SECONDS)
    assert claimed == []
    assert ran > started
    assert harness.counters().get("crashed", 0) == 0
    assert harness.counters()["released"] >= 1


async def test_start_that_is_read_soon_runs(new_harness, worker_pool):
    """A reply that comes within half a lease is used, even if the event loop was blocked meanwhile."""
    harness = new_harness(claim_idle_ms=60_000)
    ran, started = await _start_beside_a_blocked_loop(harness, worker_pool, 0.3)
    assert ran == started
    assert "released" not in harness.counters()


@pytest.fixture
async def late_replies(new_harness, redis_url):
    """A queue behind a proxy that delays replies to starts for three leases, and the same queue beside it."""
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    proxy = await Proxy(port).start()
    beside = new_harness(claim_idle_ms=round(LEASE_SECONDS * 1000))
    behind = new_harness(
        redis_url=proxy.url, client=beside.redis, claim_idle_ms=round(LEASE_SECONDS * 1000)
    )
    proxy.match, proxy.delay_seconds = scripts.load("start").sha.encode(), 3 * LEASE_SECONDS
    pool = WorkerPool()
    yield proxy, behind, beside, pool
    proxy.mode = "pass"
    await pool.stop()
    await proxy.stop()


@pytest.mark.slow
async def test_start_whose_reply_is_late_is_released(late_replies):
    """A slow network delays the reply to a start beyond the lease: the job is released, not reclaimed."""
    proxy, behind, beside, pool = late_replies
    await beside.queue.enqueue_many([Job({}, id="a"), Job({}, id="b")])
    proxy.mode = "delay"
    async with reclaiming(beside) as claimed:
        pool.start(behind, succeed, max_concurrent=4)
        await wait_until(lambda: beside.counters().get("released"), what="the release")
        proxy.mode = "pass"
        jobs = await beside.wait_for_end("a", "b")
    assert proxy.hits
    assert claimed == []
    assert all((job.status, job.attempts, job.crashes) == ("completed", 1, 0) for job in jobs)


@pytest.mark.slow
async def test_start_of_an_idle_worker_keeps_its_lease_until_its_reply_comes(late_replies):
    """A worker that waits for work, and hears of its start three leases later, has the job all the time."""
    proxy, behind, beside, pool = late_replies
    pool.start(behind, succeed)
    await wait_until(lambda: beside.redis.info("clients")["blocked_clients"])
    beside.redis.client_kill_filter(skipme=True, _type="normal")
    proxy.mode = "delay"
    await wait_until(lambda: beside.redis.info("clients")["blocked_clients"])
    async with reclaiming(beside) as claimed:
        await beside.enqueue("a")
        job = await beside.wait_for_end("a")
    assert proxy.hits
    assert claimed == []
    assert (job.status, job.attempts, job.crashes) == ("completed", 1, 0)
