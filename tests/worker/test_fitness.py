"""A worker whose machine or process cannot run jobs hands them back and backs off."""

import errno
import logging

import pytest
from support.executors import succeed
from support.wait import wait_until
from support.workers import LONG_LEASE

from aragora_q.base import JobStatus
from aragora_q.errors import WorkerUnable
from aragora_q.worker import fitness

JOBS = 20


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(fitness, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(fitness, "MAX_PAUSE_SECONDS", 0.3)
    monkeypatch.setattr(fitness, "TRIAL_SECONDS", 0.1)


class _Broken:
    """Raises `error` until it is repaired; counts the calls that met it."""

    def __init__(self, error):
        self.error = error
        self.failures = 0

    async def __call__(self, job):
        if self.error:
            self.failures += 1
            raise self.error
        return await succeed(job)


@pytest.mark.parametrize(
    "error",
    [WorkerUnable("no program"), OSError(errno.EMFILE, "Too many open files")],
    ids=["unable", "limit"],
)
async def test_trouble_of_the_worker_charges_no_job(new_harness, worker_pool, caplog, error):
    """No attempt is charged, the backlog is not eaten, health fails, one line says why; then all run."""
    caplog.set_level(logging.INFO)
    harness = new_harness(retry_base_delay=0.05, **LONG_LEASE)
    executor = _Broken(error)
    worker = worker_pool.start(harness, executor, max_concurrent=5)
    ids = [(await harness.enqueue(f"j{n}")).id for n in range(JOBS)]
    # If the machine stalls during a trial, the trouble is over until the job of the trial has run.
    await wait_until(lambda: executor.failures >= 8 and not worker.is_healthy(), what="some trials")
    assert (
        "no program" in worker.get_stats()["trouble"]
        or "open files" in worker.get_stats()["trouble"]
    )
    lines = [record for record in caplog.records if "cannot run jobs" in record.getMessage()]
    assert len(lines) == 1
    assert executor.failures < JOBS
    executor.error = None
    for job_id in ids:
        await harness.wait_for_end(job_id)
    for job_id in ids:
        job = await harness.queue.get_job(job_id)
        assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)
    await wait_until(worker.is_healthy, what="the worker to be healthy")


async def test_another_worker_takes_what_is_handed_back(new_harness, worker_pool):
    """A machine that cannot run jobs does not keep them from one that can."""
    harness = new_harness(**LONG_LEASE)
    worker_pool.start(harness, _Broken(WorkerUnable("no program")), worker_id="broken")
    worker_pool.start(harness, succeed, worker_id="sound")
    for n in range(JOBS):
        await harness.enqueue(f"j{n}")
    for n in range(JOBS):
        await harness.wait_for_end(f"j{n}")
        assert (await harness.queue.get_job(f"j{n}")).attempts == 1


async def test_a_burst_does_not_bear_with_it(new_harness, worker_pool, monkeypatch):
    """A worker in burst mode, as cron starts it, ends with an error; the job waits uncharged."""
    monkeypatch.setattr(fitness, "BURST_PATIENCE_SECONDS", 0.5)
    harness = new_harness(**LONG_LEASE)
    await harness.enqueue("a")
    worker = worker_pool.start(harness, _Broken(WorkerUnable("no program")), burst=True)
    with pytest.raises(WorkerUnable, match="no program"):
        await worker.task
    job = await harness.queue.get_job("a")
    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)


async def test_a_job_that_fakes_a_trouble_is_charged(new_harness, worker_pool):
    """A job that meets a trouble while all others complete fails in the end, and the worker is healthy."""
    harness = new_harness(retry_base_delay=0.01, retry_max_delay=0.01, **LONG_LEASE)

    async def run(job):
        if job.id == "poison":
            raise WorkerUnable("no program")
        return await succeed(job)

    worker = worker_pool.start(harness, run)
    await harness.enqueue("poison")
    number = 0
    while (poison := await harness.queue.get_job("poison")).status != JobStatus.FAILED:
        number += 1
        await harness.enqueue(f"sound-{number}")
        await harness.wait_for_end(f"sound-{number}")
    assert "only this job" in poison.error
    assert (poison.attempts, poison.crashes) == (3, 0)
    await wait_until(worker.is_healthy, what="the worker to be healthy")
