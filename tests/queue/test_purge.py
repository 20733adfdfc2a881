"""purge.lua: ended jobs past their retention are deleted."""

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Failed, PurgeResult
from aragora_q.maintenance import purge_pass


async def test_purge_deletes_what_is_past_retention(harness):
    """All keys of jobs past their retention are deleted; younger and live jobs stay."""
    session = await harness.worker()
    for name, outcome in (
        ("old", Completed(b"{}")),
        ("dead", Failed("x")),
        ("new", Completed(b"{}")),
    ):
        await harness.enqueue(name)
        await harness.report(session, await harness.start_one(session), outcome)
    await harness.enqueue("old-cancelled")
    await harness.queue.cancel("old-cancelled")
    await harness.enqueue("alive", delay_seconds=9)
    harness.redis.zadd(harness.keys.completed, {"old": 1})
    harness.redis.zadd(harness.keys.failed, {"dead": 1})
    harness.redis.zadd(harness.keys.cancelled, {"old-cancelled": 1})
    dry = await purge_pass(harness.queue, dry_run=True)
    assert dry == await purge_pass(harness.queue)
    assert dry == {"cancelled": 1, "completed": 1, "failed": 1}
    for name in ("old", "dead", "old-cancelled"):
        assert not list(harness.redis.scan_iter(match=f"{harness.keys.job(name)}*"))
    assert await harness.queue.get_status("new") is JobStatus.COMPLETED
    assert await harness.queue.get_status("alive") is JobStatus.PENDING
    assert harness.counters()["purged"] == 3


async def test_purge_goes_by_batches(harness):
    """A long list is deleted in bounded steps; a shorter age can be given."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(230)])
    for job_id in [f"j{n}" for n in range(230)]:
        await harness.queue.cancel(job_id)
    assert await harness.queue.purge(JobStatus.CANCELLED) == PurgeResult(0, has_more=False)
    first = await harness.queue.purge(JobStatus.CANCELLED, older_than_seconds=-1)
    assert first == PurgeResult(100, has_more=True)
    done = await purge_pass(harness.queue, older_than_seconds=-1)
    assert done[JobStatus.CANCELLED] == 130
    assert (await session.start(1)).jobs == []


async def test_purge_spares_a_job_that_lives_again(harness):
    """An index entry whose job is live again is removed; the job stays."""
    await harness.enqueue("a")
    harness.redis.zadd(harness.keys.failed, {"a": 1})
    await harness.queue.purge(JobStatus.FAILED)
    assert await harness.queue.get_status("a") is JobStatus.PENDING
    assert harness.redis.zcard(harness.keys.failed) == 0
