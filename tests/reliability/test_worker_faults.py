"""Fault matrix of docs/reliability.md: workers that freeze, block, die, or whose clock is wrong."""

import resource
import signal

import pytest
from support import invariants
from support.wait import wait_until

from aragora_q.base import Job, JobStatus

pytestmark = pytest.mark.slow


async def test_a_frozen_worker_loses_its_job_once(redis_url, new_harness, worker_process, tmp_path):
    """Row 2: after its lease another worker has its job; its own result is refused."""
    harness, notes, may_end = new_harness(), tmp_path / "notes", tmp_path / "may-end"
    options = {"environment": {"RUN_LOG_FILE": str(notes)}}
    frozen = worker_process(redis_url, "frozen", **options).wait_until_started()
    await harness.enqueue_steps("a", ["note"], ["until", str(may_end)])
    await wait_until(notes.exists, what="the attempt to run")
    fence = harness.fields("a")["fence"]
    frozen.signal(signal.SIGSTOP)
    may_end.touch()
    worker_process(redis_url, "other", **options)
    await wait_until(
        lambda: harness.fields("a").get("fence") != fence, 60, "the job to be taken over"
    )
    frozen.signal(signal.SIGCONT)
    job = await harness.wait_for_status("a", JobStatus.COMPLETED)
    assert job.fence > int(fence)
    assert (job.crashes, job.attempts) == (1, 1)
    assert harness.counters()["completed"] == 1
    await wait_until(
        lambda: "lost" in frozen.text(), 60, "the zombie to learn that it lost the job"
    )


async def test_a_blocked_loop_keeps_its_job(redis_url, new_harness, worker_process):
    """Row 3: time.sleep for longer than a lease; the renewal thread keeps the job."""
    harness = new_harness()
    worker_process(redis_url, "blocked").wait_until_started()
    worker_process(redis_url, "other").wait_until_started()
    await harness.enqueue_steps("a", ["block", 3])
    job = await harness.wait_for_status("a", JobStatus.COMPLETED)
    assert job.crashes == 0
    assert harness.counters()["started"] == 1


@pytest.mark.parametrize("poison", ["exit", "eat"])
async def test_poison(redis_url, new_harness, worker_process, poison):
    """Row 4: a job that ends its worker fails after the permitted number of crashes."""
    harness = new_harness()
    await harness.enqueue_steps("bad", [poison], max_attempts=2)
    await harness.enqueue_steps("good", ["sleep", 0.05])
    worker = worker_process(redis_url, "w1", slots=1)  # jobs beside it would be charged, too

    def limit_memory():
        if poison == "eat" and worker.is_alive:
            size = 400 * 1024 * 1024
            resource.prlimit(worker.process.pid, resource.RLIMIT_AS, (size, size))

    async def is_over():
        if not worker.is_alive:
            worker.start()
        limit_memory()
        return await harness.queue.get_status("bad") == JobStatus.FAILED

    await wait_until(is_over, 100, "the poison to fail")
    job = await harness.queue.get_job("bad")
    if poison == "exit":
        assert job.crashes == 3
        assert "w1" in job.error
    assert job.attempts <= 2
    await harness.wait_for_status("good", JobStatus.COMPLETED)


async def test_poison_fails_no_other_job(redis_url, new_harness, worker_process):
    """Row 4: jobs that run beside a poison pill are charged its crashes, but complete."""
    harness, harmless = new_harness(), ["before", "behind"]
    for name in ("before", "bad", "behind"):
        steps = [["sleep", 0.1], ["exit"]] if name == "bad" else [["sleep", 0.5]]
        await harness.queue.enqueue(Job(payload={"do": steps}, id=name))
    worker = worker_process(redis_url, "w1", slots=5)

    async def is_over():
        if not worker.is_alive:
            worker.start()
        stats = await harness.queue.get_queue_stats()
        return stats["completed"] + stats["failed"] == 3

    await wait_until(is_over, 60, "all jobs to end")
    jobs = {name: await harness.queue.get_job(name) for name in ("bad", *harmless)}
    assert {name: job.status for name, job in jobs.items()} == {
        "bad": JobStatus.FAILED,
        **dict.fromkeys(harmless, JobStatus.COMPLETED),
    }
    assert {job.crashes for job in jobs.values()} == {2, 3}, "they were beside it, twice"
    invariants.check(harness.redis, harness.keys.queue_prefix)
