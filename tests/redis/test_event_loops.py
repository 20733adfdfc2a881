"""A queue and event loops: one after the other works, two at a time is refused in clear words."""

import asyncio
import threading
import time

import pytest
import uvloop
from support.wait import wait_until_sync

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import RedisUnreachable
from aragora_q.redis import pool
from aragora_q.streams.queue import RedisStreamsQueue

# What Python says of connections that a closed event loop has left open. As errors, they would also
# interrupt uvloop while it closes its handles, and its loop would never end.
pytestmark = pytest.mark.filterwarnings(
    "ignore:loop is closed:ResourceWarning", "ignore:unclosed:ResourceWarning"
)

LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def run(work, loop=asyncio.new_event_loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(work)


@LOOPS
def test_a_queue_outlives_its_event_loop(redis_url, redis_client, loop):
    """Calls work in a second and third event loop, and old connections do not stay open."""
    queue = RedisStreamsQueue(QueueConfig(redis_url=redis_url))
    for n in range(3):
        run(queue.enqueue(Job({"n": n}, id=f"j{n}")), loop)
    assert redis_client.xlen("aragora:queue:debates:stream") == 3
    wait_until_sync(lambda: len(redis_client.client_list()) <= 2, what="old connections to end")
    run(queue.close(), loop)
    wait_until_sync(lambda: len(redis_client.client_list()) == 1, what="the last one to end")


@pytest.mark.slow
@LOOPS
def test_calls_in_a_second_event_loop_have_deadlines(redis_url, redis_client, monkeypatch, loop):
    """However the first event loop ended, a server that does not answer costs the timeout, not eternity."""
    queue = RedisStreamsQueue(QueueConfig(redis_url=redis_url))
    run(queue.get_status("a"), loop)
    monkeypatch.setattr(queue.connection._client, "_timeout_seconds", 3.0)
    redis_client.client_pause(60_000, all=False)
    try:
        for _ in range(2):
            started_at = time.monotonic()
            with pytest.raises(RedisUnreachable, match="no answer"):
                run(queue.enqueue(Job({}, id="a")), loop)
            assert time.monotonic() - started_at < 30
    finally:
        redis_client.client_unpause()
    run(queue.close(), loop)


def test_two_event_loops_at_a_time_are_refused(redis_url):
    """A second thread is told to open its own queue; the first one goes on."""
    queue = RedisStreamsQueue(QueueConfig(redis_url=redis_url))

    async def use_from_a_thread():
        await queue.enqueue(Job({}, id="a"))
        refusals = []

        def use():
            with pytest.raises(RuntimeError, match="one queue per event loop") as refused:
                asyncio.run(queue.enqueue(Job({}, id="b")))
            refusals.append(refused.value)

        thread = threading.Thread(target=use)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(refusals) == 1
        assert await queue.enqueue(Job({}, id="c")) == "c"
        assert await queue.get_status("b") is None
        await queue.close()

    asyncio.run(use_from_a_thread())


@pytest.mark.slow
async def test_deadlines_survive_a_pool_without_calls(redis_url, redis_client, monkeypatch):
    """The timer stops while no call is under way, and starts again with the next one."""
    queue = RedisStreamsQueue(QueueConfig(redis_url=redis_url))
    monkeypatch.setattr(queue.connection._client, "_timeout_seconds", 3.0)
    for _ in range(2):
        await queue.get_status("a")
        await asyncio.sleep(2.5 * pool.SWEEP_SECONDS)
        redis_client.client_pause(60_000, all=False)
        try:
            with pytest.raises(RedisUnreachable, match="no answer"):
                await asyncio.wait_for(queue.enqueue(Job({}, id="a")), 60)
        finally:
            redis_client.client_unpause()
    await queue.close()
