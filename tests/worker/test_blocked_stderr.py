"""A worker whose stderr is not read: a log pipe that is full must not stop it."""

import os
import subprocess

from support import processes
from support.wait import wait_until

from aragora_q.base import JobStatus


async def test_jobs_run_although_stderr_is_full(new_harness, redis_url):
    """Jobs complete and SIGTERM ends the worker; what could be kept is written once it is read."""
    harness = new_harness()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    filled = 0
    try:
        while True:
            filled += os.write(write_end, b"\n" * 4096)
    except BlockingIOError:
        pass
    worker = subprocess.Popen(
        processes.cli("worker", "--executor", "support.executors:make", "--metrics-port", "0"),
        env=processes.env(REDIS_URL=redis_url, ARAGORA_QUEUE_CLAIM_IDLE_MS="2000"),
        stderr=write_end,
    )
    os.close(write_end)
    try:
        await harness.enqueue_steps("a")
        await harness.wait_for_status("a", JobStatus.COMPLETED)
        await harness.enqueue_steps("b", ["sleep", 0.1])
        await harness.wait_for_status("b", JobStatus.COMPLETED)
        with os.fdopen(read_end, "rb") as stderr:
            assert stderr.read(filled).strip() == b""
            worker.terminate()
            assert b"worker started" in stderr.read()
        await wait_until(lambda: worker.poll() is not None, 60)
        assert worker.returncode == -15
    finally:
        worker.kill()
        worker.wait()


async def test_a_worker_whose_stderr_stays_full_ends(new_harness, redis_url):
    """The last lines are given up after a second; the exit code is that of the signal."""
    harness = new_harness()
    read_end, write_end = os.pipe()
    worker = subprocess.Popen(
        processes.cli("worker", "--executor", "support.executors:make", "--metrics-port", "0"),
        env=processes.env(REDIS_URL=redis_url),
        stderr=write_end,
    )
    try:
        await harness.enqueue_steps("a")
        await harness.wait_for_status("a", JobStatus.COMPLETED)
        os.set_blocking(write_end, False)
        try:
            while True:
                os.write(write_end, b"\n" * 4096)
        except BlockingIOError:
            os.set_blocking(write_end, True)
        worker.terminate()
        await wait_until(lambda: worker.poll() is not None, 60)
        assert worker.returncode == -15
    finally:
        worker.kill()
        worker.wait()
        os.close(read_end)
        os.close(write_end)
