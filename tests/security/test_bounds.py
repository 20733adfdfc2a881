"""What is handed in is bounded where it is taken in, and whatever comes out of an executor, too."""

import pytest
from stage import Stage

from aragora_q.base import Completed, Failed, Job
from aragora_q.errors import PayloadInvalid, PermanentError
from aragora_q.session import MAX_ERROR_CHARS, MAX_PROGRESS_BYTES
from aragora_q.worker import DebateWorker


@pytest.fixture
async def stage(redis_url):
    made = Stage(redis_url, max_payload_bytes=1000, max_result_bytes=1000)
    yield made
    await made.close()


@pytest.mark.parametrize(
    "job",
    [
        Job(payload={"x": "y" * 1000}),
        Job(payload={}, id="a:b"),
        Job(payload={}, id="-a"),
        Job(payload={}, id="a" * 65),
        Job(payload={}, id="a\nb"),
        Job(payload={}, id=""),
        Job(payload={}, priority=2**70),
        Job(payload={}, delay_seconds=-1),
        Job(payload={}, delay_seconds=float("nan")),
        Job(payload={"x": float("inf")}),
        Job(payload={}, max_attempts=0),
    ],
)
async def test_jobs(stage, job):
    """A job that breaks a bound is refused with 65, and not one key is written."""
    with pytest.raises(PayloadInvalid):
        await stage.queue.enqueue(job)
    assert stage.raw.dbsize() == 0


async def test_errors_and_progress(stage):
    """An error is cut to what an operator can read; progress beyond its bound is refused."""
    await stage.enqueue("a")
    session = await stage.worker()
    job = await stage.started(session)
    with pytest.raises(ValueError, match="progress"):
        await session.report_progress(job, {"x": "y" * MAX_PROGRESS_BYTES})
    await stage.end(session, job, Failed("x" * 1_000_000))
    [line] = stage.raw.lrange(f"{stage.keys.job('a')}:history", 0, -1)
    assert len(line) < MAX_ERROR_CHARS + 300


async def test_checkpoints(stage, monkeypatch):
    """The script counts the bytes of all checkpoints of a job, and refuses beyond the bound."""
    monkeypatch.setattr("aragora_q.session.MAX_JOURNAL_BYTES", 1000)
    await stage.enqueue("a")
    session = await stage.worker()
    job = await stage.started(session)
    await session.checkpoint(job, "one", {"x": "y" * 600})
    await session.checkpoint(job, "one", {"x": "z" * 600})
    with pytest.raises(PermanentError, match="exceed"):
        await session.checkpoint(job, "two", {"x": "y" * 600})
    assert await stage.end(session, job, Completed(b"{}")) == "completed"


async def test_results(stage):
    """A result beyond its bound fails the job for good: trying again would not make it smaller."""

    async def huge(job):
        return {"x": "y" * 5000}

    await stage.enqueue("a")
    await DebateWorker(stage.queue, "w1", executor=huge, burst=True, config=stage.config).start()
    job = await stage.queue.get_job("a")
    assert job.status == "failed"
    assert "max_result_bytes" in job.error
