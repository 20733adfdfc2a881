"""Stopping a worker: drain, release, and what is left behind."""

import asyncio
import time

import pytest
from support.executors import GatedExecutor, succeed
from support.wait import wait_until
from support.workers import (
    LONG_LEASE,
    wait_until_registered,
)

from aragora_q.base import JobStatus
from aragora_q.contracts import FetchResult
from aragora_q.redis.keys import GROUP


async def test_stop_releases_orphans(new_harness, worker_pool):
    """A job that is started for a worker just as it stops is released before the drain, uncharged."""
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)
    original = worker._session.start_next

    async def unheard(*args):
        if (await original(*args)).jobs:
            await asyncio.Event().wait()
        return FetchResult("ok")

    worker._session.start_next = unheard
    await wait_until_registered(harness, worker)
    await harness.enqueue("a")
    await wait_until(lambda: harness.fields("a")["status"] == "processing")
    stopping = asyncio.create_task(worker.stop())
    await wait_until(lambda: harness.fields("a")["status"] == "pending")
    await stopping
    job = await harness.queue.get_job("a")
    assert (job.attempts, job.crashes) == (0, 0)


async def test_stop_drains(new_harness, worker_pool):
    """stop() waits for running jobs, starts no new ones, and unregisters."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=2)
    await harness.enqueue("running")
    await wait_until(lambda: gated.entered)
    stopping = asyncio.create_task(worker.stop())
    await wait_until(lambda: worker.get_stats()["is_draining"])
    await harness.enqueue("late")
    assert not stopping.done()
    gated.gate.set()
    await stopping
    assert await harness.queue.get_status("running") is JobStatus.COMPLETED
    assert await harness.queue.get_status("late") is JobStatus.PENDING
    assert gated.entered == ["running"]
    assert (await harness.queue.get_queue_stats())["workers"] == []
    assert harness.redis.xinfo_consumers(harness.keys.stream_normal, GROUP) == []


async def test_jobs_are_released_after_the_drain_time(new_harness, worker_pool):
    """Jobs that have not ended within the drain time are released, uncharged."""
    harness, gated = new_harness(drain_timeout_seconds=0.1, **LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    await worker.stop()
    job = await harness.queue.get_job("a")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)
    assert gated.cancelled == ["a"]


async def test_second_stop_releases_at_once(new_harness, worker_pool):
    """An immediate stop ends a drain, even with every slot busy."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=2)
    for name in "abc":
        await harness.enqueue(name)
    await wait_until(lambda: len(gated.entered) == 2)
    draining = asyncio.create_task(worker.stop())
    await wait_until(lambda: worker.get_stats()["is_draining"])
    await worker.stop(immediately=True)
    await draining
    assert sorted(gated.cancelled) == ["a", "b"]
    assert [await harness.queue.get_status(name) for name in "abc"] == ["pending"] * 3
    assert harness.fields("a")["attempts"] == "0"


async def test_stop_of_an_idle_worker_is_quick(new_harness, worker_pool):
    """A worker in a blocking read stops at once, and starts no later job."""
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)
    await wait_until(lambda: harness.redis.info("clients")["blocked_clients"], what="it to block")
    asked_at = time.monotonic()
    await worker.stop()
    assert time.monotonic() - asked_at < 1
    await harness.enqueue("a")
    assert not harness.redis.info("clients")["blocked_clients"]
    assert await harness.queue.get_status("a") is JobStatus.PENDING


async def test_stop_before_start_and_twice(new_harness, worker_pool):
    """stop() before the start keeps it from taking jobs; stop() after the end returns."""
    harness = new_harness(**LONG_LEASE)
    await harness.enqueue("a")
    worker = worker_pool.start(harness, succeed)
    await worker.stop()
    await worker.task
    await worker.stop()
    assert await harness.queue.get_status("a") is JobStatus.PENDING


async def test_cancelled_start_releases(new_harness, worker_pool):
    """When the task that runs start() is cancelled, running jobs are released before it ends."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    worker.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker.task
    assert (await harness.queue.get_job("a")).attempts == 0
    assert await harness.queue.get_status("a") is JobStatus.PENDING
