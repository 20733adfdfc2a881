"""cancel.lua: any live job ends at once."""

import pytest

from aragora_q.base import JobStatus
from aragora_q.contracts import Completed, Failed, Released, Retry
from aragora_q.errors import JobNotFound
from aragora_q.status import BACKSTOP_MS


async def _delayed(harness, session):
    await harness.enqueue("a", delay_seconds=60)


async def _pending(harness, session):
    await harness.enqueue("a", priority=-1)


async def _processing(harness, session):
    await harness.enqueue("a")
    return await harness.start_one(session)


async def _retrying(harness, session):
    job = await _processing(harness, session)
    await harness.report(session, job, Retry("no", 0))


async def _promoted(harness, session):
    await _retrying(harness, session)
    await harness.queue.promote()


LIVE = {
    "delayed": _delayed,
    "pending": _pending,
    "processing": _processing,
    "retrying": _retrying,
    "promoted": _promoted,
}


@pytest.mark.parametrize("state", LIVE)
async def test_cancel_ends_any_live_job_at_once(harness, state):
    """A cancelled job is never started again, keeps its payload, and its worker's reports are refused."""
    session = await harness.worker()
    job = await LIVE[state](harness, session)
    assert await harness.queue.cancel("a")
    known = await harness.queue.get_job("a")
    assert (known.status, known.payload) == (JobStatus.CANCELLED, {"n": 1})
    assert known.created_at is not None
    assert known.completed_at >= known.created_at
    await harness.queue.promote()
    assert (await session.start(5)).jobs == []
    assert not await harness.queue.cancel("a")
    assert harness.counters()["cancelled"] == 1
    assert harness.events()[-1] == ("cancelled", "a")
    if job:
        for outcome in (Completed(b"{}"), Retry("late", 0), Failed("late"), Released()):
            assert await harness.report(session, job, outcome) == "cancelled"
        assert harness.counters().get("refused") is None  # a cancel is not the worker's fault
        assert await harness.queue.get_status("a") is JobStatus.CANCELLED
    assert [harness.entries(priority) for priority in (1, 0, -1)] == [[], [], []]


async def test_cancel_of_what_has_ended_or_never_was(harness):
    """An ended job stays as it is; an unknown one, and one past retention, is not found."""
    session = await harness.worker()
    for name, outcome in (("done", Completed(b"{}")), ("dead", Failed("x"))):
        await harness.enqueue(name)
        await harness.report(session, await harness.start_one(session), outcome)
        assert not await harness.queue.cancel(name)
    with pytest.raises(JobNotFound, match="job nothing not found in queue debates"):
        await harness.queue.cancel("nothing")
    harness.redis.pexpire(harness.keys.job("dead"), BACKSTOP_MS - 1)
    with pytest.raises(JobNotFound):
        await harness.queue.cancel("dead")


async def test_cancelled_running_job_frees_its_reclaim(harness):
    """Nothing of a cancelled job is left for reclaim to find."""
    session = await harness.worker()
    await _processing(harness, session)
    await harness.queue.cancel("a")
    assert harness.pending() == []
    assert await harness.queue.reclaim() == []
