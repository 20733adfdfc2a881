"""reclaim.lua after an outage: workers get time to renew their leases before jobs are reclaimed."""

import asyncio

import pytest
from support.queue_harness import decisions

from aragora_q.base import JobStatus
from aragora_q.contracts import Completed


async def test_silence_of_all_is_an_outage(harness):
    """If all heartbeats are older than half a lease, reclaim waits another half lease, once."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 40)
    harness.backdate("a")
    assert await harness.queue.reclaim() == []
    marks = ("grace_started_at", "grace_until")
    grace = harness.redis.hmget(harness.keys.control, marks)
    assert int(grace[1]) - int(grace[0]) == 30_000
    assert await harness.queue.reclaim() == []
    assert harness.redis.hmget(harness.keys.control, marks) == grace
    assert await harness.queue.get_status("a") is JobStatus.PROCESSING
    for mark in marks:
        harness.redis.hincrby(harness.keys.control, mark, -30_000)
    assert decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert await harness.report(session, job, Completed(b"{}")) == "lost"


async def test_back_from_an_outage_a_worker_renews_first(harness):
    """A worker that returns within the grace keeps its jobs, and is charged nothing."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 10_000)
    harness.backdate("a")
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(session, job)).lost == {}
    harness.redis.hdel(harness.keys.control, "grace_until")
    assert await harness.queue.reclaim() == []
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    assert "crashed" not in harness.counters()


async def test_the_first_to_return_gives_grace_to_the_others(harness):
    """The first renewal after an outage also starts the grace for the other workers."""
    first, second = await harness.worker("w1"), await harness.worker("w2")
    await harness.enqueue("a")
    job = await harness.start_one(second)
    for name in ("w1", "w2"):
        harness.stop_heartbeat(name, 10_000)
    harness.backdate("a")
    assert (await harness.renew(first)).state == "ok"
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(second, job)).lost == {}


async def test_a_new_worker_ends_no_grace(harness):
    """A new worker that registers after an outage does not end the grace of the others."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 10_000)
    harness.backdate("a")
    await harness.worker("newcomer")
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(session, job)).lost == {}


def _be_away(harness, seconds):
    """Make all heartbeats, the last call, and the grace it may have started, that much older."""
    for mark in (
        "last_heartbeat_seen", "last_grace_check_at", "grace_started_at", "grace_until",
        "last_unregistered_at",
    ):  # fmt: skip
        harness.redis.hincrby(harness.keys.control, mark, -seconds * 1000)
    for worker_id in harness.redis.zrange(harness.keys.workers, 0, -1):
        harness.stop_heartbeat(worker_id, seconds)


async def test_an_outage_that_follows_a_silence_has_its_grace(harness):
    """An outage that begins when workers were already silent gets its own grace, once."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    await harness.start_one(session)
    harness.stop_heartbeat("w1", 40)
    assert await harness.queue.reclaim() == []
    harness.backdate("a")
    _be_away(harness, 600)
    assert await harness.queue.reclaim() == []
    _be_away(harness, 600)
    assert decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]


@pytest.mark.parametrize("seconds", [20, 31, 45, 59])
async def test_two_outages_in_close_succession(harness, seconds):
    """A worker that got nothing through between them keeps its job, however long the second one was."""
    session = await harness.worker("w1", lease_seconds=60)
    await harness.enqueue("a")
    job = await harness.start_one(session)
    queue = harness.other_client(claim_idle_ms=60_000)
    harness.stop_heartbeat("w1", 40)
    assert await queue.reclaim() == []
    _be_away(harness, seconds)
    harness.backdate("a", 61_000)
    assert await queue.reclaim() == []
    assert (await harness.renew(session, job)).lost == {}


