"""Worker processes that are killed or frozen: their jobs run elsewhere."""

import signal

import pytest
from support.wait import wait_until, wait_until_sync

from aragora_q.base import Job, JobStatus
from aragora_q.job import create_debate_job

pytestmark = pytest.mark.slow


async def test_killed_worker_is_replaced_by_another(
    new_harness, worker_process, redis_url, tmp_path
):
    """kill -9 in mid-job: the job runs once more, elsewhere, completes once, charged one attempt."""
    harness = new_harness(claim_idle_ms=2000)
    may_end = tmp_path / "may-end"
    both = {name: worker_process(redis_url, name, slots=1) for name in ("p1", "p2")}
    for worker in both.values():
        worker.wait_until_started()
    await harness.enqueue_steps("a", ["until", str(may_end)])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    victim = both[(await harness.queue.get_job("a")).worker_id]
    victim.kill()
    may_end.touch()
    job = await harness.wait_for_end("a")
    assert job.status is JobStatus.COMPLETED
    assert (job.attempts, job.crashes) == (1, 1)
    assert job.result == {"attempt": 1, "fence": job.fence, "crashes": 1}
    assert job.worker_id != victim.worker_id
    counters = harness.counters()
    assert (counters["started"], counters["completed"], counters["crashed"]) == (2, 1, 1)


async def test_restarted_worker_takes_its_jobs_at_once(
    new_harness, worker_process, redis_url, tmp_path
):
    """A worker restarted with its id after kill -9 waits neither for its id nor for the lease."""
    harness, may_end = new_harness(claim_idle_ms=60_000), tmp_path / "may-end"
    process_options = {"slots": 1, "lease_ms": 60_000}
    worker = worker_process(redis_url, "p1", **process_options).wait_until_started()
    await harness.enqueue_steps("a", ["until", str(may_end)])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    worker.kill()
    may_end.touch()
    worker.start().wait_until_started()
    worker_process(redis_url, "p2", lease_ms=2000)  # its short lease makes it reclaim more often
    job = await harness.wait_for_end("a", timeout=30)
    assert (job.status, job.crashes) == (JobStatus.COMPLETED, 1)


async def test_frozen_worker_learns_that_it_lost_its_job(
    new_harness, worker_process, redis_url, tmp_path
):
    """SIGSTOP beyond the lease: another worker completes the job, and the old one's result is refused."""
    harness = new_harness(claim_idle_ms=2000)
    notes, may_end = tmp_path / "notes", tmp_path / "may-end"
    options = {"slots": 1, "environment": {"RUN_LOG_FILE": str(notes)}}
    frozen = worker_process(redis_url, "p1", **options).wait_until_started()
    await harness.enqueue_steps("a", ["note"], ["until", str(may_end)])
    await wait_until(notes.exists, what="the attempt to run")
    frozen.signal(signal.SIGSTOP)
    may_end.touch()
    worker_process(redis_url, "p2", **options).wait_until_started()
    job = await harness.wait_for_end("a")
    assert (job.worker_id, job.result["fence"]) == ("p2", job.fence)
    frozen.signal(signal.SIGCONT)
    await wait_until(
        lambda: any(f"job lost{rest}" in frozen.text() for rest in ("", ", attempt stopped")),
        60,
        "the thawed worker to learn",
    )
    await harness.enqueue_steps("b")
    await harness.wait_for_end("b")
    assert (await harness.queue.get_job("a")).fence == job.fence
    assert (harness.counters()["started"], harness.counters()["completed"]) == (3, 2)
    assert frozen.is_alive


async def test_killed_in_mid_debate(new_harness, worker_process, redis_url):
    """kill -9 of the worker that runs a debate, which takes seconds: it completes once, elsewhere."""
    harness = new_harness(claim_idle_ms=2000)
    both = {name: worker_process(redis_url, name, "--executor", "debate") for name in ("p1", "p2")}
    for worker in both.values():
        worker.wait_until_started()
    job_id = await harness.queue.enqueue(
        create_debate_job(
            "Should we use microservices?",
            ["demo:bold", "demo:careful", "demo:curious"],
            rounds=20,
            debate="always",
        )
    )

    async def is_under_way():
        job = await harness.queue.get_job(job_id)
        return job.worker_id if job.progress else None

    victim = await wait_until(is_under_way, 60, "the debate's progress")
    both[victim].kill()
    job = await harness.wait_for_end(job_id)
    assert job.status is JobStatus.COMPLETED, job.error
    assert (job.attempts, job.crashes) == (1, 1)
    assert job.worker_id != victim
    assert job.result["final_answer"]
    assert harness.counters()["completed"] == 1


async def test_poison_pill_stops_killing_workers(new_harness, worker_process, redis_url):
    """A job that ends its worker each time becomes a dead letter; other jobs complete."""
    harness = new_harness(claim_idle_ms=2000)
    await harness.queue.enqueue(Job(payload={"do": [["exit"]]}, id="pill"))
    pulse = await harness.worker("pulse")
    for n in range(3):
        worker = worker_process(redis_url, f"victim{n}")
        assert worker.wait_for_exit(60) == 9, worker.text()

        async def taken():
            await harness.renew(pulse)
            return [each.decision for each in await harness.queue.reclaim()]

        decision = await wait_until(taken, what="the lease to run out")
        assert decision == ["poisoned" if n == 2 else "reclaimed"]
    job = await harness.queue.get_job("pill")
    assert (job.status, job.crashes) == (JobStatus.FAILED, 3)
    await harness.enqueue_steps("good")
    worker_process(redis_url, "survivor")
    await harness.wait_for_end("good")
    wait_until_sync(lambda: harness.counters()["completed"] == 1)
