"""Jobs that were started for a worker that never received them are released."""

from aragora_q.base import Job, JobStatus


async def test_recover_hands_back_unheard_starts(harness):
    """A start whose answer was lost is undone: nothing charged. Known and others' jobs stay."""
    session, other = await harness.worker("w1"), await harness.worker("w2")
    for name in ("known", "unheard", "others"):
        await harness.enqueue(name)
    [_, unheard] = (await session.start(2)).jobs
    await harness.start_one(other)
    assert (
        await session.release_orphans(lambda lease: lease[0] == "known", min_idle_seconds=60) == []
    )
    assert await session.release_orphans(lambda lease: lease[0] == "known", min_idle_seconds=0) == [
        "unheard"
    ]
    job = await harness.queue.get_job("unheard")
    assert (job.status, job.attempts, job.payload) == (JobStatus.PENDING, 0, {"n": 1})
    again = await harness.start_one(session)
    assert again.id == "unheard"
    assert again.fence > unheard.fence


async def test_recover_looks_behind_many_known_jobs(harness):
    """However many jobs a worker runs, the unheard one is found."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(150)])
    await session.start(100)
    await session.start(100)
    known = [f"j{n:03}" for n in range(149)]
    assert await session.release_orphans(lambda lease: lease[0] in known, min_idle_seconds=0) == [
        "j149"
    ]


async def test_recover_takes_small_steps(harness, monkeypatch):
    """However many jobs a worker runs, or are to be released: at most a hundred in any call."""
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
    assert (
        await session.release_orphans(lambda lease: lease[0] in known, min_idle_seconds=0)
        == unknown
    )
    assert max(sizes) <= 101  # the reply may tell where to go on
    assert len(harness.pending()) == 150
