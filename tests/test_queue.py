"""The queue in a few pages: what a user of the library may rely on, each promise once.

Start reading here: `pytest tests/test_queue.py -v`. The folders next to it have the details.
"""

import asyncio
from contextlib import asynccontextmanager

from support.wait import wait_until

from aragora_q import (
    DebateWorker,
    Job,
    JobStatus,
    PermanentError,
    RetryLater,
    create_debate_job,
    current_attempt,
)


@asynccontextmanager
async def working(queue, executor, **options):
    """Run a worker during the block."""
    worker = DebateWorker(queue=queue, worker_id="worker-1", executor=executor, **options)
    running = asyncio.create_task(worker.start())
    try:
        yield worker
    finally:
        await worker.stop()
        await running


async def echo(job):
    return {"echo": job.payload}


async def test_debate_from_enqueue_to_result(harness):
    """PENDING, PROCESSING, COMPLETED; the result is what the executor returned."""
    may_end = asyncio.Event()

    async def executor(job):
        await may_end.wait()
        return {"final_answer": job.payload["question"]}

    job_id = await harness.queue.enqueue(create_debate_job("Why?", ["claude", "gpt"]))
    assert await harness.queue.get_status(job_id) == "pending"
    async with working(harness.queue, executor) as worker:
        await wait_until(lambda: worker.get_stats()["active_jobs"] == 1)
        assert await harness.queue.get_status(job_id) is JobStatus.PROCESSING
        may_end.set()
        job = await harness.wait_for_end(job_id)
    assert job.status is JobStatus.COMPLETED
    assert job.result == {"final_answer": "Why?"}
    assert job.attempts == 1
    assert worker.get_stats()["jobs_processed"] == 1


async def test_same_id_is_one_job(harness):
    """Enqueueing again, also after the job has ended, changes nothing."""
    await harness.enqueue("order-17")
    await harness.enqueue("order-17")
    async with working(harness.queue, echo) as worker:
        await harness.wait_for_end("order-17")
        await harness.enqueue("order-17")
        await harness.enqueue("other")
        await harness.wait_for_end("other")
    assert worker.get_stats()["jobs_processed"] == 2


async def test_failing_job_is_retried_up_to_its_attempts(harness):
    """Three starts, the first included; then it is failed, with its last error."""
    starts = []

    async def executor(job):
        starts.append(job.attempts)
        raise RuntimeError(f"boom {job.attempts}")

    await harness.enqueue("j1")
    async with working(harness.queue, executor) as worker:
        job = await harness.wait_for_end("j1")
    assert starts == [1, 2, 3]
    assert (job.status, job.error) == (JobStatus.FAILED, "RuntimeError: boom 3")
    assert worker.get_stats()["jobs_failed"] == 1


async def test_permanent_error_fails_at_once(harness):
    """A permanent error is not retried."""

    async def executor(job):
        raise PermanentError("no such model")

    await harness.enqueue("j1")
    async with working(harness.queue, executor):
        job = await harness.wait_for_end("j1")
    assert (job.status, job.attempts) == (JobStatus.FAILED, 1)


async def test_retry_later_is_not_charged(harness):
    """A rate limit costs no attempt."""
    starts = []

    async def executor(job):
        starts.append(job.attempts)
        if len(starts) < 3:
            raise RetryLater("rate limited", delay_seconds=0)
        return {}

    await harness.enqueue("j1")
    async with working(harness.queue, executor):
        job = await harness.wait_for_end("j1")
    assert starts == [1] * 3
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)


async def test_job_of_a_dead_worker_runs_again(new_harness):
    """A worker without heartbeats loses its job to a live one; a crash is counted, no attempt is charged."""
    harness = new_harness(claim_idle_ms=1000)
    await harness.enqueue("j1")
    dead = await harness.worker("dead")
    await harness.start_one(dead)
    async with working(harness.queue, echo):
        job = await harness.wait_for_end("j1")
    assert (job.status, job.crashes, job.attempts) == (JobStatus.COMPLETED, 1, 1)
    assert job.worker_id == "worker-1"


async def test_checkpoint_outlives_the_attempt(harness):
    """The next attempt gets what an earlier one has saved."""

    async def executor(job):
        attempt = current_attempt()
        kept = await attempt.checkpoints()
        if not kept:
            await attempt.checkpoint("round-1", {"answer": 42})
            raise ConnectionError("provider went away")
        return kept

    await harness.enqueue("j1")
    async with working(harness.queue, executor):
        job = await harness.wait_for_end("j1")
    assert job.result == {"round-1": {"answer": 42}}
    assert job.attempts == 2


async def test_cancel_is_immediate_and_final(new_harness):
    """A running job is cancelled at once; its executor's later result is ignored."""
    harness = new_harness(claim_idle_ms=2000)  # the worker learns of it with the next renewal
    was_stopped = asyncio.Event()

    async def executor(job):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_stopped.set()
            return {"too": "late"}

    await harness.enqueue("j1")
    async with working(harness.queue, executor) as worker:
        await wait_until(lambda: worker.get_stats()["active_jobs"] == 1)
        assert await harness.queue.cancel("j1")
        assert await harness.queue.get_status("j1") is JobStatus.CANCELLED
        await asyncio.wait_for(was_stopped.wait(), 30)
    assert (await harness.queue.get_job("j1")).result is None


async def test_urgent_jobs_go_first(harness):
    """High is done before normal, normal before low; first in, first out in each lane.

    Lanes are drawn at random: with 30 jobs in each, another order is rarer than one in a million.
    """
    order = []

    async def executor(job):
        order.append(job.id)
        return {}

    lanes = {"low": -1, "normal": 0, "high": 1}
    for lane, priority in lanes.items():
        jobs = [Job({}, id=f"{lane}-{n:02}", priority=priority) for n in range(30)]
        await harness.queue.enqueue_many(jobs)
    async with working(harness.queue, executor, max_concurrent=1):
        await harness.wait_for_completed(90)
    by_lane = {lane: [job_id for job_id in order if lane in job_id] for lane in lanes}
    ends = {lane: order.index(by_lane[lane][-1]) for lane in lanes}
    assert ends["high"] < ends["normal"] < ends["low"]
    assert all(ids == sorted(ids) for ids in by_lane.values())


async def test_delayed_job_waits_until_it_is_due(harness):
    """It is pending and in no stream until it is due, and runs soon after."""
    await harness.queue.enqueue(Job({}, id="j1", delay_seconds=0.3))
    assert await harness.queue.get_status("j1") is JobStatus.PENDING
    assert not harness.entries()
    async with working(harness.queue, echo):
        job = await harness.wait_for_end("j1")
    assert round((job.started_at - job.created_at) * 1000) >= 300


async def test_stopped_worker_releases_its_job(harness):
    """A worker that must stop at once releases its job, uncharged, for the next worker."""
    started = asyncio.Event()

    async def slow(job):
        started.set()
        await asyncio.Event().wait()

    await harness.enqueue("j1")
    async with working(harness.queue, slow) as worker:
        await started.wait()
        await worker.stop(immediately=True)
    assert await harness.queue.get_status("j1") is JobStatus.PENDING
    async with working(harness.queue, echo):
        job = await harness.wait_for_end("j1")
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)


async def test_statistics_of_an_unused_queue_are_zero(harness):
    """Before the first job: zeros and an empty list."""
    stats = await harness.queue.get_queue_stats()
    assert (stats["stream_length"], stats["pending_count"], stats["groups"]) == (0, 0, [])
