"""The baseline: the least that a queue on Redis Streams does, by hand, as in `aragora-q bench`."""

import redis.asyncio
import uvloop
from peer import PAYLOAD, URL, ran

STREAM, GROUP, BATCH, TTL_SECONDS = "baseline", "baseline", 100, 7 * 86_400
ENTRY = {"payload": str(PAYLOAD)}


def connect():
    return redis.asyncio.Redis.from_url(URL, protocol=2, socket_timeout=None)


async def work(connection):
    """Run batch after batch, and keep for each job that it is done."""
    await connection.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    while True:
        [[_, entries]] = await connection.xreadgroup(
            GROUP, GROUP, {STREAM: ">"}, count=BATCH, block=0
        )
        pipeline = connection.pipeline(transaction=False)
        for entry_id, _ in entries:
            ran()
            key = b"baseline:" + entry_id
            pipeline.xack(STREAM, GROUP, entry_id)
            pipeline.xdel(STREAM, entry_id)
            pipeline.hset(key, mapping={"status": "completed", "result": b"{}"})
            pipeline.expire(key, TTL_SECONDS)
        await pipeline.execute()


async def client(measure):
    async with connect() as connection:

        async def enqueue():
            await connection.xadd(STREAM, ENTRY)

        async def enqueue_many(count):
            for first in range(0, count, BATCH):
                pipeline = connection.pipeline(transaction=False)
                for _ in range(min(BATCH, count - first)):
                    pipeline.xadd(STREAM, ENTRY)
                await pipeline.execute()

        await measure(enqueue, enqueue_many)


async def main():
    async with connect() as connection:
        await work(connection)


if __name__ == "__main__":
    uvloop.run(main())
