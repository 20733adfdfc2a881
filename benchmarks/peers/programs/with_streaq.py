"""streaQ."""

import coredis
from peer import PAYLOAD, URL, ran
from streaq import Worker

coredis.Config.optimized = True
worker = Worker(redis_url=URL, concurrency=100, anyio_kwargs={"use_uvloop": True})


@worker.task(name="task", silent=True)
async def task(_payload):
    ran()


async def client(measure):
    async def enqueue():
        await task.enqueue(PAYLOAD)

    async def enqueue_many(count):
        await worker.enqueue_many([task.enqueue(PAYLOAD) for _ in range(count)])

    async with worker:
        await measure(enqueue, enqueue_many)
