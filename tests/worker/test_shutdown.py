"""Stopping a worker: drain, release, and what is left behind."""

import asyncio
import logging
import threading
import time
from contextlib import suppress

import pytest
from support.executors import GatedExecutor, succeed
from support.wait import wait_until
from support.workers import (
    LONG_LEASE,
    wait_until_registered,
)

from aragora_q.base import JobStatus
from aragora_q.contracts import FetchResult
from aragora_q.errors import AragoraQError
from aragora_q.redis.keys import GROUP
from aragora_q.worker import debate_worker as worker_module
from aragora_q.worker import fetcher, runner


async def test_stop_releases_orphans(new_harness, worker_pool, monkeypatch):
    """A job that is started for a worker just as it stops is released before the drain, uncharged."""
    monkeypatch.setattr(fetcher, "IDLE_SECONDS", fetcher.MAX_IDLE_SECONDS)
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)
    original = worker._session.start_next

    async def unheard(*args, **options):
        if (await original(*args, **options)).jobs:
            await asyncio.Event().wait()
        return FetchResult("ok")

    worker._session.start_next = unheard
    await wait_until(lambda: harness.redis.info("clients")["blocked_clients"], what="it to block")
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


async def test_stop_of_an_idle_worker_is_quick(new_harness, worker_pool, monkeypatch):
    """A worker in a blocking read stops at once, and starts no later job."""
    monkeypatch.setattr(fetcher, "IDLE_SECONDS", fetcher.MAX_IDLE_SECONDS)
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)
    await wait_until(lambda: harness.redis.info("clients")["blocked_clients"], what="it to block")
    asked_at = time.monotonic()
    await worker.stop()
    assert time.monotonic() - asked_at < fetcher.IDLE_SECONDS / 2
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


async def test_start_cancelled_twice_releases(new_harness, worker_pool):
    """Further cancellations of start() interrupt neither the release of jobs nor the unregistration."""
    harness, cleaning = new_harness(**LONG_LEASE), set()

    async def executor(job):
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.add(job.id)
            await asyncio.sleep(0.2)

    worker = worker_pool.start(harness, executor, max_concurrent=2)
    for name in "ab":
        await harness.enqueue(name)
    await wait_until(lambda: worker.get_stats()["active_jobs"] == 2)
    worker.task.cancel()
    await wait_until(lambda: cleaning == {"a", "b"})
    worker.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker.task
    for name in "ab":
        job = await harness.queue.get_job(name)
        assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)
    assert worker.get_stats()["active_jobs"] == 0
    assert (await harness.queue.get_queue_stats())["workers"] == []


@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_job_of_an_attempt_that_does_not_stop_is_released(
    new_harness, worker_pool, monkeypatch, caplog, end
):
    """It is released before the worker unregisters, its id is logged, and start() returns."""
    monkeypatch.setattr(runner, "CANCEL_TIMEOUT_SECONDS", 0.2)
    harness, finish = new_harness(drain_timeout_seconds=0.1, **LONG_LEASE), asyncio.Event()
    cancellations = []

    async def executor(job):
        while not finish.is_set():
            try:
                await asyncio.wait_for(finish.wait(), 60)
            except asyncio.CancelledError:
                cancellations.append(job.id)
        return {"late": True}

    worker, order = worker_pool.start(harness, executor), []
    original = worker._session.report, worker._session.unregister

    async def report(reports):
        results = await original[0](reports)
        order.extend(results)
        return results

    async def unregister():
        order.append("unregister")
        await original[1]()

    worker._session.report, worker._session.unregister = report, unregister
    await harness.enqueue("a")
    await wait_until(lambda: worker.get_stats()["active_jobs"])
    if end == "cancel":
        worker.task.cancel()
    stopping = asyncio.create_task(worker.stop())
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(worker.task), 60)
    await stopping
    assert order == ["released", "unregister"]
    job = await harness.queue.get_job("a")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)
    assert worker.stuck_jobs == ["a"]
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.job == "a"
    finish.set()
    await wait_until(lambda: not worker.stuck_jobs)
    assert cancellations == ["a"]
    assert worker.get_stats()["jobs_processed"] == 0
    assert await harness.queue.get_status("a") is JobStatus.PENDING
    assert order == ["released", "unregister"]


def _lease_keepers():
    return [thread for thread in threading.enumerate() if thread.name == "lease-keeper"]


