"""More concurrent callers than connections: each gets its own reply, and a cancelled one blocks no other."""

import asyncio

from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.redis.pool import MAX_CONNECTIONS

CALLERS = 200


def _jobs():
    return [Job(payload={"n": n}, id=f"j{n}") for n in range(CALLERS)]


async def test_each_gets_its_own_answer(harness):
    """200 concurrent calls, every third cancelled: all others get their own reply."""
    assert await asyncio.gather(*map(harness.queue.enqueue, _jobs())) == [j.id for j in _jobs()]
    callers = [asyncio.create_task(harness.queue.get_job(job.id)) for job in _jobs()]
    for n, caller in enumerate(callers):
        if n % 3 == 0:
            await asyncio.sleep(0)
            caller.cancel()
    told = await asyncio.gather(*callers, return_exceptions=True)
    for n, job in enumerate(told):
        if isinstance(job, asyncio.CancelledError):
            assert n % 3 == 0
        else:
            assert (job.id, job.payload) == (f"j{n}", {"n": n})


async def test_cancelled_callers_free_their_turn(new_harness, redis_client):
    """Calls cancelled while they wait for a connection or a reply do not use up connections."""
    harness = new_harness(claim_idle_ms=60_000)
    await harness.enqueue("before")

    def waiting():
        return sum("b" in client["flags"] for client in redis_client.client_list())

    redis_client.client_pause(60_000, all=False)
    try:
        for is_last in (False, True):
            callers = [asyncio.create_task(harness.queue.enqueue(job)) for job in _jobs()]
            await wait_until(lambda: waiting() == MAX_CONNECTIONS, what="every turn to be taken")
            if not is_last:
                for caller in reversed(callers):  # those behind first
                    caller.cancel()
                told = await asyncio.gather(*callers, return_exceptions=True)
                assert all(isinstance(each, asyncio.CancelledError) for each in told)
                await wait_until(lambda: waiting() == 0, what="them to hang up")
    finally:
        redis_client.client_unpause()
    assert await asyncio.gather(*callers) == [job.id for job in _jobs()]
