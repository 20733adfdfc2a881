"""Our side of what the floor's clients do: `python -m aragora_q.bench.client MEASURE PORT COUNT`."""

from __future__ import annotations

import json
import sys
import time

import uvloop

from aragora_q.base import Job
from aragora_q.bench.jobs import payload
from aragora_q.config import QueueConfig
from aragora_q.streams import RedisStreamsQueue

WARM_UP = 500


def config(port: int) -> QueueConfig:
    """The defaults, on the measured server."""
    return QueueConfig(redis_url=f"redis://127.0.0.1:{port}")


def new_jobs(count: int) -> list[Job]:
    """Jobs with ids and payloads of their own."""
    return [Job(payload=payload()) for _ in range(count)]


async def bulk(queue: RedisStreamsQueue, count: int) -> float:
    """`enqueue_many`, checks and JSON included."""
    jobs = new_jobs(count)
    began = time.perf_counter()
    await queue.enqueue_many(jobs)
    return time.perf_counter() - began


async def single(queue: RedisStreamsQueue, count: int) -> float:
    """One awaited `enqueue` after the other."""
    jobs = new_jobs(count)
    began = time.perf_counter()
    for job in jobs:
        await queue.enqueue(job)
    return time.perf_counter() - began


async def _main(name: str, port: int, count: int) -> None:
    queue = RedisStreamsQueue(config(port))
    try:
        await queue.enqueue_many(new_jobs(WARM_UP))
        measure = {"bulk": bulk, "single": single}[name]
        sys.stdout.write(json.dumps(await measure(queue, count)))
    finally:
        await queue.close()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
