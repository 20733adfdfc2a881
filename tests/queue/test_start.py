"""start.lua: which waiting jobs start, in which order, and what a started job records."""

import asyncio

import pytest

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Identity


async def test_start_takes_the_lease(harness):
    """A started job is processing, charged one attempt, with a new fence and a lease owner."""
    session = await harness.worker("w1")
    await harness.enqueue("a", max_attempts=7)
    fetched = await session.start(5)
    [job] = fetched.jobs
    assert fetched.state == "ok"
    assert (job.id, job.raw_payload, job.fence, job.attempts) == ("a", b'{"n":1}', 1, 1)
    assert (job.max_attempts, job.crashes, job.worker_id) == (7, 0, "w1")
    assert 0 <= job.waited_seconds < 60
    fields = harness.fields("a")
    assert fields["status"] == "processing"
    assert fields["lease_owner"] == session.identity.lease_owner
    assert fields["lease_ms"] == "60000"
    assert harness.pending()[0]["consumer"] == "w1"
    known = await harness.queue.get_job("a")
    assert known.status is JobStatus.PROCESSING
    assert known.started_at >= known.created_at
    assert harness.counters() == {"enqueued": 1, "started": 1}
    assert harness.events()[-1] == ("started", "a")


async def test_start_fills_free_slots_and_no_more(harness):
    """At most `limit` jobs start; if none waits, the reply says where a blocking read resumes."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(5)])
    first = await session.start(2)
    assert [job.id for job in first.jobs] == ["j0", "j1"]
    assert first.resume_from is None
    rest = await session.start(10)
    assert [job.id for job in rest.jobs] == ["j2", "j3", "j4"]
    none = await session.start(10)
    assert (none.jobs, none.resume_from) == ([], ("0-0", harness.fields("j4")["entry"], "0-0"))
    assert len(harness.pending()) == 5


async def test_lanes_are_read_high_to_low_or_low_to_high(harness):
    """The high lane first, or with `low_first` the low lane, so that no lane starves."""
    session = await harness.worker()
    for name, priority in (("n", 0), ("l", -3), ("h", 2), ("n2", 0), ("l2", -1), ("h2", 1)):
        await harness.enqueue(name, priority=priority)
    assert [job.id for job in (await session.start(3)).jobs] == ["h", "h2", "n"]
    assert [job.id for job in (await session.start(2, low_first=True)).jobs] == ["l", "l2"]


@pytest.mark.parametrize("priority", [-1, 0, 1])
async def test_start_next_waits_and_starts(harness, priority):
    """It waits for a job and starts it; after the timeout it returns where to resume."""
    session = await harness.worker()
    resume_from = (await session.start(5)).resume_from
    waiting = asyncio.create_task(session.start_next(resume_from, 2))
    await harness.enqueue("a", priority=priority)
    await harness.enqueue("b", priority=priority)
    [job] = (await waiting).jobs
    assert (job.id, job.fence, job.raw_payload) == ("a", 1, b'{"n":1}')
    assert harness.fields("a")["status"] == "processing"
    [job] = (await session.start_next(resume_from, 2)).jobs
    assert job.id == "b"
    nothing = await session.start_next((await session.start(5)).resume_from, 0.01)
    assert (nothing.state, nothing.jobs) == ("ok", [])
    assert nothing.resume_from != resume_from


async def test_start_next_outlives_the_script_cache(harness):
    """It also works after SCRIPT FLUSH."""
    session = await harness.worker()
    resume_from = (await session.start(5)).resume_from
    await harness.enqueue("a")
    harness.redis.script_flush()
    [job] = (await session.start_next(resume_from, 2)).jobs
    assert job.id == "a"


async def test_unregistered_worker_starts_nothing(harness):
    """An instance without a record gets no job."""
    await harness.worker("w1")
    stranger = harness.queue.session(Identity("w1", "another"))
    await harness.enqueue("a")
    fetched = await stranger.start(1)
    assert (fetched.state, fetched.jobs) == ("unregistered", [])
    assert harness.pending() == []


async def test_large_payloads_start_few_at_a_time(new_harness):
    """One call starts only as many jobs as fit into a reply; the next call continues."""
    harness = new_harness(claim_idle_ms=60_000, max_payload_bytes=16 * 1024 * 1024)
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(5)])
    fetched = [await session.start(5) for _ in range(4)]
    assert [len(each.jobs) for each in fetched] == [2, 2, 1, 0]
    assert [each.resume_from is None for each in fetched] == [True, True, True, False]
