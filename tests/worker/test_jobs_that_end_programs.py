"""Jobs that raise KeyboardInterrupt or SystemExit, or touch signals, end as jobs do; their worker goes on."""

import signal

import pytest
from support.wait import wait_until

from aragora_q.base import JobStatus

WAYS = ["own", "child", "group", "exit", "exit in a child", "thread", "callback", "stop"]


@pytest.fixture
def worker(worker_process, redis_url):
    """A worker process whose executor does what a job's id says."""
    return worker_process(redis_url, executor="support.rude_executor:make").wait_until_started()


async def test_no_job_ends_its_worker(new_harness, worker):
    """Each is charged, retried, and fails in our words; those that only touch the loop complete."""
    harness = new_harness()
    for n, way in enumerate(WAYS):
        await harness.enqueue_payload(f"j{n}", {"way": way}, max_attempts=2)
    for n in range(len(WAYS)):
        await harness.wait_for_end(f"j{n}")
    await harness.enqueue_payload("after", {"way": "none"})
    await harness.wait_for_status("after", JobStatus.COMPLETED)
    for n, way in enumerate(WAYS):
        job = await harness.queue.get_job(f"j{n}")
        if way in ("callback", "stop"):
            assert job.status is JobStatus.COMPLETED
        else:
            assert (job.status, job.attempts, job.crashes) == (JobStatus.FAILED, 2, 0), way
            assert job.error.split(":")[0] in ("KeyboardInterrupt", "SystemExit"), way
    assert worker.is_alive
    assert "Traceback (most recent call last)" not in worker.text()
    assert worker.stop() == -signal.SIGTERM


async def test_signal_handlers_of_a_job_do_not_stay(new_harness, worker):
    """A job that makes its process ignore SIGTERM: the worker says so, and obeys again."""
    harness = new_harness()
    await harness.enqueue_payload("deaf", {"way": "ignore signals"})
    await harness.wait_for_status("deaf", JobStatus.COMPLETED)
    await wait_until(
        lambda: "replaced a signal handler" in worker.text(), what="the restored handler"
    )
    assert worker.stop() == -signal.SIGTERM


async def test_a_job_that_cancels_the_worker_is_named_as_the_cause(new_harness, worker):
    """One line and exit code 1, no traceback; the jobs are released."""
    harness = new_harness()
    await harness.enqueue_payload("a", {"way": "cancel all"})
    assert worker.wait_for_exit() == 1
    assert "error: a job cancelled the worker's tasks" in worker.text()
    assert "Traceback" not in worker.text()
    assert await harness.queue.get_status("a") is JobStatus.PENDING
