"""Jobs whose next crash would be their last: a worker runs one of them at a time."""

from support.schedules import now_ms

from aragora_q.contracts import Completed, Failed


async def _suspects(harness, *names, crashes=2, **fields):
    for name in names:
        await harness.enqueue(name, **fields)
        harness.redis.hset(
            harness.keys.job(name), mapping={"crashes": crashes, "status": "retrying"}
        )


async def _ids(session, limit=10):
    return [job.id for job in (await session.start(limit)).jobs]


async def _promote_all(harness):
    """Make all delayed jobs due, and promote them."""
    for name in harness.redis.zrange(harness.keys.delayed, 0, -1):
        harness.redis.zadd(harness.keys.delayed, {name: 1})
    await harness.queue.promote()


async def test_one_at_a_time(new_harness):
    """The others are delayed, uncharged, with their data; jobs with fewer crashes start."""
    harness = new_harness(claim_idle_ms=60_000)
    await _suspects(harness, "a", "b", "c")
    await harness.enqueue("fresh")
    await _suspects(harness, "once", crashes=1)
    session = await harness.worker()
    before = now_ms(harness.redis)
    assert await _ids(session) == ["a", "fresh", "once"]
    delayed = harness.redis.zrange(harness.keys.delayed, 0, -1, withscores=True)
    assert [name for name, _ in delayed] == ["b", "c"]
    assert all(before <= due - 1000 <= now_ms(harness.redis) for _, due in delayed)
    job = await harness.queue.get_job("b")
    assert (job.status, job.crashes, job.attempts, job.fence) == ("retrying", 2, 0, 0)
    assert harness.redis.get(harness.keys.payload("b")) == '{"n":1}'


async def test_the_next_one_starts_when_it_has_ended(new_harness):
    """However it ended; until then the others are delayed again each time."""
    harness = new_harness(claim_idle_ms=60_000)
    await _suspects(harness, "a", "b", "c", priority=5)
    session = await harness.worker()
    a = await harness.start_one(session)
    assert await _ids(session) == []
    await _promote_all(harness)
    assert await _ids(session) == []
    await harness.report(session, a, Completed(b"{}"))
    await _promote_all(harness)
    b = await harness.start_one(session, 10)
    assert b.id == "b"
    await harness.report(session, b, Failed("told to"))
    await _promote_all(harness)
    assert await _ids(session) == ["c"]


async def test_each_worker_runs_one(new_harness):
    """Another worker starts the next one; a restarted worker is not delayed by its earlier job."""
    harness = new_harness(claim_idle_ms=60_000)
    await _suspects(harness, "a", "b", "c")
    first, second = await harness.worker("w1"), await harness.worker("w2")
    assert await _ids(first) == ["a"]
    await _promote_all(harness)
    assert await _ids(second) == ["b"]
    await _promote_all(harness)
    back = harness.queue.session(type(first.identity)("w1"))
    assert await back.register({}, dead_instance_id=first.identity.instance_id) == 0
    assert await _ids(back) == ["c"]


async def test_a_delayed_suspect_can_be_cancelled(new_harness):
    """It is a delayed job like any other."""
    harness = new_harness(claim_idle_ms=60_000)
    await _suspects(harness, "a", "b")
    session = await harness.worker()
    assert await _ids(session) == ["a"]
    assert await harness.queue.cancel("b")
    await _promote_all(harness)
    assert await _ids(session) == []


async def test_with_one_crash_allowed_there_are_no_suspects(new_harness):
    """With max_crashes 1 all jobs run concurrently."""
    harness = new_harness(claim_idle_ms=60_000, max_crashes=1)
    for name in ("a", "b"):
        await harness.enqueue(name)
    assert await _ids(await harness.worker()) == ["a", "b"]
