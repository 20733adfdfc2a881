"""huey."""

from huey import RedisHuey
from peer import PAYLOAD, URL, ran

huey = RedisHuey("peer", url=URL)


@huey.task()
def task(_payload):
    ran()


async def client(measure):
    async def enqueue():
        task(PAYLOAD)

    await measure(enqueue)
