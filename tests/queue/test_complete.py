"""complete.lua: a job ends with its result."""

import pytest

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Released, Report
from aragora_q.status import BACKSTOP_MS

DAY_MS = 86_400_000


async def test_complete(harness):
    """A completed job keeps payload and result, leaves its lane, and expires after its retention."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert await harness.report(session, job, Completed(b'{"answer":42}')) == "completed"
    known = await harness.queue.get_job("a")
    assert known.status is JobStatus.COMPLETED
    assert (known.payload, known.result, known.error) == ({"n": 1}, {"answer": 42}, None)
    assert known.completed_at >= known.started_at
    assert (known.attempts, known.worker_id) == (1, "w1")
    assert harness.entries() == []
    assert harness.pending() == []
    left_ms = harness.redis.pttl(harness.keys.job("a")) - BACKSTOP_MS
    assert 6.9 * DAY_MS < left_ms <= 7 * DAY_MS
    assert harness.counters() == {"enqueued": 1, "started": 1, "completed": 1}
    assert harness.events()[-1] == ("completed", "a")


async def test_large_results_are_sent_in_small_batches(new_harness):
    """Many megabytes go in several calls, so that each completes on a slow connection."""
    harness = new_harness(claim_idle_ms=60_000)
    session = await harness.worker()
    harness.redis.config_resetstat()
    jobs = [Job(payload={"text": "x" * 200_000}, id=f"j{n}") for n in range(50)]
    assert len(await harness.queue.enqueue_many(jobs)) == 50
    assert harness.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
    running = (await session.start(50)).jobs
    harness.redis.config_resetstat()
    result = Completed(b'{"text":"' + b"y" * 1_000_000 + b'"}')
    assert await session.report([Report(job, result) for job in running]) == ["completed"] * 50
    assert harness.redis.info("commandstats")["cmdstat_evalsha"]["calls"] >= 15


async def test_status_is_in_a_hash(harness):
    """As documented, `redis-cli HGET` of a job's key shows its status: waiting, running and completed."""
    session = await harness.worker()
    key = harness.keys.job("a")
    await harness.enqueue("a")
    assert harness.redis.hget(key, "status") == "pending"
    job = await harness.start_one(session)
    assert harness.redis.hget(key, "status") == "processing"
    await harness.report(session, job, Completed(b"{}"))
    assert harness.redis.hget(key, "status") == "completed"


async def _progress(_harness, session, job):
    await session.report_progress(job, {"step": 1})


async def _checkpoint(_harness, session, job):
    await session.checkpoint(job, "step", {})


async def _hold(harness, _session, _job):
    await harness.queue.hold("a", by="ann", reason="wait")
    await harness.queue.unhold("a", by="ann")


@pytest.mark.parametrize("leave", [_progress, _checkpoint, _hold])
@pytest.mark.parametrize("is_hash_lost", [False, True], ids=["", "hash lost"])
async def test_all_that_a_job_has_expires(harness, leave, is_hash_lost):
    """A journal and a history expire with their job, also if its hash was deleted after they were written."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await leave(harness, session, job)
    if is_hash_lost:
        await harness.report(session, job, Released())
        harness.redis.delete(harness.keys.job("a"))
        job = await harness.start_one(session)
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    kept = [harness.keys.journal("a"), harness.keys.history("a")]
    assert any(harness.redis.exists(key) for key in kept)
    assert all(harness.redis.pttl(key) > DAY_MS for key in kept if harness.redis.exists(key))
