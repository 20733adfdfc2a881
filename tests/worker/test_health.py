"""Statistics and health checks of a worker."""

import asyncio
import threading
import time
import urllib.error
import urllib.request

import pytest
from support.executors import GatedExecutor, succeed
from support.wait import wait_until
from support.workers import (
    LONG_LEASE,
    wait_until_registered,
)

from aragora_q.errors import RedisUnreachable
from aragora_q.observability.http import serving
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.worker import debate_worker as worker_module


async def test_stats_have_the_promised_keys(new_harness, worker_pool):
    """`get_stats` before, while and after: id, active, processed, failed, uptime."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    assert worker.get_stats()["active_jobs"] == 0
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    stats = worker.get_stats()
    assert (stats["worker_id"], stats["active_jobs"]) == ("w1", 1)
    assert (stats["jobs_processed"], stats["jobs_failed"]) == (0, 0)
    assert stats["uptime_seconds"] > 0
    gated.gate.set()
    await harness.wait_for_end("a")
    await wait_until(lambda: worker.get_stats()["jobs_processed"] == 1)


def _get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.slow
async def test_health_follows_the_event_loop(new_harness, worker_pool, monkeypatch):
    """200 while all loops move, 503 while the event loop is blocked, 200 again afterwards."""
    monkeypatch.setattr(worker_module, "STALL_SECONDS", 0.3)
    harness, seen = new_harness(claim_idle_ms=1000), []
    with serving(
        WorkerMetrics("debates").registry,
        "127.0.0.1",
        None,
        lambda: worker.is_healthy(),  # noqa: PLW0108 - made later
    ) as port:

        async def executor(job):
            prober = threading.Thread(target=probe)
            prober.start()
            prober.join()  # blocks the event loop
            return {}

        def probe():
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and 503 not in seen:
                seen.append(_get(port, "/healthz")[0])
                time.sleep(0.05)

        worker = worker_pool.start(harness, executor)
        await wait_until_registered(harness, worker)

        async def healthy():
            return await asyncio.to_thread(_get, port, "/healthz") == (200, b"ok\n")

        await wait_until(healthy, what="health at the start")
        await harness.enqueue("a")
        await harness.wait_for_end("a")
        assert 503 in seen
        await wait_until(healthy, what="health to return")
        assert (await asyncio.to_thread(_get, port, "/metrics"))[0] == 200
        assert (await asyncio.to_thread(_get, port, "/else"))[0] == 404


async def test_dead_lease_keeper_is_unhealthy(new_harness, worker_pool, monkeypatch):
    """If the renewal thread has ended, the worker is unhealthy."""
    monkeypatch.setattr(worker_module, "STALL_SECONDS", 0.3)
    harness = new_harness(claim_idle_ms=2000)
    worker = worker_pool.start(harness, succeed)
    await wait_until_registered(harness, worker)
    await wait_until(worker.is_healthy, what="health at the start")
    await worker.keeper.stop()
    await wait_until(lambda: not worker.is_healthy(), what="the worker to own up")


LONG_AGO = 1000.0


async def test_a_slot_that_becomes_free_is_no_stall(new_harness, worker_pool):
    """All slots were busy for long: the fetch that is due then has the whole time limit to be answered."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=1)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    worker._fetcher.last_fetch_at -= LONG_AGO
    gated.gate.set()
    while worker.get_stats()["active_jobs"]:
        await asyncio.sleep(0)
    assert not worker.has_stalled()


async def test_a_worker_whose_id_is_in_use_has_not_stalled(new_harness, worker_pool, caplog):
    """It waits for the other instance's lease, which may be a long one, and fetches nothing meanwhile."""
    harness = new_harness(**LONG_LEASE)
    await harness.worker("w1")
    worker = worker_pool.start(harness, succeed, "w1")
    await wait_until(lambda: "id in use" in caplog.text, what="the wait")
    worker._fetcher.last_fetch_at -= LONG_AGO
    worker.keeper.last_answer_at -= LONG_AGO
    assert not worker.has_stalled()


async def test_the_end_of_an_outage_is_no_stall(new_harness, worker_pool):
    """When Redis is available again, the calls that are due then have the whole time limit."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await wait_until_registered(harness, worker)
    worker._outages.record_failure("fetch", RedisUnreachable("away"))
    worker._fetcher.last_fetch_at -= LONG_AGO
    worker._outages.record_success("fetch")
    assert not worker.has_stalled()
