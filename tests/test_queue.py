"""The queue in a few pages: what a user of the library may rely on, each promise once.

The short way in, and what `pytest tests/test_queue.py -v` runs; the folders beside it go deeper.
"""

import asyncio
from contextlib import asynccontextmanager

import invariants
import pytest
from stage import Stage
from waiting import wait_until

from aragora_q import (
    DebateWorker,
    Job,
    JobStatus,
    PermanentError,
    RetryLater,
    create_debate_job,
    current_attempt,
)


@pytest.fixture
async def stage(redis_url):
    """An empty queue with short leases and short delays."""
    stage = Stage(redis_url)
    yield stage
    invariants.check(stage.raw, stage.keys.stem)
    await stage.close()


@asynccontextmanager
async def working(queue, executor, **options):
    """A worker that runs meanwhile."""
    worker = DebateWorker(queue=queue, worker_id="worker-1", executor=executor, **options)
    running = asyncio.create_task(worker.start())
    try:
        yield worker
    finally:
        await worker.stop()
        await running


async def ended(queue, job_id):
    """The job, once it has ended."""

    async def is_terminal():
        status = await queue.get_status(job_id)
        return status is not None and status.is_terminal

    await wait_until(is_terminal)
    return await queue.get_job(job_id)


async def echo(job):
    return {"echo": job.payload}


async def test_debate_from_enqueue_to_result(stage):
    """PENDING, PROCESSING, COMPLETED; the result is what the executor returned."""
    may_end = asyncio.Event()

    async def executor(job):
        await may_end.wait()
        return {"final_answer": job.payload["question"]}

    job_id = await stage.queue.enqueue(create_debate_job("Why?", ["claude", "gpt"]))
    assert await stage.queue.get_status(job_id) == "pending"
    async with working(stage.queue, executor) as worker:
        await wait_until(lambda: worker.get_stats()["active_jobs"] == 1)
        assert await stage.queue.get_status(job_id) is JobStatus.PROCESSING
        may_end.set()
        job = await ended(stage.queue, job_id)
    assert job.status is JobStatus.COMPLETED
    assert job.result == {"final_answer": "Why?"}
    assert job.attempts == 1
    assert worker.get_stats()["jobs_processed"] == 1


async def test_same_id_is_one_job(stage):
    """Enqueueing again, also after the job has ended, changes nothing."""
    await stage.enqueue("order-17")
    await stage.enqueue("order-17")
    async with working(stage.queue, echo) as worker:
        await ended(stage.queue, "order-17")
        await stage.enqueue("order-17")
        await stage.enqueue("other")
        await ended(stage.queue, "other")
    assert worker.get_stats()["jobs_processed"] == 2


async def test_failing_job_is_retried_up_to_its_attempts(stage):
    """Three starts, the first included; then it is failed, with its last error."""
    starts = []

    async def executor(job):
        starts.append(job.attempts)
        raise RuntimeError(f"boom {job.attempts}")

    await stage.enqueue("j1")
    async with working(stage.queue, executor) as worker:
        job = await ended(stage.queue, "j1")
    assert starts == [1, 2, 3]
    assert (job.status, job.error) == (JobStatus.FAILED, "RuntimeError: boom 3")
    assert worker.get_stats()["jobs_failed"] == 1


async def test_permanent_error_fails_at_once(stage):
    """What cannot get better is not tried again."""

    async def executor(job):
        raise PermanentError("no such model")

    await stage.enqueue("j1")
    async with working(stage.queue, executor):
        job = await ended(stage.queue, "j1")
    assert (job.status, job.attempts) == (JobStatus.FAILED, 1)


async def test_retry_later_is_not_charged(stage):
    """A rate limit costs no attempt."""
    starts = []

    async def executor(job):
        starts.append(job.attempts)
        if len(starts) < 3:
            raise RetryLater("rate limited", delay_seconds=0)
        return {}

    await stage.enqueue("j1")
    async with working(stage.queue, executor):
        job = await ended(stage.queue, "j1")
    assert starts == [1] * 3
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)


async def test_job_of_a_dead_worker_runs_again(stage):
    """A worker that falls silent loses its job to one that lives; the crash is counted, no attempt is."""
    await stage.enqueue("j1")
    dead = await stage.worker("dead")
    await stage.started(dead)
    async with working(stage.queue, echo):
        job = await ended(stage.queue, "j1")
    assert (job.status, job.crashes, job.attempts) == (JobStatus.COMPLETED, 1, 1)
    assert job.worker_id == "worker-1"


async def test_checkpoint_outlives_the_attempt(stage):
    """What an attempt saved, the next one finds."""

    async def executor(job):
        attempt = current_attempt()
        kept = await attempt.checkpoints()
        if not kept:
            await attempt.checkpoint("round-1", {"answer": 42})
            raise ConnectionError("provider went away")
        return kept

    await stage.enqueue("j1")
    async with working(stage.queue, executor):
        job = await ended(stage.queue, "j1")
    assert job.result == {"round-1": {"answer": 42}}
    assert job.attempts == 2


async def test_cancel_is_immediate_and_final(stage):
    """A running job is cancelled at once; what its executor would still say is not heard."""
    was_stopped = asyncio.Event()

    async def executor(job):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_stopped.set()
            return {"too": "late"}

    await stage.enqueue("j1")
    async with working(stage.queue, executor) as worker:
        await wait_until(lambda: worker.get_stats()["active_jobs"] == 1)
        assert await stage.queue.cancel("j1")
        assert await stage.queue.get_status("j1") is JobStatus.CANCELLED
        await asyncio.wait_for(was_stopped.wait(), 10)
    assert (await stage.queue.get_job("j1")).result is None


async def test_urgent_jobs_go_first(stage):
    """High before normal before low; first in, first out among equals."""
    order = []

    async def executor(job):
        order.append(job.id)
        return {}

    for job_id, priority in (("low", -1), ("n1", 0), ("n2", 0), ("high", 1)):
        await stage.queue.enqueue(Job({}, id=job_id, priority=priority))
    async with working(stage.queue, executor, max_concurrent=1):
        await ended(stage.queue, "low")
    assert order == ["high", "n1", "n2", "low"]


async def test_delayed_job_waits_until_it_is_due(stage):
    """It is pending and in no stream until then, and runs soon after."""
    await stage.queue.enqueue(Job({}, id="j1", delay_seconds=0.3))
    assert await stage.queue.get_status("j1") is JobStatus.PENDING
    assert not stage.entries()
    async with working(stage.queue, echo):
        job = await ended(stage.queue, "j1")
    assert job.started_at - job.created_at >= 0.3


async def test_leaving_worker_hands_its_job_back(stage):
    """A worker that must go at once releases its job, uncharged, for the next worker."""
    started = asyncio.Event()

    async def slow(job):
        started.set()
        await asyncio.Event().wait()

    await stage.enqueue("j1")
    async with working(stage.queue, slow) as worker:
        await started.wait()
        await worker.stop(immediately=True)
    assert await stage.queue.get_status("j1") is JobStatus.PENDING
    async with working(stage.queue, echo):
        job = await ended(stage.queue, "j1")
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)


async def test_statistics_of_an_unused_queue_are_zero(stage):
    """Before the first job nothing is missing: zeros and an empty list."""
    stats = await stage.queue.get_queue_stats()
    assert (stats["stream_length"], stats["pending_count"], stats["groups"]) == (0, 0, [])
