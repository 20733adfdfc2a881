"""dramatiq."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from peer import PAYLOAD, URL, ran

dramatiq.set_broker(RedisBroker(url=URL))


@dramatiq.actor
def task(_payload):
    ran()


async def client(measure):
    async def enqueue():
        task.send(PAYLOAD)

    await measure(enqueue)
