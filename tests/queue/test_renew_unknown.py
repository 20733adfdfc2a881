"""A renewal while a start is under way also renews jobs that the worker does not know of yet."""

import pytest

from aragora_q.base import Job

LEASE_MS = 60_000


async def _renew(session, jobs, starting_seconds):
    renewer = session.lease_renewer()
    try:
        leases = [(job.id, job.fence) for job in jobs]
        return await renewer.renew(leases, starting_seconds=starting_seconds)
    finally:
        await renewer.close()


def _idle_ms(harness, job_id):
    entry = harness.fields(job_id)["entry"]
    [row] = [row for row in harness.pending() if row["message_id"] == entry]
    return row["time_since_delivered"]


async def _started(harness, session, *names, idle_ms=40_000):
    await harness.queue.enqueue_many([Job({}, id=name) for name in names])
    jobs = []
    while len(jobs) < len(names):
        jobs += (await session.start(100)).jobs
    for name in names:
        harness.backdate(name, idle_ms)
    return jobs


@pytest.mark.parametrize("known", [0, 3, 250])
async def test_jobs_of_a_start_under_way_are_renewed(harness, known):
    """However many jobs the worker runs, those of the start that is not answered yet keep their lease."""
    session = await harness.worker()
    jobs = await _started(harness, session, *(f"known{n:03}" for n in range(known)))
    await _started(harness, session, "unheard0", "unheard1")
    assert (await _renew(session, jobs, 45.0)).lost == {}
    for name in ("unheard0", "unheard1", *[job.id for job in jobs[:3]]):
        assert _idle_ms(harness, name) < 20_000, name


async def test_without_a_start_under_way_they_are_not(harness):
    """A job that the worker does not know of, and is not about to, is left to reclaim."""
    session = await harness.worker()
    await _started(harness, session, "unheard")
    await _renew(session, [], None)
    assert _idle_ms(harness, "unheard") >= 40_000


async def test_jobs_that_started_before_are_not(harness):
    """A job that was started before the start under way was sent was given up: it is left to reclaim."""
    session = await harness.worker()
    await _started(harness, session, "given-up")
    harness.redis.hincrby(harness.keys.job("given-up"), "started_at", -30_000)
    await _renew(session, [], 10.0)
    assert _idle_ms(harness, "given-up") >= 40_000
    await _renew(session, [], 45.0)
    assert _idle_ms(harness, "given-up") < 20_000


async def test_jobs_of_others_are_not(harness):
    """Neither those of another worker, nor those of an earlier instance of this worker id."""
    old, other = await harness.worker("w1"), await harness.worker("w2")
    await _started(harness, old, "of-the-old-one")
    await _started(harness, other, "of-another")
    new = harness.queue.session(type(old.identity)("w1"))
    assert await new.register({}, dead_instance_id=old.identity.instance_id) == 0
    await _renew(new, [], 45.0)
    for name in ("of-the-old-one", "of-another"):
        assert _idle_ms(harness, name) >= 40_000
