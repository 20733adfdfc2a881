"""checkpoint.lua and progress.lua: what an attempt stores while it runs, within bounds."""

import pytest

from aragora_q.contracts import Completed, Released, Retry
from aragora_q.errors import PermanentError


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
    for n in range(100):  # the same name again costs only what changed
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
