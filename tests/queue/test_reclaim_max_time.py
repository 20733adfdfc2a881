"""A reclaim pass with a time limit continues where the one before stopped."""

import time

import pytest
from support.queue_harness import decisions

from aragora_q.base import Job
from aragora_q.maintenance import reap_pass
from aragora_q.streams import queue as queue_module
from aragora_q.streams.queue import REAPER


@pytest.fixture
async def crowded(harness, monkeypatch):
    """Pages of two entries; seven running jobs, then a dead worker's, in each of two lanes."""
    monkeypatch.setattr(queue_module, "BATCH_LIMIT", 2)
    busy, dead = await harness.worker("busy"), await harness.worker("dead")
    for priority in (1, 0):
        for n in range(7):
            await harness.enqueue(f"p{priority}-{n}", priority=priority)
        assert len((await busy.start(7)).jobs) == 7
        await harness.enqueue(f"p{priority}-dead", priority=priority)
        await harness.start_one(dead)
        harness.backdate(f"p{priority}-dead")
    return harness


async def test_passes_that_are_short_of_time_get_through_everything(crowded):
    """Each pass makes at least one step from where the last one stopped, across lanes; then it starts over."""
    taken = []
    for _ in range(5 + 5 + 1):  # four full pages and an empty one in each of two lanes
        taken += await crowded.queue.reclaim(deadline=time.monotonic())
    assert decisions(taken) == [("p1-dead", "reclaimed"), ("p0-dead", "reclaimed")]
    assert not crowded.redis.hget(crowded.keys.control, "reclaim_cursor")


async def test_reap_says_whether_its_pass_was_complete(crowded):
    """`is_complete` is false while the time was up first; passes in a row find every dead worker's job."""
    taken, passes = [], 0
    while len(taken) < 2:
        report = await reap_pass(crowded.queue, REAPER, max_seconds=0)
        assert not report.is_complete
        taken += report.reclaimed
        passes += 1
        assert passes <= 10
    assert (await reap_pass(crowded.queue, REAPER, max_seconds=60)).is_complete


async def test_a_pass_without_a_limit_looks_at_everything(crowded):
    """It neither uses nor moves the place where the last limited pass stopped."""
    await crowded.queue.reclaim(deadline=time.monotonic())
    place = crowded.redis.hget(crowded.keys.control, "reclaim_cursor")
    assert place
    assert len(await crowded.queue.reclaim()) == 2
    assert crowded.redis.hget(crowded.keys.control, "reclaim_cursor") == place


@pytest.mark.parametrize("place", ["", "9 -", "0", "1 (x", "x (1-1", "0 +", "2 (99999999999999-0"])
async def test_an_odd_place_is_no_obstacle(harness, place):
    """Whatever the hash holds, two passes find a dead worker's job."""
    await harness.enqueue("a")
    await harness.start_one(await harness.worker("dead"))
    await harness.worker("alive")
    harness.backdate("a")
    harness.redis.hset(harness.keys.control, "reclaim_cursor", place)
    taken = []
    for _ in range(2):
        taken += await harness.queue.reclaim(deadline=time.monotonic() + 60)
    assert decisions(taken) == [("a", "reclaimed")]


async def test_enqueued_jobs_do_not_disturb(crowded):
    """Jobs that start between two passes are no reason to begin again."""
    first = await crowded.queue.reclaim(deadline=time.monotonic())
    session = await crowded.worker("third")
    await crowded.queue.enqueue_many([Job({}, id=f"new{n}", priority=1) for n in range(6)])
    await session.start(6)
    taken = first
    for _ in range(12):
        taken += await crowded.queue.reclaim(deadline=time.monotonic())
    assert {job.id for job in taken} == {"p1-dead", "p0-dead"}
