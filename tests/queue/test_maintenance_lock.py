"""One cron pass at a time holds the maintenance lock."""

import pytest
from support.wait import wait_until


async def test_one_cron_pass_at_a_time(harness):
    """A second pass finds the lock taken; it is released at the end, also after a failure."""
    async with harness.queue.single_flight(60) as first, harness.queue.single_flight(60) as second:
        assert (first, second) == (True, False)
    with pytest.raises(RuntimeError):
        async with harness.queue.single_flight(60):
            raise RuntimeError("the pass broke")
    counted = harness.counters()["last_reap_at"]
    async with harness.queue.single_flight(60) as third:
        assert third
    assert harness.counters()["last_reap_at"] >= counted


async def test_lock_of_a_killed_pass_expires(harness):
    """A killed pass blocks the next one no longer than its lock's time."""
    killed = harness.queue.single_flight(0.05)
    assert await killed.__aenter__()

    async def free():
        async with harness.queue.single_flight(60) as ours:
            return ours

    await wait_until(free, what="the lock to expire")
    await killed.__aexit__(None, None, None)
