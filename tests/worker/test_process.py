"""`aragora-q worker` as a process: signals, exit codes, reload."""

import signal
import subprocess

import psutil
import pytest
from support.wait import wait_until

from aragora_q.base import JobStatus


@pytest.mark.slow
async def test_sigterm_drains(new_harness, worker_process, redis_url, tmp_path):
    """SIGTERM: the running job ends and is recorded, no other begins, exit 143, nothing left behind."""
    harness, may_end = new_harness(), tmp_path / "may-end"
    worker = worker_process(redis_url)
    await harness.enqueue_steps("running", ["until", str(may_end)])
    await harness.wait_for_status("running", JobStatus.PROCESSING)
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    await harness.enqueue_steps("late")
    may_end.touch()
    assert worker.wait_for_exit() == 143, worker.text()
    assert (await harness.queue.get_job("running")).status is JobStatus.COMPLETED
    assert await harness.queue.get_status("late") is JobStatus.PENDING
    assert (await harness.queue.get_queue_stats())["workers"] == []
    assert "worker stopped" in worker.text()
    assert "Traceback" not in worker.text()


@pytest.mark.slow
async def test_second_signal_releases(new_harness, worker_process, redis_url):
    """A second signal, even with every slot busy, releases the running jobs at once, uncharged."""
    harness = new_harness()
    worker = worker_process(redis_url, slots=1)
    await harness.enqueue_steps("long", ["sleep", 60])
    await harness.wait_for_status("long", JobStatus.PROCESSING)
    worker.signal(signal.SIGINT)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_exit() == 130, worker.text()
    job = await harness.queue.get_job("long")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)


@pytest.mark.slow
async def test_jobs_in_threads_do_not_delay_the_exit(new_harness, worker_process, redis_url):
    """More jobs than threads, each asleep in one: they are released, and the process ends."""
    harness = new_harness()
    worker = worker_process(redis_url, slots=40)
    for n in range(40):
        await harness.enqueue_steps(f"j{n}", ["thread", 60])
    await wait_until(lambda: len(harness.pending()) == 40, 60, "all to run")
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_exit(30) == 143, worker.text()
    assert "worker stopped" in worker.text()
    job = await harness.queue.get_job("j0")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)


@pytest.mark.slow
async def test_signal_after_the_end_is_final(new_harness, worker_process, redis_url):
    """A job that ignores cancellation can keep the process, but not against one more signal."""
    harness = new_harness()
    worker = worker_process(redis_url)
    await harness.enqueue_steps("stubborn", ["stay"])
    await harness.wait_for_status("stubborn", JobStatus.PROCESSING)
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "worker stopped" in worker.text(), 60, "it to give up")

    def is_gone():
        worker.signal(signal.SIGTERM)
        return not worker.is_alive

    await wait_until(is_gone, 60, "the process to end")
    assert worker.wait_for_exit() == 143, worker.text()


@pytest.mark.slow
async def test_process_1_waits_for_no_thread(new_harness, worker_process, redis_url):
    """In a container no signal kills process 1: it exits without waiting for threads of jobs."""
    apart = ("unshare", "--pid", "--fork", "--kill-child")
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to make a PID namespace")
    harness = new_harness()
    worker = worker_process(redis_url, before=apart).wait_until_started()
    await harness.enqueue_steps("a", ["thread", 60])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    [first] = psutil.Process(worker.process.pid).children()
    first.terminate()
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    first.terminate()
    assert worker.wait_for_exit(30) == 143, worker.text()
    assert await harness.queue.get_status("a") is JobStatus.PENDING


@pytest.mark.slow
async def test_burst_exits_0(new_harness, worker_process, redis_url):
    """A burst ends by itself when all is done."""
    harness = new_harness()
    await harness.enqueue_steps("a")
    worker = worker_process(redis_url, "p1", "--burst")
    assert worker.wait_for_exit() == 0, worker.text()
    assert await harness.queue.get_status("a") is JobStatus.COMPLETED
