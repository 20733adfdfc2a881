"""Idle workers wait for tokens; no job waits for a worker that took a token and stopped."""

import asyncio
import time

import pytest
from support.executors import succeed
from support.wait import wait_until
from support.workers import LONG_LEASE, count_calls

from aragora_q.worker import fetcher


@pytest.fixture(autouse=True)
def _long_waits(monkeypatch):
    """No wait for work ends while a test runs: then a worker would look without a token."""
    monkeypatch.setattr(fetcher, "IDLE_SECONDS", fetcher.MAX_IDLE_SECONDS)


async def _blocked(harness, count):
    await wait_until(
        lambda: harness.redis.info("clients")["blocked_clients"] == count,
        what=f"{count} idle workers",
    )


async def test_a_stopping_worker_gives_its_token_back(new_harness, worker_pool):
    """A worker that was woken and stops before it starts the job leaves it to another idle one, at once."""
    harness = new_harness(**LONG_LEASE)
    first = worker_pool.start(harness, succeed, "first")

    async def take_the_token_only(timeout_seconds, **_):
        await first._session.wait_for_work(timeout_seconds)
        await asyncio.Event().wait()

    first._session.start_next = take_the_token_only
    await _blocked(harness, 1)
    worker_pool.start(harness, succeed, "second")
    await _blocked(harness, 2)
    await harness.enqueue("a")
    await _blocked(harness, 1)
    assert harness.fields("a")["status"] == "pending"
    stopped_at = time.monotonic()
    await first.stop()
    job = await harness.wait_for_end("a")
    assert job.worker_id == "second"
    assert time.monotonic() - stopped_at < fetcher.IDLE_SECONDS / 2


async def test_a_worker_in_a_fleet_is_woken_alone(new_harness, worker_pool):
    """Eight idle workers run twenty jobs that come one by one with one start each, and few more."""
    harness = new_harness(**LONG_LEASE)
    for n in range(8):
        worker_pool.start(harness, succeed, f"w{n}")
    await _blocked(harness, 8)
    harness.redis.config_resetstat()
    for n in range(20):
        await harness.enqueue(f"j{n}")
        await harness.wait_for_end(f"j{n}")
    await _blocked(harness, 8)
    # Per job: the start that found it, and the one that found no further job. Each reads three lanes.
    assert count_calls(harness, "xreadgroup") <= 20 * 2 * 3 + 30
