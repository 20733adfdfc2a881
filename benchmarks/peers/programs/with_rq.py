"""RQ."""

from peer import PAYLOAD, URL, ran
from redis import Redis
from rq import Queue


def task(_payload):
    ran()


async def client(measure):
    queue = Queue(connection=Redis.from_url(URL))

    async def enqueue():
        queue.enqueue(task, PAYLOAD)

    async def enqueue_many(count):
        queue.enqueue_many([Queue.prepare_data(task, (PAYLOAD,)) for _ in range(count)])

    await measure(enqueue, enqueue_many)
