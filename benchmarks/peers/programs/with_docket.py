"""docket."""

from docket import Docket
from peer import PAYLOAD, URL, ran


async def task(_payload):
    ran()


tasks = [task]


async def client(measure):
    async with Docket(url=URL) as docket:

        async def enqueue():
            await docket.add(task)(PAYLOAD)

        async def enqueue_many(count):
            await docket.add_many(docket.call(task)(PAYLOAD) for _ in range(count))

        await measure(enqueue, enqueue_many)
