"""Use the queue of a testbed from code that is not asynchronous."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from aragora_q.base import Job
from aragora_q.bench import Testbed
from aragora_q.streams.queue import RedisStreamsQueue


def with_queue(testbed: Testbed, work: Callable[[RedisStreamsQueue], Awaitable[Any]]) -> Any:
    """Return the result of `work` with a queue on the testbed's server."""

    async def run() -> Any:
        async with testbed.queue() as queue:
            return await work(queue)

    return uvloop.run(run())


def enqueue(testbed: Testbed, jobs: list[Job]) -> None:
    """Enqueue jobs."""
    with_queue(testbed, lambda queue: queue.enqueue_many(jobs))
