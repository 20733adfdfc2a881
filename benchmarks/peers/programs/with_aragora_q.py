"""aragora-q."""

from peer import ran

from aragora_q import create_debate_job, create_redis_queue

QUESTION = "x" * 198
AGENTS = ["demo:bold", "demo:careful", "demo:curious"]
"""The payload of a debate has 300 bytes as JSON."""


def executor():
    """Return the executor of the worker."""

    async def execute(_job):
        ran()
        return {}

    return execute


async def client(measure):
    queue = await create_redis_queue()

    async def enqueue():
        await queue.enqueue(create_debate_job(QUESTION, AGENTS))

    async def enqueue_many(count):
        await queue.enqueue_many([create_debate_job(QUESTION, AGENTS) for _ in range(count)])

    try:
        await measure(enqueue, enqueue_many)
    finally:
        await queue.close()
