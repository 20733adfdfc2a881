"""retry.lua: a failed attempt is repeated after a delay, up to the maximum of attempts."""

import pytest

from aragora_q.base import JobStatus
from aragora_q.contracts import Retry
from aragora_q.streams.session import MAX_DEFERRAL_SECONDS, MAX_DEFERRALS


async def test_retry_waits_out_its_backoff(harness):
    """A retried job is RETRYING in the delayed index; its error is recorded, its attempt is charged."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert await harness.report(session, job, Retry("RuntimeError: later", 60)) == "retrying"
    known = await harness.queue.get_job("a")
    assert known.status is JobStatus.RETRYING
    assert (known.attempts, known.error, known.payload) == (1, "RuntimeError: later", {"n": 1})
    assert 50 < known.due_at - known.started_at < 120
    assert harness.entries() == []
    assert (await session.start(1)).jobs == []
    [line] = await harness.queue.tracker.history("a")
    assert (line["cause"], line["attempt"], line["worker"]) == (
        "error",
        1,
        session.identity.lease_owner,
    )


@pytest.mark.parametrize("own", [None, 1, 2])
async def test_attempts_are_bounded(harness, own):
    """At the job's own maximum, else the queue's, a retry becomes a dead letter, once, payload kept."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=own)
    maximum = own or 3
    job = await harness.start_one(session)
    fences = [job.fence]
    for attempt in range(1, maximum):
        assert job.attempts == attempt
        assert await harness.report(session, job, Retry(f"no {attempt}", 0)) == "retrying"
        job = await harness.start_delayed(session)
        fences.append(job.fence)
    assert job.attempts == maximum
    assert fences == sorted(set(fences)), "fences only rise"
    for _ in range(2):
        assert await harness.report(session, job, Retry("the last", 0)) == "failed"
    known = await harness.queue.get_job("a")
    assert (known.status, known.error) == (JobStatus.FAILED, "the last")
    assert (known.attempts, known.payload) == (maximum, {"n": 1})
    assert harness.redis.zcard(harness.keys.failed) == harness.counters()["failed"] == 1
    assert harness.counters().get("retried", 0) == maximum - 1


async def test_retry_later_costs_no_attempt_fifty_times(harness):
    """A provider's "come back later" gives the attempt back; from the 51st time on it is charged."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=2)
    job = await harness.start_one(session)
    for _ in range(MAX_DEFERRALS):
        assert job.attempts == 1
        assert await harness.report(session, job, Retry("busy", 0, charged=False)) == "retrying"
        assert (await harness.queue.get_job("a")).attempts == 0
        job = await harness.start_delayed(session)
    assert harness.counters()["started"] == MAX_DEFERRALS + 1
    assert harness.counters()["deferred"] == MAX_DEFERRALS
    assert await harness.report(session, job, Retry("busy", 0, charged=False)) == "retrying"
    job = await harness.start_delayed(session)
    assert job.attempts == 2
    assert await harness.report(session, job, Retry("busy", 0, charged=False)) == "failed"
    assert len(await harness.queue.tracker.history("a")) == 20


async def test_retry_later_costs_no_attempt_for_six_hours(harness):
    """Six hours after the first "later", the next one is charged."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=1)
    await harness.report(session, await harness.start_one(session), Retry("busy", 0, charged=False))
    job = await harness.start_delayed(session)
    harness.redis.hincrby(harness.keys.job("a"), "deferred_at", -1000 * MAX_DEFERRAL_SECONDS)
    assert await harness.report(session, job, Retry("busy", 0, charged=False)) == "failed"


@pytest.mark.parametrize("charged", [True, False])
@pytest.mark.parametrize("field", ["attempts", "max_attempts", "deferrals", "deferred_at"])
async def test_an_invalid_number_prevents_no_retry(harness, field, charged):
    """A job with an invalid number in its hash is retried as if the field were missing."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.redis.hset(harness.keys.job("a"), field, "garbled")
    assert await harness.report(session, job, Retry("busy", 0, charged=charged)) == "retrying"
    assert (await harness.start_delayed(session)).fence > job.fence
