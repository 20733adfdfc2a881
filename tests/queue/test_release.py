"""release.lua: a job returns to its lane and is charged nothing."""

import pytest

from aragora_q.base import JobStatus
from aragora_q.contracts import Released


@pytest.mark.parametrize("recovers", [True, False])
async def test_an_invalid_number_of_attempts_delays_no_release(harness, recovers):
    """A job with an invalid number of attempts is released, by report and as an orphan."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.redis.hset(harness.keys.job("a"), "attempts", "garbled")
    if recovers:
        assert await session.release_orphans(lambda _: False, min_idle_seconds=0) == ["a"]
    else:
        assert await harness.report(session, job, Released()) == "released"
    assert (await harness.start_one(session)).attempts == 1


async def test_release_charges_nothing(harness):
    """A released job is PENDING at the end of its lane, without the attempt; the fence still rises."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.enqueue("b")
    job = await harness.start_one(session)
    assert await harness.report(session, job, Released()) == "released"
    known = await harness.queue.get_job("a")
    assert (known.status, known.attempts, known.payload) == (JobStatus.PENDING, 0, {"n": 1})
    assert [each.id for each in (await session.start(5)).jobs] == ["b", "a"]
    assert int(harness.fields("a")["fence"]) > job.fence
    assert harness.counters()["released"] == 1
