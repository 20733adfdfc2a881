"""start.lua: which waiting jobs start, in which order, and what a started job records."""

import asyncio
import time

import pytest

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Identity
from aragora_q.streams import session as session_module


async def test_start_takes_the_lease(harness):
    """A started job is processing, charged one attempt, with a new fence and a lease owner.

    The fence is the server's time in milliseconds.
    """
    session = await harness.worker("w1")
    await harness.enqueue("a", max_attempts=7)
    fetched = await session.start(5)
    [job] = fetched.jobs
    assert fetched.state == "ok"
    assert (job.id, job.raw_payload, job.attempts) == ("a", b'{"n":1}', 1)
    assert abs(job.fence / 1000 - time.time()) < 60
    assert harness.fields("a")["fence"] == str(job.fence)
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
    """At most `limit` jobs start; if none waits, the state is `empty`."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(5)])
    first = await session.start(2)
    assert [job.id for job in first.jobs] == ["j0", "j1"]
    assert first.state == "ok"
    rest = await session.start(10)
    assert [job.id for job in rest.jobs] == ["j2", "j3", "j4"]
    none = await session.start(10)
    assert (none.state, none.jobs) == ("empty", [])
    assert len(harness.pending()) == 5


async def test_any_lane_can_be_read_first(harness):
    """Lanes are read from high to low, `first_lane` before the others, so that no lane starves."""
    session = await harness.worker()
    for n in range(4):
        for priority in (0, -3, 2):
            await harness.enqueue(f"p{priority}.{n}", priority=priority)

    async def start(limit, **options):
        return [job.id for job in (await session.start(limit, **options)).jobs]

    assert await start(1) == ["p2.0"]
    assert await start(2, first_lane="low") == ["p-3.0", "p-3.1"]
    assert await start(1, first_lane="normal") == ["p0.0"]
    assert await start(3, first_lane="low") == ["p-3.2", "p-3.3", "p0.1"]
    assert await start(3, first_lane="normal") == ["p0.2", "p0.3", "p2.1"]
    assert await start(9, first_lane="normal") == ["p2.2", "p2.3"]


@pytest.mark.parametrize("priority", [-1, 0, 1])
async def test_start_next_waits_and_starts(harness, priority):
    """It waits for a job and starts it; after the timeout the state is `empty`."""
    session = await harness.worker()
    assert (await session.start(5)).state == "empty"
    waiting = asyncio.create_task(session.start_next(60))
    await harness.enqueue("a", priority=priority)
    await harness.enqueue("b", priority=priority)
    [job] = (await waiting).jobs
    assert (job.id, job.attempts, job.raw_payload) == ("a", 1, b'{"n":1}')
    assert harness.fields("a")["status"] == "processing"
    [job] = (await session.start_next(2)).jobs
    assert job.id == "b"
    nothing = await session.start_next(0.01)
    assert (nothing.state, nothing.jobs) == ("empty", [])


async def test_start_next_outlives_the_script_cache(harness):
    """It also works after SCRIPT FLUSH."""
    session = await harness.worker()
    await harness.enqueue("a")
    harness.redis.script_flush()
    [job] = (await session.start_next(2)).jobs
    assert job.id == "a"


async def test_unregistered_worker_starts_nothing(harness):
    """An instance without a record gets no job."""
    await harness.worker("w1")
    stranger = harness.queue.session(Identity("w1", "another"))
    await harness.enqueue("a")
    fetched = await stranger.start(1)
    assert (fetched.state, fetched.jobs) == ("unregistered", [])
    assert harness.pending() == []


async def test_large_payloads_start_few_at_a_time(new_harness, monkeypatch):
    """One call starts only as many jobs as fit into a reply; the next call continues."""
    monkeypatch.setattr(session_module, "START_BYTES", 100_000)
    harness = new_harness(claim_idle_ms=60_000)
    session = await harness.worker()
    for n in range(5):
        await harness.queue.enqueue(Job(payload={"text": "x" * 40_000}, id=f"j{n}"))
    fetched = [await session.start(5) for _ in range(3)]
    assert [[job.id for job in each.jobs] for each in fetched] == [
        ["j0", "j1", "j2"], ["j3", "j4"], [],
    ]  # fmt: skip
    assert [each.state for each in fetched] == ["ok", "ok", "empty"]
