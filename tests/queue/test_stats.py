"""Queue statistics agree with what was done."""

from aragora_q.contracts import Completed, Failed
from aragora_q.redis.keys import GROUP


async def test_queue_before_first_use(harness):
    """Before any job or worker, everything is zero or empty; no error, and no key is created."""
    stats = await harness.queue.get_queue_stats()
    assert (stats["stream_length"], stats["pending_count"], stats["groups"]) == (0, 0, [])
    assert stats["waiting"] == {"high": 0, "normal": 0, "low": 0}
    assert (stats["delayed"], stats["completed"], stats["failed"], stats["cancelled"]) == (
        0,
        0,
        0,
        0,
    )
    for name in ("oldest_waiting_seconds", "oldest_held_seconds", "next_due_seconds"):
        assert stats[name] is None
    assert (stats["counters"], stats["workers"], stats["paused"]) == ({}, [], False)
    assert set(stats["throughput"].values()) == {0}
    assert await harness.queue.get_job("a") is None
    assert await harness.queue.get_status("a") is None
    assert await harness.queue.reclaim() == []
    assert (await harness.queue.promote()).next_due_seconds is None
    assert not list(harness.redis.scan_iter(match=f"{harness.keys.queue_prefix}*"))


async def test_queue_at_a_glance(harness):
    """Lengths, lanes, delays, ends and rates agree with what was done."""
    session = await harness.worker()
    for name, fields in {
        "h1": {"priority": 1}, "h2": {"priority": 1}, "n1": {}, "n2": {}, "n3": {}, "l1": {"priority": -1},
        "d1": {"delay_seconds": 60}, "c1": {}, "held": {},
    }.items():  # fmt: skip
        await harness.enqueue(name, **fields)
    await harness.queue.cancel("c1")
    await harness.queue.hold_many(["held"], by="me")
    jobs = (await session.start(4)).jobs
    await harness.report(session, jobs[0], Completed(b"{}"))
    await harness.report(session, jobs[1], Failed("x"))
    stats = await harness.queue.get_queue_stats()
    assert stats["stream_length"] == 4
    assert stats["pending_count"] == stats["running"] == 2
    assert stats["waiting"] == {"high": 0, "normal": 1, "low": 1}
    assert (stats["delayed"], stats["completed"], stats["failed"], stats["cancelled"]) == (
        1,
        1,
        1,
        1,
    )
    assert 0 <= stats["oldest_waiting_seconds"] < 60
    assert 0 < stats["next_due_seconds"] <= 60
    assert stats["throughput"]["completed_1m"] == stats["throughput"]["failed_15m"] == 1
    assert stats["held"] == 1
    assert 0 <= stats["oldest_held_seconds"] < 60
    assert stats["counters"]["enqueued"] == 9
    [worker] = stats["workers"]
    assert (worker["worker_id"], worker["host"]) == ("w1", "here")
    assert worker["heartbeat_age_seconds"] < 60


async def test_groups_are_those_of_redis(harness):
    """`groups` has the rows of XINFO GROUPS, with name, consumers and pending."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    groups = (await harness.queue.get_queue_stats())["groups"]
    told = [
        group for stream in harness.keys.streams for group in harness.redis.xinfo_groups(stream)
    ]
    assert groups == told
    assert {group["name"] for group in groups} == {GROUP}
    assert sum(group["pending"] for group in groups) == 1
    await harness.report(session, job, Completed(b"{}"))


async def test_oldest_waiting_ignores_other_jobs(harness):
    """Delivered and cancelled jobs do not count as waiting."""
    session = await harness.worker()
    for name in ("running", "cancelled", "waiting"):
        await harness.enqueue(name)
    await harness.start_one(session)
    await harness.queue.cancel("cancelled")
    stats = await harness.queue.get_queue_stats()
    assert stats["waiting"]["normal"] == 1
    assert stats["oldest_waiting_seconds"] is not None
    await harness.queue.cancel("waiting")
    stats = await harness.queue.get_queue_stats()
    assert (stats["waiting"]["normal"], stats["oldest_waiting_seconds"]) == (0, None)
