"""Contract, on every server: requeue gives failed and cancelled jobs a new life, and no other."""

import pytest

from aragora_q.base import Completed, Failed, Job, JobStatus, Retry
from aragora_q.errors import TryAgain


async def test_a_requeued_job_begins_anew_and_keeps_what_it_paid_for(stage):
    """Attempts and TTLs go, history, journal and payload stay, the fence rises: the old life is over."""
    session = await stage.worker()
    await stage.enqueue("a", max_attempts=2, priority=1)
    first = await stage.started(session)
    await session.checkpoint(first, "call", {"n": 1})
    kept_bytes = stage.raw.hget(stage.keys.journal("a"), "bytes")
    await session.checkpoint(first, "life/started", {"at": 1})
    await stage.end(session, first, Failed("no use"))
    assert await stage.queue.requeue(["a"]) == ["requeued"]
    waiting = await stage.queue.get_job("a")
    assert (waiting.status, waiting.attempts, waiting.payload) == (JobStatus.PENDING, 0, {"n": 1})
    assert (waiting.worker_id, waiting.completed_at) == (None, None)
    again = await stage.started(session)
    assert (again.fence, again.attempts, again.max_attempts) == (2, 1, 2)
    assert await session.checkpoints(again) == {"call": {"n": 1}}
    assert stage.raw.hget(stage.keys.journal("a"), "bytes") == kept_bytes
    assert [each["error"] for each in await stage.queue.tracker.history("a")] == ["no use"]
    assert await stage.end(session, first, Completed(b"{}")) == "lost"
    assert await stage.end(session, again, Completed(b"{}")) == "completed"


async def test_requeue_takes_cancelled_jobs_and_leaves_all_others(stage):
    """Cancelled jobs live again, also ones that never started; others keep the status they have."""
    session = await stage.worker()
    await stage.enqueue("done")
    await stage.end(session, await stage.started(session), Completed(b"{}"))
    await stage.enqueue("later")
    await stage.end(session, await stage.started(session), Retry("no", 60))
    for name in ("never", "cancelled"):
        await stage.enqueue(name)
        await stage.queue.cancel(name)
    await stage.enqueue("waits")
    ids = ["never", "cancelled", "cancelled", "done", "later", "waits", "nobody"]
    assert await stage.queue.requeue(ids) == [
        "requeued", "requeued", "pending", "completed", "retrying", "pending", "unknown",
    ]  # fmt: skip
    assert stage.counters()["requeued"] == 2
    assert stage.events()[-1] == ("requeued", "never cancelled")
    assert [job.id for job in (await session.start(9)).jobs] == ["waits", "never", "cancelled"]


async def test_a_dead_letter_that_never_was_a_job_stays_one(stage):
    """A malformed entry has no payload to run; requeue refuses it, and it stays listed."""
    session = await stage.worker()
    stage.raw.xadd(stage.keys.stream_normal, {"nonsense": "1"})
    await session.start(1)
    [job_id] = stage.raw.zrange(stage.keys.failed, 0, -1)
    assert await stage.queue.requeue([job_id]) == ["malformed"]
    assert stage.raw.zrange(stage.keys.failed, 0, -1) == [job_id]


async def test_more_than_a_batch_is_requeued(stage):
    """Batches are the queue's business: 250 ids, 250 answers, in order."""
    await stage.queue.enqueue_many([Job({}, id=f"j{n}") for n in range(250)])
    for n in range(250):
        await stage.queue.cancel(f"j{n}")
    ids = [f"j{n}" for n in range(250)]
    assert await stage.queue.requeue([*ids, "nobody"]) == ["requeued"] * 250 + ["unknown"]


async def test_a_full_server_takes_no_job_back(new_stage, raw):
    """Requeue takes in data, so it is refused when memory is full, and the dead letter stays whole."""
    stage = new_stage()
    await stage.enqueue("a")
    await stage.queue.cancel("a")
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(TryAgain):
            await stage.queue.requeue(["a"])
    finally:
        raw.config_set("maxmemory", 0)
    assert (await stage.queue.get_job("a")).status is JobStatus.CANCELLED
