"""claim_maintenance.lua: one worker of a queue has the right to do its maintenance."""

import pytest
from support.schedules import now_ms

from aragora_q.base import JobStatus

TTL_SECONDS = 50.0


async def _may(harness, worker_id):
    return (await harness.queue.claim_maintenance(worker_id, TTL_SECONDS)).is_granted


async def test_the_first_to_ask_gets_the_right_and_keeps_it(harness):
    """Others are refused as long as the one that has it asks again."""
    assert await _may(harness, "w1")
    for _ in range(3):
        assert not await _may(harness, "w2")
        assert await _may(harness, "w1")


async def test_the_right_expires(harness):
    """A worker that asks no more is replaced by the next one that asks."""
    before = now_ms(harness.redis)
    assert await _may(harness, "w1")
    assert not await _may(harness, "w2")
    worker_id, ends_at = harness.redis.hget(harness.keys.control, "maintainer").split()
    began_at = int(ends_at) - TTL_SECONDS * 1000
    assert worker_id == "w1"
    assert before <= began_at <= now_ms(harness.redis)
    harness.redis.hset(harness.keys.control, "maintainer", f"w1 {began_at:.0f}")
    assert await _may(harness, "w2")
    assert not await _may(harness, "w1")


async def test_a_worker_that_unregisters_gives_up_its_right_only(harness):
    """The next one gets it at once; the right of another worker with a similar name stays."""
    first, other = await harness.worker("w11"), await harness.worker("w1")
    assert await _may(harness, "w11")
    await other.unregister()
    assert not await _may(harness, "w2")
    await first.unregister()
    assert await _may(harness, "w2")


@pytest.mark.parametrize("value", ["", "w1", "w1 abc", "w1 99999999999999", "\xff 1", "w1 -5"])
async def test_nothing_in_the_hash_blocks_maintenance(harness, value):
    """A value that no script wrote, or an end far in the future (the clock was set back), is replaced."""
    harness.redis.hset(harness.keys.control, "maintainer", value)
    assert await _may(harness, "w2")
    assert not await _may(harness, "w3")


async def test_it_returns_what_maintenance_needs_to_know(harness):
    """The number of registered workers, and the time since the last purge."""
    claim = await harness.queue.claim_maintenance("w1", TTL_SECONDS)
    assert (claim.registered_workers, claim.seconds_since_purge) == (0, None)
    for n in range(3):
        await harness.worker(f"w{n}")
    await harness.queue.purge(JobStatus.COMPLETED)
    claim = await harness.queue.claim_maintenance("w2", TTL_SECONDS)
    assert (claim.is_granted, claim.registered_workers) == (False, 3)
    assert 0 <= claim.seconds_since_purge < 60
