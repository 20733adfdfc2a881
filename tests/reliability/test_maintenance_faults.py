"""Fault matrix of docs/reliability.md: a killed reaper, and names of dead workers."""

import asyncio
import subprocess

import pytest
from support import invariants, processes
from support.wait import wait_until

pytestmark = pytest.mark.slow


async def test_a_reaper_is_killed_between_its_steps(redis_url, new_harness):
    """Rows 33, 34: each job is reclaimed completely or not at all; the next pass does the rest."""
    harness = new_harness()
    session = await harness.worker()
    for n in range(300):
        await harness.enqueue(f"j{n}")
    while (await session.start(100)).jobs:
        pass
    for n in range(300):
        harness.backdate(f"j{n}")
    reaping = processes.cli("reap", "--quiet")
    environment = processes.env(REDIS_URL=redis_url, ARAGORA_QUEUE_CLAIM_IDLE_MS="400")
    killed = subprocess.Popen(reaping, env=environment)
    await wait_until(
        lambda: harness.counters().get("reclaimed") or killed.poll() is not None,
        60,
        "its first step",
    )
    killed.kill()
    killed.wait()
    invariants.check(harness.redis, harness.keys.queue_prefix)
    harness.redis.hdel(harness.keys.control, "maintenance_lock")

    async def is_all_taken():  # a silence of all workers brakes the first passes
        done = await asyncio.to_thread(
            subprocess.run, reaping, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return {harness.fields(f"j{n}")["status"] for n in range(300)} == {"retrying"}

    await wait_until(is_all_taken, 60, "the next passes to take the rest")
    assert harness.counters()["reclaimed"] == 300, "each once"


async def test_names_of_dead_workers_do_not_pile_up(new_harness):
    """Row 35: consumers and records of dead workers are deleted, except those with jobs."""
    harness = new_harness(claim_idle_ms=200)
    for n in range(150):
        session = await harness.worker(f"w{n}")
        await session.start(1)
    await harness.enqueue("held")
    lease_owner = await harness.worker("lease_owner")
    await harness.start_one(lease_owner)
    harness.redis.zadd(harness.keys.workers, {f"w{n}": 1 for n in range(150)} | {"lease_owner": 1})
    await harness.queue.remove_dead_workers()
    assert await harness.queue.tracker.consumers() == {"lease_owner"}