@pytest.mark.parametrize("end", ["drain", "immediately", "cancel"])
async def test_nothing_is_left_after_a_stop(new_harness, worker_pool, end):
    """No task, no thread and no registration remains, whatever ended the worker."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    before = asyncio.all_tasks()
    worker = worker_pool.start(harness, gated, max_concurrent=2)
    for name in "abc":
        await harness.enqueue(name)
    await wait_until(lambda: len(gated.entered) == 2)
    assert len(asyncio.all_tasks()) > len(before)
    if end == "drain":
        gated.gate.set()
    if end == "cancel":
        worker.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker.task
    await worker.stop(immediately=end != "drain")
    await asyncio.gather(worker.task, return_exceptions=True)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    await wait_until(lambda: not _lease_keepers())
    assert (len(worker._reporter), worker.get_stats()["active_jobs"]) == (0, 0)
    assert worker.keeper._leases == {}
    assert (await harness.queue.get_queue_stats())["workers"] == []


@pytest.mark.parametrize("end", ["stop", "cancel", "fault"])
async def test_nothing_is_left_of_a_worker_that_ends_before_its_first_fetch(
    new_harness, worker_pool, end
):
    """A worker that is stopped, cancelled, or fails while it asks the gates ends at once, and as any other."""
    harness = new_harness(**LONG_LEASE)
    worker, asked, is_damaged = (
        worker_pool.start(harness, succeed),
        asyncio.Event(),
        asyncio.Event(),
    )

    async def refresh():
        asked.set()
        await is_damaged.wait()
        raise ValueError("damaged")

    worker._gates.refresh = refresh
    await asked.wait()
    assert _lease_keepers()
    match end:
        case "stop":
            await worker.stop()
            await worker.task
        case "cancel":
            worker.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await worker.task
        case "fault":
            is_damaged.set()
            with pytest.raises(ValueError, match="damaged"):
                await worker.task
    await wait_until(lambda: not _lease_keepers())
    assert (await harness.queue.get_queue_stats())["workers"] == []


async def test_stop_tries_until_redis_is_back(own_server, new_harness, worker_pool, monkeypatch):
    """A worker that stops while Redis restarts releases what it never knew of, and unregisters."""
    monkeypatch.setattr(worker_module, "CLOSE_TIMEOUT_SECONDS", 60.0)
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    harness = new_harness(redis_url=server.url, **LONG_LEASE)
    await harness.enqueue("a")
    await harness.start_one(await harness.worker("other"))
    worker = worker_pool.start(harness, succeed)
    await wait_until_registered(harness, worker)
    harness.redis.hset(harness.keys.job("a"), "lease_owner", worker.identity.lease_owner)
    entry = harness.fields("a")["entry"]
    harness.redis.xclaim(harness.keys.stream_normal, GROUP, "w1", 0, [entry])
    server.kill()
    stopping = asyncio.create_task(worker.stop())
    await asyncio.wait([stopping], timeout=0.5)
    await asyncio.to_thread(server.start)
    await stopping
    harness.redis.connection_pool.disconnect()
    assert (harness.fields("a")["status"], harness.fields("a")["attempts"]) == ("pending", "0")
    assert harness.redis.zscore(harness.keys.workers, "w1") is None


async def test_nothing_is_left_after_a_stop_without_redis(
    own_server, new_harness, worker_pool, monkeypatch
):
    """If Redis is unavailable at the end, the waits for the last reports end with the worker."""
    monkeypatch.setattr(worker_module, "CLOSE_TIMEOUT_SECONDS", 0.5)
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    harness, gated = new_harness(redis_url=server.url, claim_idle_ms=1000), GatedExecutor()
    before = asyncio.all_tasks()
    worker = worker_pool.start(harness, gated, max_concurrent=2)
    for name in "ab":
        await harness.enqueue(name)
    await wait_until(lambda: len(gated.entered) == 2)
    server.kill()
    await asyncio.wait_for(worker.stop(immediately=True), 60)
    await worker.task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    await wait_until(lambda: not _lease_keepers())
    assert worker.get_stats()["unreported_jobs"] == 2
    server.start()
    harness.redis.connection_pool.disconnect()


@pytest.mark.slow
async def test_failed_worker_releases_its_jobs(new_harness, worker_pool):
    """If an unexpected error of Redis ends the worker, its jobs are released, and it unregisters."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=2)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)

    original, calls = worker._session.release_orphans, []

    async def refused_twice(*args, **options):
        calls.append(args)
        if len(calls) <= 2:
            worker._outages.request_recovery()
            raise AragoraQError("WRONGTYPE")
        return await original(*args, **options)

    worker._session.release_orphans = refused_twice
    worker._outages.request_recovery()
    with pytest.raises(AragoraQError, match="WRONGTYPE"):
        await asyncio.wait_for(worker.task, 60)
    assert gated.cancelled == ["a"]
    assert await harness.queue.get_status("a") is JobStatus.PENDING
    await wait_until(lambda: not _lease_keepers())
    assert (await harness.queue.get_queue_stats())["workers"] == []
