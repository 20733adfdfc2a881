"""fail.lua: a job becomes a dead letter, perhaps with a partial result."""

import pytest

from aragora_q.base import MAX_ERROR_CHARS, Job, JobStatus
from aragora_q.contracts import Completed, Failed, PurgeResult, Released, Report, Retry
from aragora_q.redis.keys import BACKSTOP_MS, MAX_DATA_BYTES

PARTIAL = Failed("PermanentError: no vote", b'{"answers":["a\\nb"]}')


async def test_fail(harness):
    """A permanent error makes a dead letter at once: payload and error are kept."""
    session = await harness.worker()
    await harness.enqueue("a", priority=1)
    job = await harness.start_one(session)
    assert await harness.report(session, job, Failed("ValueError: " + "x" * 9000)) == "failed"
    known = await harness.queue.get_job("a")
    assert (known.status, known.payload, known.attempts) == (JobStatus.FAILED, {"n": 1}, 1)
    assert len(known.error) == MAX_ERROR_CHARS
    assert harness.entries(1) == []


async def _failed(harness, outcome=PARTIAL, **fields):
    """A session, and job `a`, which it failed."""
    session = await harness.worker()
    await harness.enqueue("a", **fields)
    job = await harness.start_one(session)
    assert await harness.report(session, job, outcome) == "failed"
    return session, job


async def test_a_partial_result_is_kept_as_long_as_its_job(harness):
    """A failed job has payload, error and the result that its executor gave; it expires with them."""
    await _failed(harness)
    known = await harness.queue.get_job("a")
    assert (known.status, known.error) == (JobStatus.FAILED, PARTIAL.error)
    assert (known.payload, known.result) == ({"n": 1}, {"answers": ["a\nb"]})
    keys = [key(known.id) for key in (harness.keys.job, harness.keys.result)]
    ends = [harness.redis.pexpiretime(key) for key in keys]
    assert max(ends) - min(ends) < 5_000
    assert harness.redis.pttl(keys[0]) > harness.config.retention_ms


async def test_a_failure_without_a_result_stores_none(harness):
    """A job without a partial result takes no key for one."""
    await _failed(harness, Failed("no"))
    key = harness.keys.job("a")
    stored = set(harness.redis.scan_iter(match=f"{key}*"))
    assert stored == {key, f"{key}:payload", f"{key}:history"}
    assert (await harness.queue.get_job("a")).result is None


async def test_a_partial_result_that_is_too_large_is_left_out(new_harness):
    """The job fails nevertheless; its error says what is missing, however long it is."""
    harness = new_harness()
    large = Failed("x" * 9_000, b"x" * (MAX_DATA_BYTES + 1))
    await _failed(harness, large)
    known = await harness.queue.get_job("a")
    assert (known.status, known.result) == (JobStatus.FAILED, None)
    assert known.error.startswith("partial result left out (it has 67108865 bytes, the limit is")
    assert known.error.endswith("; " + "x" * MAX_ERROR_CHARS)


async def test_large_partial_results_go_by_batches(new_harness):
    """Many of them in one report are sent in calls of bounded size, and all are kept."""
    harness = new_harness()
    session = await harness.worker()
    await harness.queue.enqueue_many([Job({}, id=f"j{n}") for n in range(12)])
    jobs = (await session.start(12)).jobs
    result = b'{"x":"%s"}' % (b"y" * 1_000_000)
    outcomes = [Failed("no", result), Failed("no"), Completed(b"{}"), Retry("x", 60)] * 3
    verdicts = await session.report([Report(*pair) for pair in zip(jobs, outcomes, strict=True)])
    assert verdicts == ["failed", "failed", "completed", "retrying"] * 3
    sizes = [harness.redis.strlen(harness.keys.result(job.id)) for job in jobs]
    assert sizes == [len(result), 0, len(b"{}\n{}"), 0] * 3


async def test_a_report_sent_again_changes_nothing(harness):
    """A repeated failure with another result is answered as before; the first result stays."""
    session, job = await _failed(harness)
    for again in (PARTIAL, Failed("other", b'{"n":2}'), Failed("other")):
        assert await harness.report(session, job, again) == "failed"
    assert (await harness.queue.get_job("a")).result == {"answers": ["a\nb"]}
    assert len(await harness.queue.tracker.history("a")) == 1
    assert await harness.queue.requeue(["a"]) == ["requeued"]
    assert await harness.report(session, job, PARTIAL) == "failed"
    assert not harness.redis.exists(harness.keys.result("a"))


@pytest.mark.parametrize("end", [Completed(b'{"n":2}'), Failed("no"), Released(), None])
async def test_a_requeued_job_starts_without_its_partial_result(harness, end):
    """Requeue deletes it: the next life ends with the result that it gave, or none."""
    session, _ = await _failed(harness)
    assert await harness.queue.requeue(["a"]) == ["requeued"]
    waiting = await harness.queue.get_job("a")
    assert (waiting.status, waiting.payload, waiting.result) == (JobStatus.PENDING, {"n": 1}, None)
    again = await harness.start_one(session)
    if end is None:
        assert await harness.queue.cancel("a")
    else:
        assert await harness.report(session, again, end) != "lost"
    ended = await harness.queue.get_job("a")
    assert ended.payload == {"n": 1}
    assert ended.result == ({"n": 2} if isinstance(end, Completed) else None)


async def test_a_partial_result_is_purged_with_its_job(harness):
    """Purge deletes all keys of a failed job."""
    await _failed(harness)
    purged = await harness.queue.purge(JobStatus.FAILED, older_than_seconds=-1)
    assert purged == PurgeResult(1, has_more=False)
    assert not list(harness.redis.scan_iter(match=f"{harness.keys.job('a')}*"))


async def test_an_id_past_retention_does_not_bring_a_partial_result(harness):
    """A new job with the id of a failed one past its retention has no result."""
    await _failed(harness)
    for key in (harness.keys.job("a"), harness.keys.result("a")):
        harness.redis.pexpire(key, BACKSTOP_MS - 1000)
    assert await harness.queue.get_job("a") is None
    await harness.enqueue("a")
    assert (await harness.queue.get_job("a")).result is None
    assert not harness.redis.exists(harness.keys.result("a"))
