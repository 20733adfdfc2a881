"""The queue's promises everywhere, through a real worker process and the command line."""

import asyncio
import json
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import processes
import pytest
import topologies
from waiting import wait_until

from aragora_q.base import Completed, Job, JobStatus


async def _until_status(stage, job_id, *statuses, timeout=20):
    async def reached():
        return await stage.queue.get_status(job_id) in statuses

    await wait_until(reached, timeout, f"{job_id} to be {statuses}")


async def test_a_job_is_run_retried_cancelled_and_reclaimed(backend, staged, worker_process):
    """Enqueue, delay, priority, run, retry, retry later, fail, cancel and reclaim hold everywhere."""
    stage = staged(backend, claim_idle_ms=1000)
    doomed = worker_process(backend, "doomed", lease_ms=1000).wait_until_started()
    await stage.queue.enqueue(Job(payload={"do": [["sleep", 1]]}, id="orphan"))
    await _until_status(stage, "orphan", JobStatus.PROCESSING)
    doomed.kill()
    worker_process(backend, "w1", lease_ms=1000).wait_until_started()
    for job_id, steps, more in (
        ("plain", [], {}),
        ("delayed", [], {"delay_seconds": 0.3}),
        ("high", [], {"priority": 5}),
        ("low", [], {"priority": -5}),
        ("flaky", [["fail", 1]], {}),
        ("busy", [["later", 2]], {}),
        ("broken", [["permanent"]], {}),
        ("unwanted", [["sleep", 60]], {}),
    ):
        await stage.queue.enqueue(Job(payload={"do": steps}, id=job_id, **more))
    await _until_status(stage, "unwanted", JobStatus.PROCESSING)
    assert await stage.queue.cancel("unwanted")
    for job_id in ("plain", "delayed", "high", "low", "flaky", "busy", "orphan"):
        await _until_status(stage, job_id, JobStatus.COMPLETED)
    await _until_status(stage, "broken", JobStatus.FAILED)
    flaky, busy, orphan = [await stage.queue.get_job(name) for name in ("flaky", "busy", "orphan")]
    assert (flaky.attempts, flaky.fence) == (2, 2)
    assert (busy.attempts, busy.fence) == (1, 3), "retry later is not charged"
    assert (orphan.attempts, orphan.fence, orphan.crashes) == (1, 2, 1)
    assert orphan.result == {"attempt": 1, "fence": 2, "crashes": 1}
    stats = await stage.queue.get_queue_stats()
    assert (stats["completed"], stats["failed"], stats["cancelled"]) == (7, 1, 1)
    assert stats["running"] == 0


@pytest.mark.parametrize("name", ["sentinel", "cluster"])
async def test_the_primary_is_found_without_a_thread_to_spare(shared, staged, name):
    """An executor whose jobs fill the event loop's own threads keeps nobody from finding the primary."""
    stage, hold = staged(shared(name)), threading.Event()
    pool = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(hold.wait)
    try:
        await asyncio.wait_for(stage.enqueue("a"), 10)
    finally:
        hold.set()


async def test_release_renewal_and_blocking_read(backend, staged):
    """A worker's session holds leases, is woken by new work, and hands back: everywhere."""
    stage = staged(backend)
    session = await stage.worker()
    fetched = await session.start(5)
    waiting = session.wait_for_work(fetched.resume_from, 2)
    await stage.enqueue("a")
    await waiting
    job = await stage.started(session)
    assert stage.renew(session, job).gone == {}
    assert await stage.end(session, job, Completed(b"{}")) == "completed"


def test_the_command_line_speaks_to_it(backend):
    """Commands that only read and maintain work with nothing but the environment of a topology."""
    environment = topologies.environment(backend)
    for command in (["reap", "--json"], ["purge", "--json"]):
        done = subprocess.run(
            processes.cli(*command),
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout.splitlines()[0]), dict)


def test_a_worker_drains_and_signs_off(backend, worker_process):
    """SIGTERM ends a worker by SIGTERM, with nothing left behind, in every topology."""
    worker = worker_process(backend).wait_until_started()
    assert worker.stop() == -signal.SIGTERM, worker.text()
    with backend.raw() as raw:
        assert not list(raw.scan_iter(match="*:worker*"))


async def test_the_lease_keeper_over_tls(shared, staged):
    """A ticket that TLS 1.3 sends after the handshake is no stray reply: every new connection renews."""
    stage = staged(shared("tls"))
    session = await stage.worker()
    await stage.enqueue("a")
    job = await stage.started(session)
    for _ in range(30):
        assert stage.renew(session, job).gone == {}
    await stage.end(session, job, Completed(b"{}"))


async def test_tls_on_every_way(encrypted, staged, worker_process):
    """Sentinels, replicas and nodes that speak TLS alone: found, verified, served, and left again."""
    assert encrypted.url.startswith("rediss+")
    stage = staged(encrypted)
    worker = worker_process(encrypted).wait_until_started()
    await stage.queue.enqueue(Job(payload={"do": [["fail", 1]]}, id="a"))
    await _until_status(stage, "a", JobStatus.COMPLETED)
    assert worker.stop() == -signal.SIGTERM, worker.text()