async def test_a_silence_that_is_watched_has_one_grace(harness):
    """While calls come, the server is not away: a fleet that stays silent is dead when the grace ends."""
    session = await harness.worker("w1", lease_seconds=60)
    await harness.enqueue("a")
    await harness.start_one(session)
    queue = harness.other_client(claim_idle_ms=60_000)
    harness.stop_heartbeat("w1", 40)
    for _ in range(4):  # a quarter lease, 15 s, without a call would be another outage
        harness.backdate("a", 61_000)
        assert await queue.reclaim() == []
        _be_away(harness, 8)
    assert decisions(await queue.reclaim()) == [("a", "reclaimed")]


async def test_the_stop_of_the_last_live_worker_is_no_outage(harness):
    """A worker that died a lease before, and whose heartbeat alone is left, gets no grace when others start."""
    dead, live = await harness.worker("dead"), await harness.worker("live")
    await harness.enqueue("a")
    await harness.start_one(dead)
    harness.stop_heartbeat("dead", 200)
    harness.backdate("a", 200_000)
    await live.unregister()
    await harness.worker("next")
    assert decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]


@pytest.mark.parametrize("outages", [[600], [28, 28], [600, 600]])
async def test_a_stop_hides_no_outage(harness, outages):
    """A worker that got nothing through since before an outage keeps its job, although another one stopped."""
    session, stopped = await harness.worker("w1"), await harness.worker("stopped")
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 14)
    if len(outages) == 2:
        _be_away(harness, outages[0])
    await stopped.unregister()
    _be_away(harness, outages[-1])
    harness.backdate("a", 2_000_000)
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(session, job)).lost == {}


async def test_a_stop_by_a_clock_that_was_set_back_hides_no_outage(harness):
    """It is forgotten when the next worker registers."""
    stopped = await harness.worker("stopped")
    await stopped.unregister()
    harness.redis.hincrby(harness.keys.control, "last_unregistered_at", 2 * 86_400_000)
    session = await harness.worker("w1")
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 600)
    harness.backdate("a", 600_000)
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(session, job)).lost == {}


async def test_a_clock_set_back_ends_a_grace(harness):
    """A grace recorded by a clock that was days ahead does not delay reclaim for days."""
    dead = await harness.worker("dead")
    await harness.enqueue("a")
    await harness.start_one(dead)
    harness.stop_heartbeat("dead", 10_000)
    assert await harness.queue.reclaim() == []
    for mark in ("grace_started_at", "grace_until"):
        harness.redis.hincrbyfloat(harness.keys.control, mark, 2 * 86_400_000)
    harness.redis.hset(harness.keys.control, "grace_count", 2)  # no further one
    harness.backdate("a")
    assert decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert (await harness.queue.get_queue_stats())["grace_until"] is None


async def test_a_clock_set_back_hides_no_outage(harness):
    """A dead worker's heartbeat from a clock that was days ahead does not count as recent."""
    await harness.worker("dead")
    harness.stop_heartbeat("dead", -2 * 86_400)
    live = await harness.worker("live")
    await harness.enqueue("a")
    job = await harness.start_one(live)
    await harness.renew(live, job)
    for name in ("dead", "live"):
        harness.stop_heartbeat(name, 10_000)
    harness.backdate("a")
    assert await harness.queue.reclaim() == []


async def test_grace_does_not_delay_a_restarted_worker(harness):
    """Another instance with the same worker id proves that the old one is dead, outage or not."""
    old, other = await harness.worker("w1"), await harness.worker("w2")
    await harness.enqueue("a")
    await harness.enqueue("b")
    await harness.start_one(old)
    kept = await harness.start_one(other)
    for name in ("w1", "w2"):
        harness.stop_heartbeat(name, 10_000)
    for name in ("a", "b"):
        harness.backdate(name)
    await harness.worker("w1")
    assert decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert (await harness.renew(other, kept)).lost == {}


async def test_grace_is_the_workers_not_the_callers(harness):
    """A caller with a short lease does not shorten the grace of returning workers."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 10_000)
    harness.backdate("a")
    hasty = harness.other_client(claim_idle_ms=200)
    assert await hasty.reclaim() == []
    await asyncio.sleep(0.15)
    assert await hasty.reclaim() == []
    assert (await harness.renew(session, job)).lost == {}
