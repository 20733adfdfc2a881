"""requeue.lua: failed and cancelled jobs are queued again, all others are left alone."""

import pytest

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Failed, Retry
from aragora_q.errors import TryAgain


async def test_a_requeued_job_starts_again_and_keeps_what_it_paid_for(harness):
    """Attempts and TTLs are reset; history, journal and payload stay; the fence rises."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=2, priority=1)
    first = await harness.start_one(session)
    await session.checkpoint(first, "call", {"n": 1})
    kept_bytes = harness.redis.hget(harness.keys.journal("a"), "bytes")
    await session.checkpoint(first, "life/started", {"at": 1})
    await harness.report(session, first, Failed("no use"))
    assert await harness.queue.requeue(["a"]) == ["requeued"]
    waiting = await harness.queue.get_job("a")
    assert (waiting.status, waiting.attempts, waiting.payload) == (JobStatus.PENDING, 0, {"n": 1})
    assert (waiting.worker_id, waiting.completed_at) == (None, None)
    again = await harness.start_one(session)
    assert again.fence > first.fence
    assert (again.attempts, again.max_attempts) == (1, 2)
    assert await session.checkpoints(again) == {"call": {"n": 1}}
    assert harness.redis.hget(harness.keys.journal("a"), "bytes") == kept_bytes
    assert [each["error"] for each in await harness.queue.tracker.history("a")] == ["no use"]
    assert await harness.report(session, first, Completed(b"{}")) == "lost"
    assert await harness.report(session, again, Completed(b"{}")) == "completed"


async def test_requeue_takes_cancelled_jobs_and_leaves_all_others(harness):
    """Cancelled jobs are requeued even if they never started; other jobs keep their status."""
    session = await harness.worker()
    await harness.enqueue("done")
    await harness.report(session, await harness.start_one(session), Completed(b"{}"))
    await harness.enqueue("later")
    await harness.report(session, await harness.start_one(session), Retry("no", 60))
    for name in ("never", "cancelled"):
        await harness.enqueue(name)
        await harness.queue.cancel(name)
    await harness.enqueue("waits")
    ids = ["never", "cancelled", "cancelled", "done", "later", "waits", "nobody"]
    assert await harness.queue.requeue(ids) == [
        "requeued", "requeued", "pending", "completed", "retrying", "pending", "unknown",
    ]  # fmt: skip
    assert harness.counters()["requeued"] == 2
    assert harness.events()[-1] == ("requeued", "never cancelled")
    assert [job.id for job in (await session.start(9)).jobs] == ["waits", "never", "cancelled"]


async def test_a_dead_letter_that_never_was_a_job_stays_one(harness):
    """A malformed entry has no payload to run: requeue refuses it, and it stays listed."""
    session = await harness.worker()
    harness.redis.xadd(harness.keys.stream_normal, {"nonsense": "1"})
    await session.start(1)
    [job_id] = harness.redis.zrange(harness.keys.failed, 0, -1)
    assert await harness.queue.requeue([job_id]) == ["malformed"]
    assert harness.redis.zrange(harness.keys.failed, 0, -1) == [job_id]


async def test_more_than_a_batch_is_requeued(harness):
    """250 ids give 250 results, in order."""
    await harness.queue.enqueue_many([Job({}, id=f"j{n}") for n in range(250)])
    for n in range(250):
        await harness.queue.cancel(f"j{n}")
    ids = [f"j{n}" for n in range(250)]
    assert await harness.queue.requeue([*ids, "nobody"]) == ["requeued"] * 250 + ["unknown"]


async def test_a_full_server_takes_no_job_back(new_harness, redis_client):
    """Requeue needs memory, so a full server refuses it, and the dead letter is unchanged."""
    harness = new_harness()
    await harness.enqueue("a")
    await harness.queue.cancel("a")
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(TryAgain):
            await harness.queue.requeue(["a"])
    finally:
        redis_client.config_set("maxmemory", 0)
    assert (await harness.queue.get_job("a")).status is JobStatus.CANCELLED
