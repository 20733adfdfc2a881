"""How a worker fills its slots: concurrency, lanes, blocking reads, batches, pause."""

import asyncio
import logging
import time
from collections import Counter
from itertools import pairwise

import pytest
from support.executors import succeed
from support.wait import wait_until
from support.workers import (
    LONG_LEASE,
    count_calls,
)

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import MAX_STARTS
from aragora_q.redis.connection import Connection
from aragora_q.worker import fetcher


async def test_no_more_jobs_at_once_than_slots(new_harness, worker_pool):
    """Never more than max_concurrent jobs run; all of them get done."""
    harness, peak, running = new_harness(**LONG_LEASE), 0, 0
    are_busy = asyncio.Event()

    async def executor(job):
        nonlocal peak, running
        running += 1
        peak = max(peak, running)
        if running == 3:
            are_busy.set()
        await are_busy.wait()
        await asyncio.sleep(0.01)
        running -= 1
        return {}

    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(20)])
    worker = worker_pool.start(harness, executor, max_concurrent=3, burst=True)
    await worker.task
    assert peak == 3
    assert harness.redis.zcard(harness.keys.completed) == 20


MAINTENANCE = {"claim_maintenance", "promote", "reclaim", "unregister", "purge"}
"""Scripts that one worker of a queue calls for all."""


@pytest.mark.slow
async def test_idle_worker_blocks_instead_of_polling(new_harness, worker_pool, monkeypatch):
    """In two seconds an idle worker sends a heartbeat and a start at most, and starts a new job at once."""
    harness, scripts, run = new_harness(**LONG_LEASE), Counter(), Connection.run
    monkeypatch.setattr(fetcher, "IDLE_SECONDS", fetcher.MAX_IDLE_SECONDS)

    async def counting(self, name, *args, **options):
        scripts[name] += 1
        return await run(self, name, *args, **options)

    monkeypatch.setattr(Connection, "run", counting)
    worker = worker_pool.start(harness, succeed)
    await wait_until(lambda: harness.redis.info("clients")["blocked_clients"], what="it to block")
    await wait_until(lambda: scripts["purge"] >= 3, what="the first pass of maintenance")
    harness.redis.config_resetstat()
    scripts.clear()
    await asyncio.sleep(2)  # the claim is about a span of time
    maintenance = sum(scripts[name] for name in MAINTENANCE)
    assert count_calls(harness, "evalsha") - maintenance <= 2
    assert scripts["claim_maintenance"] + scripts["promote"] <= 6
    assert count_calls(harness, "xreadgroup") <= 3, "one per lane"
    enqueued_at = time.monotonic()
    await harness.enqueue("a")
    await harness.wait_for_end("a")
    assert time.monotonic() - enqueued_at < fetcher.IDLE_SECONDS
    await wait_until(lambda: worker.get_stats()["jobs_processed"] == 1, what="its own count")


async def test_busy_worker_starts_and_reports_in_batches(new_harness, worker_pool):
    """A thousand jobs take a small part of a thousand round trips."""
    harness = new_harness(**LONG_LEASE)
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(1000)])
    harness.redis.config_resetstat()
    await worker_pool.start(harness, succeed, max_concurrent=100, burst=True).task
    assert harness.redis.zcard(harness.keys.completed) == 1000
    assert count_calls(harness, "evalsha") + count_calls(harness, "eval") < 100


async def _order_of_starts(harness, worker_pool):
    """What a worker with two slots does with waiting jobs: sends a start, gets jobs, or runs one."""
    order = []

    async def executor(_job):
        order.append("run")
        return {}

    worker = worker_pool.start(harness, executor, max_concurrent=2)
    start = worker._session.start

    async def noted(limit, **options):
        order.append("send")
        fetched = await start(limit, **options)
        order.extend(["receive"] * bool(fetched.jobs))
        return fetched

    worker._session.start = noted
    ids = [f"j{n}" for n in range(9)]
    await harness.queue.enqueue_many([Job(payload={}, id=job_id) for job_id in ids])
    await harness.wait_for_end(*ids)
    return " ".join(order)


@pytest.fixture
def _no_slow_launch(monkeypatch):
    """However slow the machine is, no launch counts as one that blocks the event loop."""
    monkeypatch.setattr(fetcher, "AHEAD_SECONDS", 60.0)


@pytest.mark.usefixtures("_no_slow_launch")
async def test_next_jobs_are_started_before_the_last_ones_run(new_harness, worker_pool):
    """The server works while short jobs of a backlog run; both never wait for each other."""
    order = await _order_of_starts(new_harness(**LONG_LEASE), worker_pool)
    assert "receive send run" in order


