"""Cancelling a task that waits for Redis always takes effect."""

import asyncio

import pytest
import uvloop

from aragora_q.config.settings import QueueConfig
from aragora_q.redis.connection import Connection


@pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_cancelled_call_is_cancelled(redis_url, loop):
    """A task cancelled at any step of a call ends as cancelled.

    asyncio.wait_for of Python 3.11, which redis-py uses, loses a cancel that arrives with the reply.
    """

    async def call_then_wait(connection):
        await connection.execute("PING")
        await asyncio.Event().wait()

    async def cancel_at_every_step():
        connection = Connection(QueueConfig(redis_url=redis_url))
        await connection.execute("PING")
        for steps in range(12):
            for _ in range(5):
                task = asyncio.ensure_future(call_then_wait(connection))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task], timeout=60)
                assert task.cancelled(), f"cancelled after {steps} steps, and went on"
        assert await connection.execute("PING")
        await connection.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(cancel_at_every_step())
