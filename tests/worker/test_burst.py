"""A burst worker ends when nothing is left that it can run."""

import asyncio

import pytest
from support.executors import GatedExecutor, succeed
from support.wait import wait_until
from support.workers import LONG_LEASE, lose_first_reply

from aragora_q.base import Job, JobStatus
from aragora_q.errors import HoldJob


async def test_burst_ends_when_nothing_is_left(new_harness, worker_pool):
    """A burst waits for retries and jobs due soon, but not for those due tomorrow."""
    harness = new_harness(retry_max_delay=1, **LONG_LEASE)
    await worker_pool.start(harness, succeed, burst=True).task
    await harness.enqueue("soon", delay_seconds=0.3)
    await harness.enqueue("tomorrow", delay_seconds=86_400)
    await harness.enqueue("flaky")

    async def executor(job):
        if job.id == "flaky" and job.attempts < 3:
            raise RuntimeError("not yet")
        return {"attempts": job.attempts}

    worker = worker_pool.start(harness, executor, burst=True)
    await worker.task
    assert (await harness.queue.get_job("flaky")).result == {"attempts": 3}
    assert await harness.queue.get_status("soon") is JobStatus.COMPLETED
    assert await harness.queue.get_status("tomorrow") is JobStatus.PENDING
    assert worker.get_stats()["jobs_processed"] == 2


async def test_burst_says_how_many_jobs_are_held(new_harness, worker_pool, caplog):
    """A burst ends although jobs are held, before it or by their own executor, and counts them."""
    harness = new_harness(**LONG_LEASE)
    await harness.enqueue("person")
    await harness.queue.hold("person")
    await harness.enqueue("executor")

    async def executor(job):
        raise HoldJob("ask first", cause="approval", by="policy")

    worker = worker_pool.start(harness, executor, burst=True)
    await worker.task
    [line] = [each for each in caplog.records if "burst is over" in each.getMessage()]
    assert (line.levelname, line.jobs) == ("WARNING", 2)
    job = await harness.queue.get_job("executor")
    assert (job.status, job.attempts, job.hold.by) == (JobStatus.HELD, 0, "policy")
    assert worker.get_stats()["jobs_failed"] == 0
    [line] = [each for each in caplog.records if each.getMessage().startswith("job held")]
    assert (line.cause, line.reason) == ("approval", "ask first")


async def test_burst_frees_what_has_room_again(new_harness, worker_pool):
    """Cron jobs need no other worker: what a budget held before is freed by the next burst, once per burst."""
    harness = new_harness(**LONG_LEASE)
    await harness.enqueue("poor")

    async def refused(job):
        raise HoldJob("no room", cause="budget", by="day", usd=0.4)

    await worker_pool.start(harness, refused, burst=True).task
    assert await harness.queue.get_status("poor") is JobStatus.HELD
    await worker_pool.start(harness, succeed, burst=True).task
    assert await harness.queue.get_status("poor") is JobStatus.COMPLETED


async def test_burst_ends_on_a_paused_queue(new_harness, worker_pool):
    """A burst does not wait for a resume; what already runs is finished first."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated, burst=True, max_concurrent=2)
    await harness.enqueue("running")
    await wait_until(lambda: gated.entered or worker.task.done())
    if worker.task.done():  # it was done before the job came
        worker = worker_pool.start(harness, gated, "w2", burst=True, max_concurrent=2)
        await wait_until(lambda: gated.entered)
    await harness.queue.pause()
    await harness.enqueue("late")
    gated.gate.set()
    await asyncio.wait_for(worker.task, 60)
    assert await harness.queue.get_status("running") is JobStatus.COMPLETED
    assert await harness.queue.get_status("late") is JobStatus.PENDING


@pytest.mark.parametrize("others", [0, 2])
async def test_burst_leaves_no_due_job_behind(new_harness, worker_pool, others):
    """A job that fell due before the burst began runs in it, also beside workers of the same queue."""
    harness = new_harness(**LONG_LEASE)
    await harness.queue.pause()
    for n in range(others):
        worker_pool.start(harness, succeed, f"other{n}")
    for n in range(5):
        job_id = f"j{n}"
        await harness.enqueue(job_id, delay_seconds=0.05)
        await asyncio.sleep(0.06)
        await harness.queue.pause(paused=False)
        burst = worker_pool.start(harness, succeed, f"burst{n}", burst=True)
        await asyncio.wait_for(burst.task, 60)
        assert await harness.queue.get_status(job_id) in ("completed", "processing")
        await harness.wait_for_end(job_id)
        await harness.queue.pause()


async def test_burst_runs_jobs_whose_start_got_no_reply(new_harness, worker_pool):
    """They are released first: a burst does not end while jobs are leased to it that it does not know."""
    harness = new_harness(**LONG_LEASE)
    names = [f"j{n}" for n in range(3)]
    await harness.queue.enqueue_many([Job(payload={}, id=name) for name in names])
    worker = worker_pool.start(harness, succeed, burst=True, max_concurrent=10)
    lost = lose_first_reply(worker)
    await asyncio.wait_for(worker.task, 60)
    assert lost
    assert [await harness.queue.get_status(name) for name in names] == ["completed"] * 3


async def test_burst_runs_what_another_process_promotes_last(new_harness, worker_pool):
    """Jobs that another process promotes after the burst found its lanes empty all run in it."""
    harness = new_harness(**LONG_LEASE)
    assert (await harness.queue.claim_maintenance("other", 60)).is_granted
    names = ["a", "b", "c"]
    for name in names:
        await harness.enqueue(name, delay_seconds=60)
    worker = worker_pool.start(harness, succeed, burst=True, max_concurrent=1)
    own, other = worker._fetcher._queue.promote, harness.other_client()

    async def promote():
        harness.redis.zadd(harness.keys.delayed, dict.fromkeys(names, 0), xx=True)
        await other.promote()
        return await own()

    worker._fetcher._queue.promote = promote
    await asyncio.wait_for(worker.task, 60)
    for name in names:
        assert await harness.queue.get_status(name) is JobStatus.COMPLETED


@pytest.mark.parametrize("concurrency", [1, 2, 4])
async def test_burst_waits_for_what_its_last_look_started(new_harness, worker_pool, concurrency):
    """However many of its slots the jobs fill that were promoted at the end."""
    harness = new_harness(retry_base_delay=0.1, **LONG_LEASE)
    for n in range(-(-concurrency // 2)):
        await harness.enqueue(f"flaky-{n}")

    async def executor(job):
        if job.attempts < 3:
            raise RuntimeError("not yet")
        return {}

    worker = worker_pool.start(harness, executor, burst=True, max_concurrent=concurrency)
    await worker.task
    assert harness.counters()["completed"] == -(-concurrency // 2)
