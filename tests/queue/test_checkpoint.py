"""checkpoint.lua and progress.lua: what an attempt stores while it runs, within bounds."""

import pytest

from aragora_q.contracts import Completed, Released, Retry
from aragora_q.errors import InvalidPayload, PermanentError
from aragora_q.redis.keys import BACKSTOP_MS


async def test_names_of_checkpoints_count(harness):
    """Names count for the limit: neither one huge name nor many long ones exceed it."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    with pytest.raises(PermanentError, match="exceed"):
        await session.checkpoint(job, "n" * 5_000_000, {})
    megabyte = "n" * 1_000_000
    for n in range(4):
        await session.checkpoint(job, f"{megabyte}{n}", {})
    with pytest.raises(PermanentError, match="exceed"):
        await session.checkpoint(job, f"{megabyte}4", {})
    for n in range(10):  # the same name again costs only what changed
        await session.checkpoint(job, f"{megabyte}0", {"n": n})
    assert len(await session.checkpoints(job)) == 4
    assert await harness.report(session, job, Released()) == "released"


async def test_progress_and_checkpoints(harness):
    """Progress is shown, checkpoints reach the next attempt, and both have limits."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await session.report_progress(job, {"round": 1})
    await session.checkpoint(job, "round-1", {"said": "x"})
    await session.checkpoint(job, "round-1", {"said": "y"})
    assert (await harness.queue.get_job("a")).progress == {"round": 1}
    with pytest.raises(PermanentError, match="round-2"):
        await session.checkpoint(job, "round-2", {"said": "z" * 5_000_000})
    with pytest.raises(ValueError, match="4096"):
        await session.report_progress(job, {"text": "z" * 5000})
    await harness.report(session, job, Retry("no", 0))
    job = await harness.start_delayed(session)
    assert await session.checkpoints(job) == {"round-1": {"said": "y"}}
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    assert harness.redis.pttl(harness.keys.journal("a")) > 0


async def test_a_jobs_checkpoints_are_read_without_a_session(harness):
    """The tracker returns what the executor saved, and nothing else of the journal, also after the end."""
    session, tracker = await harness.worker(), harness.queue.tracker
    await harness.enqueue("a")
    assert await tracker.checkpoints("a") == {}
    job = await harness.start_one(session)
    await session.report_progress(job, {"round": 1})
    saved = {"call/r1.review.0.1": {"value": "é"}, "life/begun": {"at": 1}, "": {}}
    for name, value in saved.items():
        await session.checkpoint(job, name, value)
    assert await tracker.checkpoints("a") == await session.checkpoints(job) == saved
    await harness.report(session, job, Completed(b"{}"))
    assert await tracker.checkpoints("a") == saved


async def test_checkpoints_of_many_jobs(harness):
    """One round trip reads them in order; an unknown job has none, and damage is the error of its job only."""
    session, tracker = await harness.worker(), harness.queue.tracker
    for job_id in ("a", "b", "c"):
        await harness.enqueue(job_id)
        await session.checkpoint(await harness.start_one(session), "round-1", {"of": job_id})
    harness.redis.hset(harness.keys.journal("b"), "checkpoint:round-1", "[]")
    harness.redis.delete(harness.keys.journal("c"))
    harness.redis.set(harness.keys.journal("c"), "x")
    found = await tracker.journals(["a", "b", "nowhere", "c"])
    assert (found[0], found[2]) == ({"round-1": {"of": "a"}}, {})
    for error, job_id in ((found[1], "b"), (found[3], "c")):
        assert isinstance(error, InvalidPayload)
        assert f"data of job {job_id} in Redis is corrupted" in str(error)


async def test_unknown_jobs_have_no_checkpoints(harness):
    """Neither has a job past its retention, nor one of which only a journal is left."""
    session, tracker = await harness.worker(), harness.queue.tracker
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await session.checkpoint(job, "x", {"n": 1})
    await harness.report(session, job, Completed(b"{}"))
    harness.redis.pexpire(harness.keys.job("a"), BACKSTOP_MS - 1000)
    assert await tracker.checkpoints("a") == {}
    harness.redis.delete(harness.keys.job("a"), harness.keys.result("a"))
    harness.redis.zrem(harness.keys.completed, "a")
    assert await tracker.checkpoints("a") == {}
    assert await tracker.checkpoints("unknown") == {}
    harness.redis.delete(harness.keys.journal("a"))


@pytest.mark.parametrize("value", ["{", "[1]", b"\xff"], ids=["cut", "list", "bytes"])
async def test_a_damaged_checkpoint_is_refused(harness, value):
    """Like other damaged data: one error that names the job, for readers and for the next attempt."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await session.checkpoint(job, "x", {"n": 1})
    harness.redis.hset(harness.keys.journal("a"), "checkpoint:y", value)
    for reading in (harness.queue.tracker.checkpoints("a"), session.checkpoints(job)):
        with pytest.raises(InvalidPayload, match="data of job a in Redis is corrupted: "):
            await reading
    await harness.report(session, job, Completed(b"{}"))
