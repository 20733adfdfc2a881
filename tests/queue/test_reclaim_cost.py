"""What a reclaim pass costs: jobs of live workers are skipped without reading them."""

import asyncio

from aragora_q.base import Job


async def _run_jobs(harness, worker_id, count):
    session = await harness.worker(worker_id)
    names = [f"{worker_id}-{n}" for n in range(count)]
    await harness.queue.enqueue_many([Job({"text": "x" * 1000}, id=name) for name in names])
    jobs = (await session.start(count)).jobs
    assert len(jobs) == count
    return session, jobs


def _calls(harness, command):
    return harness.redis.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


async def test_only_entries_of_silent_workers_are_read(new_harness):
    """Of 80 running jobs, only the three whose worker died are read from the stream and looked up."""
    harness = new_harness(claim_idle_ms=60_000)
    alive, jobs = await _run_jobs(harness, "alive", 77)
    await asyncio.sleep(0.01)
    await harness.renew(alive, *jobs)
    _, lost = await _run_jobs(harness, "dead", 3)
    harness.stop_heartbeat("dead", 1000)
    for job in lost:
        harness.backdate(job.id)
    await asyncio.sleep(0.01)  # just delivered entries would be looked at
    harness.redis.config_resetstat()
    taken = await harness.queue.reclaim()
    assert sorted(job.id for job in taken) == ["dead-0", "dead-1", "dead-2"]
    assert _calls(harness, "xrange") == 3
    assert _calls(harness, "hmget") <= 3 + 3 * 3  # jobs; per lane: grace, and both workers' records


async def test_a_pass_without_dead_workers_reads_nothing(new_harness):
    """However many jobs run: no entry, no job's hash."""
    harness = new_harness(claim_idle_ms=60_000)
    alive, jobs = await _run_jobs(harness, "alive", 90)
    await asyncio.sleep(0.01)
    await harness.renew(alive, *jobs)
    await asyncio.sleep(0.01)
    harness.redis.config_resetstat()
    assert await harness.queue.reclaim() == []
    assert (_calls(harness, "xrange"), _calls(harness, "xclaim")) == (0, 0)
    assert _calls(harness, "hmget") <= 2 * 3


async def test_a_live_worker_that_lost_a_job_does_not_hide_it(new_harness):
    """An entry that its live worker does not renew is reclaimed after its lease."""
    harness = new_harness(claim_idle_ms=60_000)
    alive, [kept, forgotten] = await _run_jobs(harness, "alive", 2)
    await asyncio.sleep(0.01)
    await harness.renew(alive, kept)
    harness.backdate(forgotten.id, 60_001)
    assert [job.id for job in await harness.queue.reclaim()] == [forgotten.id]


async def test_a_new_instance_does_not_hide_jobs_of_the_old_one(new_harness):
    """Entries that were last renewed before the worker registered are read: they may be its predecessor's."""
    harness = new_harness(claim_idle_ms=60_000)
    old, jobs = await _run_jobs(harness, "w1", 3)
    await asyncio.sleep(0.01)
    await harness.renew(old, *jobs)
    await asyncio.sleep(0.01)
    new = harness.queue.session(type(old.identity)("w1"))
    assert await new.register({}, dead_instance_id=old.identity.instance_id) == 0
    await harness.renew(new)
    assert len(await harness.queue.reclaim()) == 3
