"""A job's checkpoints are bounded in number, too: many tiny ones cost Redis more than their bytes."""

import pytest

from aragora_q.contracts import Completed
from aragora_q.errors import PermanentError
from aragora_q.streams import session as sessions


async def test_checkpoints_are_bounded_in_number(harness, monkeypatch):
    """One name more than MAX_CHECKPOINTS is refused, permanently; known names can still be written."""
    monkeypatch.setattr(sessions, "MAX_CHECKPOINTS", 10)
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await session.report_progress(job, {"not": "a checkpoint"})
    for n in range(10):
        await session.checkpoint(job, f"{n}", {"n": n})
    with pytest.raises(PermanentError, match="more than 10 checkpoints"):
        await session.checkpoint(job, "one more", {})
    await session.checkpoint(job, "3", {"n": "again"})
    kept = await session.checkpoints(job)
    assert (len(kept), kept["3"]) == (10, {"n": "again"})
    await harness.report(session, job, Completed(b"{}"))


async def test_a_full_journal_stays_small(harness):
    """As many of the smallest checkpoints as fit take a few MB of Redis' memory, not tens."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    journal = harness.keys.journal("a")
    fields = {f"checkpoint:{n}": "{}" for n in range(sessions.MAX_CHECKPOINTS)}
    harness.redis.hset(journal, mapping={**fields, "bytes": 8 * len(fields), "progress": "{}"})
    harness.redis.hset(harness.keys.job("a"), "more", 1)  # as the first of them would
    with pytest.raises(PermanentError, match="checkpoints"):
        await session.checkpoint(job, "one more", {})
    assert harness.redis.memory_usage(journal, samples=0) < 4_000_000
    await harness.report(session, job, Completed(b"{}"))
