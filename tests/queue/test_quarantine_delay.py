"""Jobs in quarantine wait longer each time, so that many of them do not circulate."""

from support.schedules import now_ms

from aragora_q.contracts import Failed

FIRST_DELAYS = [1, 2, 4, 8, 16, 30, 30, 30]


async def _suspects(harness, *names):
    for name in names:
        await harness.enqueue(name)
        harness.redis.hset(harness.keys.job(name), mapping={"crashes": 2, "status": "retrying"})


async def _set_aside(harness, session, job_id, seconds):
    """Start what waits, none of which may start; the job is delayed for so long."""
    before = now_ms(harness.redis)
    assert (await session.start(10)).jobs == []
    due_ms = harness.redis.zscore(harness.keys.delayed, job_id)
    assert before <= due_ms - seconds * 1000 <= now_ms(harness.redis)


async def _promote(harness, job_id):
    harness.redis.zadd(harness.keys.delayed, {job_id: 1})
    assert (await harness.queue.promote()).promoted == 1


async def test_each_delay_is_longer_than_the_one_before(harness):
    """1, 2, 4 … at most 30 seconds; nothing is charged."""
    await _suspects(harness, "runs", "waits")
    session = await harness.worker()
    running = await harness.start_one(session)
    for seconds in FIRST_DELAYS:
        await _set_aside(harness, session, "waits", seconds)
        await _promote(harness, "waits")
    job = await harness.queue.get_job("waits")
    assert (job.attempts, job.crashes, job.fence) == (0, 2, 0)
    await harness.report(session, running, Failed("ends"))
    assert (await harness.start_one(session)).id == "waits"


async def test_a_count_that_is_not_a_number_starts_at_one(harness):
    """Another program's value in the job's hash stops no worker from starting jobs."""
    await _suspects(harness, "runs", "waits")
    harness.redis.hset(harness.keys.job("waits"), "set_aside", "x")
    session = await harness.worker()
    await harness.start_one(session)
    await _set_aside(harness, session, "waits", 1)
    await _promote(harness, "waits")
    await _set_aside(harness, session, "waits", 2)


async def test_a_requeued_job_waits_briefly_again(harness):
    """Requeue starts the delays anew, as it does the attempts."""
    await _suspects(harness, "runs", "waits")
    session = await harness.worker()
    await harness.start_one(session)
    for seconds in FIRST_DELAYS[:5]:
        await _set_aside(harness, session, "waits", seconds)
        await _promote(harness, "waits")
    await harness.queue.cancel("waits")
    await harness.queue.requeue(["waits"])
    harness.redis.hset(harness.keys.job("waits"), "crashes", 2)
    await _set_aside(harness, session, "waits", 1)


async def test_many_of_them_cost_little(harness):
    """Thirty jobs behind a long one are promoted at most once per job and step of the delay."""
    names = [f"j{n}" for n in range(31)]
    await _suspects(harness, *names)
    session = await harness.worker()
    assert len((await session.start(100)).jobs) == 1
    promoted = 0
    for _ in range(40):  # seconds
        delayed = harness.redis.zrange(harness.keys.delayed, 0, -1, withscores=True)
        if delayed:
            earlier = {name: due_ms - 1000 for name, due_ms in delayed}
            harness.redis.zadd(harness.keys.delayed, earlier)
        promoted += (await harness.queue.promote()).promoted
        assert (await session.start(100)).jobs == []
    assert 30 <= promoted <= 30 * 6