async def test_jobs_that_block_the_loop_keep_no_others_waiting(
    new_harness, worker_pool, monkeypatch
):
    """A worker whose jobs block the event loop starts others when it can run them."""
    monkeypatch.setattr(fetcher, "AHEAD_SECONDS", 0.0)
    order = await _order_of_starts(new_harness(**LONG_LEASE), worker_pool)
    assert "receive run" in order
    assert "receive send" not in order


async def test_starts_grow_with_the_free_slots(new_harness, worker_pool):
    """A backlog that begins while few slots are free is not started in small batches to its end."""
    harness, gate, limits = new_harness(**LONG_LEASE), asyncio.Event(), []

    async def executor(job):
        if job.id.startswith("long"):
            await gate.wait()
        return {}

    worker = worker_pool.start(harness, executor, max_concurrent=20)
    start = worker._session.start

    async def noted(limit, **options):
        limits.append(limit)
        if limit == 2:
            gate.set()
            await wait_until(lambda: worker._runner.free_slots() == 20)
        return await start(limit, **options)

    await harness.queue.enqueue_many([Job({}, id=f"long{n}") for n in range(18)])
    await wait_until(lambda: worker._runner.free_slots() == 2)
    worker._session.start = noted
    ids = [f"j{n}" for n in range(100)]
    await harness.queue.enqueue_many([Job({}, id=each) for each in ids])
    await harness.wait_for_end(*ids)
    assert limits[:4] == [2, 10, 10, 10]


@pytest.mark.usefixtures("_no_slow_launch")
async def test_many_slots_are_filled_ahead_too(new_harness, worker_pool):
    """A call starts a hundred jobs at most, which is less than half of these slots."""
    harness, order = new_harness(**LONG_LEASE), []

    async def executor(_job):
        order.append("run")
        return {}

    worker = worker_pool.start(harness, executor, max_concurrent=300, burst=True)
    start = worker._session.start

    async def noted(limit, **options):
        order.append(limit)
        return await start(limit, **options)

    worker._session.start = noted
    await harness.queue.enqueue_many([Job({}) for _ in range(1_000)])
    await worker.task
    assert (MAX_STARTS, MAX_STARTS) in pairwise(order)


async def test_stop_runs_what_was_started_ahead(new_harness, worker_pool):
    """A worker that stops while a start is under way runs its jobs, and leaves the others alone."""
    harness, ran = new_harness(**LONG_LEASE), []

    async def executor(job):
        ran.append(job.id)
        if len(ran) == 3:  # by now, starts are sent ahead
            stopping.append(asyncio.create_task(worker.stop()))
        return {}

    stopping, ids = [], [f"j{n}" for n in range(20)]
    worker = worker_pool.start(harness, executor, max_concurrent=2)
    await harness.queue.enqueue_many([Job(payload={}, id=job_id) for job_id in ids])
    await worker.task
    states = Counter([await harness.queue.get_status(job_id) for job_id in ids])
    assert states == {JobStatus.COMPLETED: len(ran), JobStatus.PENDING: len(ids) - len(ran)}
    assert harness.counters().get("released", 0) == 0
    assert harness.counters()["started"] == len(ran) < len(ids)


async def test_high_lane_starves_no_other(new_harness, worker_pool):
    """One read in eight starts with the low lane, one with the normal lane."""
    harness, order = new_harness(**LONG_LEASE), []

    async def executor(job):
        order.append(job.id)
        return {}

    await harness.queue.enqueue_many([Job(payload={}, id=f"h{n}", priority=1) for n in range(200)])
    await harness.enqueue("low", priority=-1)
    await harness.enqueue("normal")
    await worker_pool.start(harness, executor, max_concurrent=1, burst=True).task
    assert order.index("low") < 200
    assert order.index("normal") < 200


@pytest.mark.slow
async def test_paused_worker_resumes(new_harness, worker_pool, caplog, monkeypatch):
    """A worker on a paused queue logs that once, and goes on soon after the resume."""
    monkeypatch.setattr(fetcher, "IDLE_SECONDS", fetcher.MAX_IDLE_SECONDS)
    caplog.set_level(logging.INFO)
    harness = new_harness(**LONG_LEASE)
    await harness.queue.pause()
    await harness.enqueue("a")
    worker = worker_pool.start(harness, succeed)
    await wait_until(lambda: "queue is paused" in caplog.text, what="it to say so")
    harness.redis.config_resetstat()
    await wait_until(
        lambda: count_calls(harness, "xreadgroup") or count_calls(harness, "evalsha") > 3
    )
    assert caplog.text.count("queue is paused") == 1
    assert await harness.queue.get_status("a") is JobStatus.PENDING
    assert worker.is_healthy()
    resumed_at = time.monotonic()
    await harness.queue.pause(paused=False)
    await harness.wait_for_end("a")
    assert time.monotonic() - resumed_at < fetcher.IDLE_SECONDS / 2
