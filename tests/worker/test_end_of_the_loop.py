"""A program that ends, or forks, while its worker runs jobs."""

import asyncio
import signal

import pytest
from support.wait import wait_until
from support.worker_processes import run_burst_worker

from aragora_q import DebateWorker, JobStatus, RedisStreamsQueue


@pytest.mark.filterwarnings(
    "ignore:loop is closed:ResourceWarning",  # the program leaves its queue open
    "ignore:unclosed:ResourceWarning",
)
async def test_jobs_of_a_program_that_just_ends_are_not_charged(harness):
    """asyncio.run cancels all tasks when its main task returns: running jobs are released."""
    for job_id in ("a", "b"):
        await harness.enqueue(job_id, max_attempts=1)

    async def main():
        queue, running = RedisStreamsQueue(harness.queue.config), set()

        async def executor(job):
            running.add(job.id)
            await asyncio.Event().wait()

        worker = DebateWorker(queue, "w1", executor=executor, max_concurrent=2)
        task = asyncio.create_task(worker.start())
        await wait_until(lambda: len(running) == 2)
        assert not task.done()

    await asyncio.to_thread(asyncio.run, main())
    for job_id in ("a", "b"):
        job = await harness.queue.get_job(job_id)
        assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)


@pytest.mark.slow
async def test_a_signal_to_a_forked_child_is_not_one_to_the_worker(harness, tmp_path):
    """A job forks a process and terminates it: the child ends, the worker goes on."""
    (tmp_path / "forks.py").write_text(
        "import asyncio, os, signal, time\n"
        "async def run(job):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "    await asyncio.sleep(0.2)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    _, status = await asyncio.to_thread(os.waitpid, child, 0)\n"
        "    await asyncio.sleep(0.5)\n"
        "    return {'signal': os.WTERMSIG(status)}\n"
        "def make():\n"
        "    return run\n"
    )
    await harness.enqueue("a")
    url, path = harness.queue.config.redis_url, str(tmp_path)
    await asyncio.to_thread(run_burst_worker, url, "--executor", "forks:make", PYTHONPATH=path)
    job = await harness.queue.get_job("a")
    assert (job.status, job.result) == (JobStatus.COMPLETED, {"signal": signal.SIGTERM})
