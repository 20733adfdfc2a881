"""Dry runs write nothing: no key changes, and no grace period is used up."""

import redis
from support.schedules import now_ms

from aragora_q.base import Job
from aragora_q.maintenance import purge_pass, reap_pass
from aragora_q.streams.queue import REAPER


def _dump(harness):
    """Every key of the queue, with its value and whether it expires."""
    with redis.Redis.from_url(harness.config.redis_url) as client:  # a dump is not text
        keys = sorted(client.scan_iter(match=f"{harness.keys.queue_prefix}*", count=1000))
        return {key: (client.dump(key), client.pttl(key) >= 0) for key in keys}


async def test_dry_reap_changes_no_key(new_harness):
    """Not even while a grace period is due, an entry was just delivered, or a heartbeat is in the future."""
    harness = new_harness(claim_idle_ms=60_000)
    await harness.queue.enqueue_many([Job({}, id=f"j{n}", priority=n - 1) for n in range(3)])
    await harness.enqueue("due", delay_seconds=1000)
    harness.redis.zadd(harness.keys.delayed, {"due": 1})
    for n in range(3):
        await harness.start_one(await harness.worker(f"w{n}"))
    harness.backdate("j0")
    harness.backdate("j1", 0)
    harness.write_raw({"not": "a job"})
    harness.deliver("broken")
    for heartbeat_seconds in (-3600, 0, 3600):
        for n in range(3):
            harness.redis.zadd(harness.keys.workers, {f"w{n}": now_ms(harness.redis)})
            harness.stop_heartbeat(f"w{n}", -heartbeat_seconds)
        before = _dump(harness)
        for _ in range(2):
            await reap_pass(harness.queue, REAPER, dry_run=True)
        assert _dump(harness) == before
    harness.redis.flushdb()  # what was damaged here is no claim of this test


async def test_dry_purge_changes_no_key(new_harness):
    """It only counts."""
    harness = new_harness(claim_idle_ms=60_000)
    await harness.enqueue("a")
    await harness.queue.cancel("a")
    before = _dump(harness)
    purged = await purge_pass(harness.queue, older_than_seconds=-10, dry_run=True)
    assert sum(purged.values()) == 1
    assert _dump(harness) == before


async def test_dry_reap_uses_up_no_grace(new_harness):
    """However often an operator looks, workers that return after an outage keep their jobs."""
    harness = new_harness(claim_idle_ms=60_000)
    jobs = {}
    for name in ("w1", "w2"):
        session = await harness.worker(name)
        await harness.enqueue(f"of-{name}")
        jobs[session] = await harness.start_one(session)
        harness.stop_heartbeat(name, 70)
        harness.backdate(f"of-{name}", 70_000)
    for _ in range(5):
        report = await reap_pass(harness.queue, REAPER, dry_run=True)
        assert report.reclaimed == [], "a real pass would wait, too"
    first, second = jobs
    assert (await harness.renew(first, jobs[first])).lost == {}
    assert await harness.queue.reclaim("w1") == []
    assert (await harness.renew(second, jobs[second])).lost == {}


async def test_dry_reap_says_what_a_pass_would_do(new_harness):
    """The same jobs and decisions as the pass that follows."""
    harness = new_harness(claim_idle_ms=60_000)
    session = await harness.worker("alive")
    for n in range(3):
        await harness.enqueue(f"j{n}")
    await harness.start_one(await harness.worker("dead"), 1)
    await harness.start_one(session, 1)
    harness.backdate("j0")
    dry = await reap_pass(harness.queue, REAPER, dry_run=True)
    wet = await reap_pass(harness.queue, REAPER)
    assert [(job.id, job.decision, job.worker_id) for job in dry.reclaimed] == [
        (job.id, job.decision, job.worker_id) for job in wet.reclaimed
    ]
    assert [job.id for job in wet.reclaimed] == ["j0"]
