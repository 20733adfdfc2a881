"""Jobs that were started for a worker that never received them are released."""

from aragora_q.base import Job, JobStatus


async def test_jobs_the_worker_does_not_know_are_released(harness):
    """A start whose reply was lost is undone and uncharged. Known jobs and those of others stay."""
    session, other = await harness.worker("w1"), await harness.worker("w2")
    for name in ("known", "unheard", "others"):
        await harness.enqueue(name)
    await session.start(2)
    await harness.start_one(other)
    assert await session.recover(["known"], min_idle_seconds=60) == []
    assert await session.recover(["known"], min_idle_seconds=0) == ["unheard"]
    job = await harness.queue.get_job("unheard")
    assert (job.status, job.attempts, job.payload) == (JobStatus.PENDING, 0, {"n": 1})
    again = await harness.start_one(session)
    assert (again.id, again.fence) == ("unheard", 2)


async def test_orphans_are_found_behind_many_known_jobs(harness):
    """The number of running jobs does not matter."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(150)])
    await session.start(100)
    await session.start(100)
    known = [f"j{n:03}" for n in range(149)]
    assert await session.recover(known, min_idle_seconds=0) == ["j149"]


async def test_orphans_are_released_in_small_steps(harness, monkeypatch):
    """No call checks or releases more than a hundred jobs."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(300)])
    for _ in range(3):
        await session.start(100)
    honest, sizes = session._connection.run, []

    async def measured(name, items=(), **options):
        listed = list(items)
        reply = await honest(name, listed, **options)
        sizes.extend([len(listed), len(reply)])
        return reply

    monkeypatch.setattr(session._connection, "run", measured)
    known = [f"j{n:03}" for n in range(0, 300, 2)]
    unknown = [f"j{n:03}" for n in range(1, 300, 2)]
    assert await session.recover(known, min_idle_seconds=0) == unknown
    assert max(sizes) <= 101  # one more for the cursor
    assert len(harness.pending()) == 150
