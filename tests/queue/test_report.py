"""complete, retry, fail and release alike: which reports are accepted, and what a repeated one returns."""

import pytest

from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed, Identity, Released, Report, Retry
from aragora_q.errors import LeaseLost

OUTCOMES = {
    "completed": Completed(b'{"answer":42}'),
    "retrying": Retry("RuntimeError: no", 60),
    "failed": Failed("ValueError: never"),
    "released": Released(),
}


@pytest.mark.parametrize("verdict", OUTCOMES)
async def test_repeated_report_gets_the_same_answer(harness, verdict):
    """A report whose reply was lost is repeated: same result, nothing done or counted twice."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert await harness.report(session, job, OUTCOMES[verdict]) == verdict
    counters, events = harness.counters(), harness.events()
    assert await harness.report(session, job, OUTCOMES[verdict]) == verdict
    assert (harness.counters(), harness.events()) == (counters, events)


@pytest.mark.parametrize("verdict", OUTCOMES)
@pytest.mark.parametrize("who", ["old fence", "other worker", "other boot"])
async def test_only_the_lease_owner_may_report(harness, verdict, who):
    """Reports with another worker, instance or fence are refused: invariants D and F."""
    session, other = await harness.worker("w1"), await harness.worker("w2")
    await harness.enqueue("a")
    old = await harness.start_one(session)
    await harness.report(session, old, Released())
    job = await harness.start_one(session)
    sender, told = {
        "old fence": (session, old),
        "other worker": (other, job),
        "other boot": (harness.queue.session(Identity("w1", "another")), job),
    }[who]
    fields = harness.fields("a")
    is_repeat = (who, verdict) == ("old fence", "released")  # that is what it reported before
    expected = "released" if is_repeat else "lost"
    assert await harness.report(sender, told, OUTCOMES[verdict]) == expected
    with pytest.raises(LeaseLost):
        await sender.report_progress(told, {"round": 1})
    with pytest.raises(LeaseLost):
        await sender.checkpoint(told, "round", {"n": 1})
    assert (await harness.renew(sender, told)).lost == {"a": "lost"}
    assert harness.fields("a") == fields
    assert harness.counters().get("refused", 0) == (verdict != "released")
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


@pytest.mark.parametrize("ended", OUTCOMES)
@pytest.mark.parametrize("late", OUTCOMES)
async def test_late_report_changes_nothing(harness, ended, late):
    """After an attempt has ended, another report of it changes nothing: COMPLETED never turns RETRYING.

    (A retry may have failed its job, so a repeated retry is answered "failed".)
    """
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await harness.report(session, job, OUTCOMES[ended])
    fields = harness.fields("a")
    is_repeat = late == ended or (ended, late) == ("failed", "retrying")
    assert await harness.report(session, job, OUTCOMES[late]) == (ended if is_repeat else "lost")
    assert harness.fields("a") == fields


async def test_mixed_batch_answers_in_order(harness):
    """Reports of all kinds in one batch; results come in the order of the reports."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={"n": 1}, id=f"j{n}") for n in range(8)])
    jobs = (await session.start(8)).jobs
    outcomes = list(OUTCOMES.values()) * 2
    reports = [Report(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
    assert await session.report(reports) == list(OUTCOMES) * 2
    assert [await harness.queue.get_status(f"j{n}") for n in range(4)] == [
        "completed",
        "retrying",
        "failed",
        "pending",
    ]


async def test_large_batches_are_cut(harness):
    """More reports than one script call may carry are sent in several calls."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(250)])
    jobs = [job for _ in range(3) for job in (await session.start(1000)).jobs]
    verdicts = await session.report([Report(job, Completed(b"{}")) for job in jobs])
    assert verdicts == ["completed"] * 250
    assert harness.redis.zcard(harness.keys.completed) == 250


async def test_ends_without_its_stream(harness):
    """If the stream is deleted, a running job's outcome is recorded nevertheless."""
    session = await harness.worker()
    for n, outcome in enumerate(OUTCOMES.values()):
        await harness.enqueue(f"j{n}")
        job = await harness.start_one(session)
        harness.redis.delete(harness.keys.stream_normal)
        assert await harness.report(session, job, outcome) == list(OUTCOMES)[n]
    assert (await harness.start_one(session)).id == "j3"
