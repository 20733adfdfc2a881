"""The queue's promises on every backend, through a worker process and the command line."""

import asyncio
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import topologies
from support.processes import run_command

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed


@pytest.mark.slow
async def test_a_job_is_run_retried_cancelled_and_reclaimed(
    backend, harness_on, worker_process, tmp_path
):
    """Enqueue, delay, priority, run, retry, retry later, hold, fail, cancel and reclaim on every backend."""
    harness = harness_on(backend, claim_idle_ms=1000)
    doomed = worker_process(backend, "doomed", lease_ms=1000).wait_until_started()
    may_end = tmp_path / "may-end"
    await harness.enqueue_steps("orphan", ["until", str(may_end)])
    await harness.wait_for_status("orphan", JobStatus.PROCESSING)
    doomed.kill()
    may_end.touch()
    worker_process(backend, "w1", lease_ms=1000).wait_until_started()
    for job_id, steps, more in (
        ("plain", [], {}),
        ("delayed", [], {"delay_seconds": 0.3}),
        ("high", [], {"priority": 5}),
        ("low", [], {"priority": -5}),
        ("flaky", [["fail", 1]], {}),
        ("busy", [["later", 2]], {}),
        ("broken", [["permanent"]], {}),
        ("poor", [["hold", 1, "executor"]], {}),  # a budget's hold ends by itself
        ("unwanted", [["sleep", 60]], {}),
    ):
        await harness.queue.enqueue(Job(payload={"do": steps}, id=job_id, **more))
    await harness.wait_for_status("unwanted", JobStatus.PROCESSING)
    assert await harness.queue.cancel("unwanted")
    await harness.wait_for_status("poor", JobStatus.HELD)
    assert await harness.queue.hold_many(["poor"]) == ["held"]
    assert (await harness.queue.list_held(("budget",))).jobs == []
    assert await harness.queue.unhold("poor")
    for job_id in ("plain", "delayed", "high", "low", "flaky", "busy", "poor", "orphan"):
        await harness.wait_for_status(job_id, JobStatus.COMPLETED)
    await harness.wait_for_status("broken", JobStatus.FAILED)
    flaky, busy, orphan = [
        await harness.queue.get_job(name) for name in ("flaky", "busy", "orphan")
    ]
    assert flaky.attempts == 2
    assert busy.attempts == 1, "retry later is not charged"
    assert harness.counters()["deferred"] == 2
    assert (orphan.attempts, orphan.crashes) == (1, 1)
    assert orphan.result == {"attempt": 1, "fence": orphan.fence, "crashes": 1}
    stats = await harness.queue.get_queue_stats()
    assert (stats["completed"], stats["failed"], stats["cancelled"]) == (8, 1, 1)
    assert stats["running"] == 0


@pytest.mark.parametrize("name", ["sentinel", "cluster"])
async def test_the_primary_is_found_without_a_thread_to_spare(shared_server, harness_on, name):
    """An executor that uses all threads of the event loop's pool does not block discovery."""
    harness, hold = harness_on(shared_server(name)), threading.Event()
    pool = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(hold.wait)
    try:
        await asyncio.wait_for(harness.enqueue("a"), 60)
    finally:
        hold.set()


async def test_release_renewal_and_blocking_read(backend, harness_on):
    """A session keeps leases, wakes for new jobs, and reports, on every backend."""
    harness = harness_on(backend)
    session = await harness.worker()
    assert (await session.start(5)).state == "empty"
    waiting = asyncio.create_task(session.wait_for_work(2))
    await harness.enqueue("a")
    await waiting
    job = await harness.start_one(session)
    assert (await harness.renew(session, job)).lost == {}
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


@pytest.mark.slow
def test_the_command_line_reaches_it(backend):
    """Commands work with only the environment of a topology."""
    environment = topologies.environment(backend)
    for command in (["reap", "--json"], ["purge", "--json"]):
        done = run_command(*command, **environment)
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout.splitlines()[0]), dict)


@pytest.mark.slow
def test_a_worker_drains_and_unregisters(backend, worker_process):
    """SIGTERM ends a worker by SIGTERM and leaves nothing, on every backend."""
    worker = worker_process(backend).wait_until_started()
    assert worker.stop() == -signal.SIGTERM, worker.text()
    with backend.admin_client() as redis_client:
        assert not list(redis_client.scan_iter(match="*:worker*"))


async def test_the_lease_keeper_over_tls(shared_server, harness_on):
    """A ticket that TLS 1.3 sends after the handshake is not taken for a reply."""
    harness = harness_on(shared_server("tls"))
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    for _ in range(30):
        assert (await harness.renew(session, job)).lost == {}
    await harness.report(session, job, Completed(b"{}"))


@pytest.mark.slow
async def test_tls_on_every_connection(encrypted, harness_on, worker_process):
    """Sentinels, replicas and nodes with TLS only: found, verified and used."""
    assert encrypted.url.startswith("rediss+")
    harness = harness_on(encrypted)
    worker = worker_process(encrypted).wait_until_started()
    await harness.enqueue_steps("a", ["fail", 1])
    await harness.wait_for_status("a", JobStatus.COMPLETED)
    assert worker.stop() == -signal.SIGTERM, worker.text()
