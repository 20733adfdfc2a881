"""renew.lua: a worker keeps its leases and heartbeat, and learns which jobs it has lost."""

from aragora_q.contracts import Identity


async def test_renew_keeps_leases_and_the_heartbeat(harness):
    """A renewal refreshes leased entries in every lane, and records what runs."""
    session = await harness.worker()
    for name, priority in (("h", 1), ("n", 0), ("l", -1)):
        await harness.enqueue(name, priority=priority)
    jobs = (await session.start(3)).jobs
    for job in jobs:
        harness.backdate(job.id, 59_000)
    renewal = await harness.renew(session, *jobs)
    assert (renewal.state, renewal.lost) == ("ok", {})
    for priority in (1, 0, -1):
        [row] = harness.pending(priority)
        assert row["time_since_delivered"] < 50_000
        assert row["times_delivered"] == 1
    [worker] = (await harness.queue.get_queue_stats())["workers"]
    assert sorted(worker["running"]) == ["h", "l", "n"]
    assert await harness.queue.reclaim() == []


async def test_renew_never_steals_a_job_back(harness):
    """A worker that was frozen past its lease learns that another worker has its job, and keeps it."""
    frozen, successor = await harness.worker("frozen"), await harness.worker("successor")
    await harness.enqueue("a")
    job = await harness.start_one(frozen)
    harness.backdate("a")
    await harness.queue.reclaim("successor")
    again = await harness.start_one(successor)
    assert (await harness.renew(frozen, job)).lost == {"a": "lost"}
    assert harness.pending()[0]["consumer"] == "successor"
    assert (await harness.renew(successor, again)).lost == {}


async def test_renew_reports_a_cancel(harness):
    """A cancelled job is reported as cancelled, not as lost."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await harness.queue.cancel("a")
    assert (await harness.renew(session, job)).lost == {"a": "cancelled"}


async def test_renew_without_a_record_still_keeps_leases(harness):
    """A worker whose record was deleted is asked to register again, but loses no job."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.redis.delete(harness.keys.worker("w1"), harness.keys.workers)
    harness.backdate("a", 59_000)
    renewal = await harness.renew(session, job)
    assert (renewal.state, renewal.lost) == ("unregistered", {})
    assert harness.pending()[0]["time_since_delivered"] < 50_000


async def test_a_replaced_instance_learns_what_it_lost(harness):
    """A frozen worker whose id another instance took learns of every job that it lost."""
    frozen = await harness.worker("w1")
    await harness.enqueue("a")
    job = await harness.start_one(frozen)
    successor = harness.queue.session(Identity("w1", "newboot"))
    await successor.register({}, dead_instance_id=frozen.identity.instance_id)
    await harness.queue.reclaim()
    renewal = await harness.renew(frozen, job)
    assert (renewal.state, renewal.lost) == ("unregistered", {"a": "lost"})
