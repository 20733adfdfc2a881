"""What an executor returns or raises decides the job's outcome."""

import asyncio
import time

import pytest
from support.executors import GatedExecutor, succeed
from support.wait import wait_until
from support.workers import (
    LONG_LEASE,
)

from aragora_q.base import Job, JobStatus
from aragora_q.context import current_attempt
from aragora_q.errors import PermanentError, RetryLater
from aragora_q.retry import RetryPolicy


class _Base(BaseException):
    pass


RAISED = {
    "ValueError": (ValueError("x"), "failed"),
    "TypeError": (TypeError("x"), "failed"),
    "KeyError": (KeyError("x"), "failed"),
    "PermanentError": (PermanentError("x"), "failed"),
    "message": (RuntimeError("model Not Found"), "failed"),
    "RuntimeError": (RuntimeError("x"), "retrying"),
    "Exception": (Exception("x"), "retrying"),
    "ConnectionError": (ConnectionError("host not found"), "retrying"),
    "TimeoutError": (TimeoutError("invalid"), "retrying"),
    "RetryLater": (RetryLater("busy", delay_seconds=60), "retrying"),
    "BaseException": (_Base("x"), "retrying"),
    "SystemExit": (SystemExit(3), "retrying"),
    "GeneratorExit": (GeneratorExit(), "retrying"),
    "CancelledError": (asyncio.CancelledError(), "retrying"),
    "ExceptionGroup": (ExceptionGroup("x", [ValueError("y"), OSError("z")]), "retrying"),
    "ExceptionGroup of one": (ExceptionGroup("x", [ValueError("y")]), "failed"),
}


@pytest.mark.parametrize(("error", "status"), RAISED.values(), ids=RAISED)
async def test_whatever_an_executor_raises_is_an_outcome(new_harness, worker_pool, error, status):
    """No exception escapes: the job is retried or failed as the table says, the worker goes on."""
    harness = new_harness(retry_base_delay=60, **LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise error
        return {}

    worker = worker_pool.start(harness, executor)
    await harness.enqueue("bad")
    await harness.enqueue("good")
    await harness.wait_for_end("good")

    async def settled():
        return await harness.queue.get_status("bad") == status

    await wait_until(settled, what=f"the job to be {status}")
    job = await harness.queue.get_job("bad")
    assert job.error
    assert job.attempts == (0 if isinstance(error, RetryLater) else 1)
    assert not worker.task.done()


RESULTS = {
    "none": (None, "not a JSON object"),
    "list": ([1], "not a JSON object"),
    "nan": ({"x": float("nan")}, "not JSON"),
    "object": ({"x": object()}, "not JSON"),
    "oversize": ({"x": "y" * 2000}, "max_result_bytes is 1000"),
}


@pytest.mark.parametrize(("result", "rule"), RESULTS.values(), ids=RESULTS)
async def test_results_that_cannot_be_kept_fail_the_job(new_harness, worker_pool, result, rule):
    """A result that is not a JSON object, or too large, makes a dead letter that says so."""
    harness = new_harness(max_result_bytes=1000, **LONG_LEASE)

    async def executor(job):
        return result

    worker_pool.start(harness, executor)
    await harness.enqueue("a")
    job = await harness.wait_for_end("a")
    assert job.status is JobStatus.FAILED
    assert rule in job.error


async def test_a_failed_job_keeps_its_partial_result(new_harness, worker_pool):
    """What an executor gives with a PermanentError is the result of the failed job, within the same bound."""
    harness = new_harness(max_result_bytes=1000, **LONG_LEASE)

    async def executor(job):
        raise PermanentError("no vote", partial_result={"answers": "x" * job.payload["n"]})

    worker_pool.start(harness, executor)
    await harness.queue.enqueue_many([Job({"n": n}, id=f"j{n}") for n in (1, 2000)])
    kept, large = await harness.wait_for_end("j1", "j2000")
    assert (kept.status, kept.result) == (JobStatus.FAILED, {"answers": "x"})
    assert kept.error == "PermanentError: no vote"
    assert (large.status, large.result) == (JobStatus.FAILED, None)
    assert "max_result_bytes is 1000); PermanentError: no vote" in large.error


@pytest.mark.slow
async def test_retries_until_it_works(new_harness, worker_pool):
    """A job that fails twice is run a third time, after its backoff, and completes."""
    harness, starts = new_harness(**LONG_LEASE), []

    async def executor(job):
        starts.append(time.monotonic())
        if job.attempts < 3:
            raise RuntimeError("not yet")
        return {"attempts": job.attempts}

    policy = RetryPolicy(base_delay_seconds=0.2, jitter=False)
    worker_pool.start(harness, executor, retry_policy=policy)
    await harness.enqueue("a")
    job = await harness.wait_for_end("a")
    assert job.result == {"attempts": 3}
    assert starts[1] - starts[0] > 0.198  # the server's clock counts whole milliseconds
    assert starts[2] - starts[1] > 0.398


async def test_timeout_seconds_is_kept(new_harness, worker_pool):
    """A job's own time limit ends its attempt, which is charged and may be retried."""
    harness = new_harness(**LONG_LEASE)
    worker_pool.start(harness, GatedExecutor())
    await harness.queue.enqueue(Job(payload={"timeout_seconds": 0.05}, id="a", max_attempts=1))
    job = await harness.wait_for_end("a")
    assert job.status is JobStatus.FAILED
    assert "no result within timeout_seconds (0.05)" in job.error


@pytest.mark.slow
async def test_executor_uses_its_attempt(new_harness, worker_pool):
    """Progress shows while the job runs; a checkpoint reaches the next attempt."""
    harness, go_on = new_harness(**LONG_LEASE), asyncio.Event()

    async def executor(job):
        attempt = current_attempt()
        kept = await attempt.checkpoints()
        await attempt.report_progress({"round": len(kept)})
        if not kept:
            await attempt.checkpoint("round", {"said": "x"})
            await go_on.wait()
            raise RuntimeError("after the checkpoint")
        return {"kept": kept, "last": attempt.is_last_attempt}

    worker_pool.start(harness, executor)
    await harness.enqueue("a", max_attempts=2)

    async def progress():
        return (await harness.queue.get_job("a")).progress == {"round": 0}

    await wait_until(progress, what="progress to show")
    go_on.set()
    assert (await harness.wait_for_end("a")).result == {
        "kept": {"round": {"said": "x"}},
        "last": True,
    }


async def test_malformed_payload_is_a_dead_letter(new_harness, worker_pool):
    """A payload that is not a JSON object fails only its own job, with the bytes kept."""
    harness = new_harness(**LONG_LEASE)
    worker_pool.start(harness, succeed)
    harness.write_raw({"id": "bytes", "payload": b"\xff\x00"})
    harness.write_raw({"id": "list", "payload": "[1]"})
    await harness.enqueue("good")
    odd, other, good = await harness.wait_for_end("bytes", "list", "good")
    assert (odd.status, other.status, good.status) == ("failed", "failed", "completed")
    assert odd.raw_payload == b"\xff\x00"
    assert "not an object" in other.error
