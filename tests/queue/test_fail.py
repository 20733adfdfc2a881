"""fail.lua: a job becomes a dead letter."""

from aragora_q.base import JobStatus
from aragora_q.contracts import Failed
from aragora_q.streams.session import MAX_ERROR_CHARS


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
