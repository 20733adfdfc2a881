"""The journal of a job is bounded in all that an executor can put there."""

import pytest

from aragora_q.base import Released
from aragora_q.errors import PermanentError


async def test_names_of_checkpoints_count(harness):
    """Neither one huge name nor many names with next to nothing under them get past the bound."""
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
