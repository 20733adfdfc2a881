"""Jobs at their last chance, of which one may be a poison pill: a worker runs one of them at a time."""

from aragora_q.base import Completed, Failed


async def _suspects(stage, *names, crashes=2, **fields):
    for name in names:
        await stage.enqueue(name, **fields)
        stage.raw.hset(stage.keys.job(name), mapping={"crashes": crashes, "status": "retrying"})


async def _ids(session, limit=10):
    return [job.id for job in (await session.start(limit)).jobs]


async def _promote_all(stage):
    """As if the time to stand aside were over."""
    for name in stage.raw.zrange(stage.keys.delayed, 0, -1):
        stage.raw.zadd(stage.keys.delayed, {name: 1})
    await stage.queue.promote()


async def test_one_at_a_time(new_stage):
    """The others stand aside uncharged, with their data; jobs above suspicion start beside it."""
    stage = new_stage(claim_idle_ms=60_000)
    await _suspects(stage, "a", "b", "c")
    await stage.enqueue("fresh")
    await _suspects(stage, "once", crashes=1)
    session = await stage.worker()
    assert await _ids(session) == ["a", "fresh", "once"]
    assert stage.raw.zrange(stage.keys.delayed, 0, -1) == ["b", "c"]
    job = await stage.queue.get_job("b")
    assert (job.status, job.crashes, job.attempts, job.fence) == ("retrying", 2, 0, 0)
    assert stage.raw.get(stage.keys.payload("b")) == '{"n":1}'
    assert (await stage.queue.promote()).next_due_seconds <= 1


async def test_the_next_one_starts_when_it_has_ended(new_stage):
    """However it ended; until then the others stand aside again, each time they come."""
    stage = new_stage(claim_idle_ms=60_000)
    await _suspects(stage, "a", "b", "c", priority=5)
    session = await stage.worker()
    a = await stage.started(session)
    assert await _ids(session) == []
    await _promote_all(stage)
    assert await _ids(session) == []
    await stage.end(session, a, Completed(b"{}"))
    await _promote_all(stage)
    b = await stage.started(session, 10)
    assert b.id == "b"
    await stage.end(session, b, Failed("told to"))
    await _promote_all(stage)
    assert await _ids(session) == ["c"]


async def test_each_worker_has_its_own(new_stage):
    """Another worker takes the next one; a worker that came back is not held up by what it left."""
    stage = new_stage(claim_idle_ms=60_000)
    await _suspects(stage, "a", "b", "c")
    first, second = await stage.worker("w1"), await stage.worker("w2")
    assert await _ids(first) == ["a"]
    await _promote_all(stage)
    assert await _ids(second) == ["b"]
    await _promote_all(stage)
    back = stage.queue.session(type(first.identity)("w1"))
    assert await back.register({}, dead_boot_id=first.identity.boot_id) == 0
    assert await _ids(back) == ["c"]


async def test_who_stands_aside_can_be_cancelled(new_stage):
    """It is a delayed job like any other."""
    stage = new_stage(claim_idle_ms=60_000)
    await _suspects(stage, "a", "b")
    session = await stage.worker()
    assert await _ids(session) == ["a"]
    assert await stage.queue.cancel("b")
    await _promote_all(stage)
    assert await _ids(session) == []


async def test_where_the_first_crash_is_the_last_nobody_is_suspect(new_stage):
    """With max_crashes 1 all jobs run side by side."""
    stage = new_stage(claim_idle_ms=60_000, max_crashes=1)
    for name in ("a", "b"):
        await stage.enqueue(name)
    assert await _ids(await stage.worker()) == ["a", "b"]
