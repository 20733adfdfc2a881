"""SAQ."""

from peer import PAYLOAD, URL, ran
from saq import Queue

queue = Queue.from_url(URL)


async def task(_context, *, payload):  # noqa: ARG001
    ran()


settings = {"queue": queue, "functions": [task], "concurrency": 100}


async def client(measure):
    async def enqueue():
        await queue.enqueue("task", payload=PAYLOAD)

    await measure(enqueue)
    await queue.disconnect()
