"""A start whose reply was lost, or that a blocked worker cannot read, delays no job."""

import asyncio
import threading
import time

import pytest
from support.executors import GatedExecutor
from support.wait import wait_until
from support.workers import LONG_LEASE, lose_first_reply

from aragora_q.base import Job
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.worker import fetcher


async def test_start_with_a_lost_reply_is_undone(new_harness, worker_pool):
    """Jobs whose start's reply was lost run nevertheless, charged once."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    gated.gate.set()
    worker = worker_pool.start(harness, gated)
    lost = lose_first_reply(worker)
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(3)])
    jobs = await harness.wait_for_end("j0", "j1", "j2")
    assert lost
    assert all(job.attempts == 1 and job.crashes == 0 for job in jobs)
    assert harness.counters()["released"] == len(lost)


async def test_blocked_worker_starts_nothing(new_harness, worker_pool):
    """While a job blocks the event loop, no job is started for this worker: others may run it."""
    harness, seen = new_harness(**LONG_LEASE), []

    async def enqueue():
        queue = RedisStreamsQueue(harness.config)
        await queue.enqueue(Job(payload={}, id="other"))
        await queue.close()

    async def executor(job):
        if job.id == "blocking":
            await wait_until(
                lambda: harness.redis.info("clients")["blocked_clients"], what="the read"
            )
            thread = threading.Thread(target=lambda: asyncio.run(enqueue()))
            thread.start()
            thread.join()
            seen.append(harness.fields("other")["status"])
        return {}

    worker_pool.start(harness, executor)
    await harness.enqueue("blocking")
    await harness.wait_for_end("blocking", "other")
    assert seen == ["pending"]


@pytest.mark.slow
async def test_freed_slot_is_filled_at_once(new_harness, worker_pool, monkeypatch):
    """A check for orphans while all slots are busy does not delay the next start."""
    monkeypatch.setattr(fetcher, "IDLE_SECONDS", fetcher.MAX_IDLE_SECONDS)
    harness, gated, looks = new_harness(claim_idle_ms=12_000), GatedExecutor(), []
    worker = worker_pool.start(harness, gated, max_concurrent=1)
    original = worker._session.release_orphans

    async def recover(*args, **options):
        looks.append(args)
        return await original(*args, **options)

    worker._session.release_orphans = recover
    worker._outages.request_recovery()  # as after a lost reply: checked at once, and again for a while
    await wait_until(lambda: looks, what="the first check")
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    looks.clear()
    await harness.enqueue("b")
    await wait_until(lambda: looks, what="another check")
    freed_at = time.monotonic()
    gated.gate.set()
    await wait_until(lambda: "b" in gated.entered)
    assert time.monotonic() - freed_at < fetcher.IDLE_SECONDS / 2
