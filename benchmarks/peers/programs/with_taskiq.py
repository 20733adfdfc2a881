"""taskiq with the broker of taskiq-redis that acknowledges."""

from peer import PAYLOAD, URL, ran
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(URL)


@broker.task(task_name="task")
async def task(_payload):
    ran()


async def client(measure):
    await broker.startup()

    async def enqueue():
        await task.kiq(PAYLOAD)

    await measure(enqueue)
    await broker.shutdown()
