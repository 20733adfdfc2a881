"""The trace context in the hash of a job: how it is written, returned by a start, and replaced."""

from contextvars import ContextVar

import pytest

from aragora_q import tracing
from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed, Released, Retry
from aragora_q.errors import LeaseLost
from aragora_q.redis.keys import BACKSTOP_MS

SENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-11112222333344445555666677778888-1111222233334444-00 vendor=1,other=a b"


@pytest.fixture
def receive(monkeypatch):
    """Sets the trace context that this program was called with."""

    def received(trace):
        monkeypatch.setattr(tracing, "received", ContextVar("received", default=trace))

    return received


async def test_a_job_carries_the_context_of_its_enqueue_through_all_its_states(harness, receive):
    """It keeps it held, freed, delayed, started, released, retried, reclaimed, ended, and queued again.

    All starts but the first are restarts.
    """
    session = await harness.worker()
    receive(OTHER)
    [result] = await harness.queue.enqueue_many(
        [Job({}, id="a", delay_seconds=60, priority=-2, group="g")], hold="to be approved"
    )
    receive(SENT)
    assert result.created
    assert not (await harness.queue.enqueue_many([Job({}, id="a")]))[0].created

    async def started():
        job = await harness.start_one(session)
        for each in (job, await harness.queue.get_job("a")):
            assert (each.trace, each.group) == (OTHER, "g")
        return job

    assert await harness.queue.unhold("a")
    harness.redis.zadd(harness.keys.delayed, {"a": 0})
    assert (await harness.queue.promote()).promoted == 1
    first = await started()
    assert not first.is_restart
    await harness.report(session, first, Released())
    again = await started()
    assert again.is_restart
    await harness.report(session, again, Retry("busy", 60))
    assert (await harness.start_delayed(session)).is_restart
    harness.backdate("a")
    await harness.queue.reclaim()
    assert await harness.report(session, await started(), Failed("no")) == "failed"
    assert await harness.queue.requeue(["a"]) == ["requeued"]
    last = await started()
    assert last.is_restart
    assert await harness.report(session, last, Completed(b"{}")) == "completed"
    assert (await harness.queue.get_job("a")).trace == OTHER


async def test_a_job_without_a_context_has_no_field_for_it(harness, receive):
    """Nor has the job that `seal_group` adds. Restarts are known without the field."""
    session = await harness.worker()
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g", then=Job({}, id="then"))
    assert set(harness.fields("a")) == {"status", "max_attempts", "entry"}
    job = await harness.start_one(session)
    assert (job.trace, job.is_restart, job.group) == ("", False, "g")
    await harness.report(session, job, Released())
    job = await harness.start_one(session)
    assert (job.trace, job.is_restart) == ("", True)
    receive(SENT)
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    follower = await harness.start_one(session)
    assert (follower.id, follower.trace, follower.is_restart) == ("then", "", False)


async def test_an_id_that_is_used_again_has_the_new_context(harness, receive):
    """A job past retention leaves no context to the next one with its id."""
    for trace in (SENT, OTHER, ""):
        receive(trace)
        await harness.enqueue("a")
        assert (await harness.queue.get_job("a")).trace == trace
        await harness.queue.cancel("a")
        harness.redis.pexpire(harness.keys.job("a"), BACKSTOP_MS - 1)


async def test_the_owner_of_a_lease_replaces_the_context(harness, receive):
    """Nothing else changes.

    It may do so until the next attempt begins, even if the job has ended. Others are refused.
    """
    session, other = await harness.worker("w1"), await harness.worker("w2")
    receive(SENT)
    await harness.enqueue("a")
    first = await harness.start_one(session)
    before, events = harness.fields("a"), harness.events()
    await session.note_trace(first, OTHER)
    assert harness.fields("a") == {**before, "trace": OTHER}
    assert harness.events() == events
    with pytest.raises(LeaseLost):
        await other.note_trace(first, SENT)
    await harness.report(session, first, Released())
    await session.note_trace(first, OTHER)
    second = await harness.start_one(session)
    assert second.trace == OTHER
    with pytest.raises(LeaseLost):
        await session.note_trace(first, SENT)
    await harness.report(session, second, Completed(b"{}"))
    with pytest.raises(LeaseLost):
        await other.note_trace(second, SENT)
    before = harness.fields("a")
    await session.note_trace(second, SENT)
    assert harness.fields("a") == {**before, "trace": SENT}
