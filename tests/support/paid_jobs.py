"""Jobs that make one paid call each, for a monitored stack; its workers use `executor`."""

import asyncio

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Call, Settlement, current_attempt
from aragora_q.streams.queue import RedisStreamsQueue

COST_USD = 0.011


def executor():
    """Return an executor that makes a paid call."""

    async def execute(job):
        attempt = current_attempt()
        call = Call(
            id=attempt.call_id("answer"), agent="large", provider="acme", account="acme@7d793037",
            model="acme:large", max_input_tokens=1_000, max_output_tokens=500, max_cost_usd=2 * COST_USD,
        )  # fmt: skip
        await attempt.acquire(call)
        await asyncio.sleep(0.1)
        await attempt.settle(call, Settlement("ok", 900, 250, 300, COST_USD))
        return {"answered": True}

    return execute


async def run(stack):
    """Run three jobs under a budget."""
    await asyncio.to_thread(stack.call, "budget", "set", "day", "2/day")
    queue = RedisStreamsQueue(QueueConfig(redis_url=stack.redis_url))
    try:
        ids = [await queue.enqueue(Job({"n": n})) for n in range(3)]
    finally:
        await queue.close()
    await asyncio.to_thread(stack.call, "wait", *ids)
