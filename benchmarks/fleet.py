"""A fleet of workers in one process, to measure what it costs the server.

`python -m benchmarks.fleet URL WORKERS CONCURRENCY` runs until it is killed. Every worker is a DebateWorker
with its own queue and connections. Two things differ from processes of one worker each: lease keepers run in
the shared event loop instead of threads, and periodic calls begin at random moments, as in a fleet that
has been running for long.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvloop

from aragora_q import maintenance
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.worker import debate_worker
from aragora_q.worker.debate_worker import DebateWorker
from aragora_q.worker.leases import LeaseKeeper

START_INTERVAL_SECONDS = 0.005
"""Between the starts of two workers: a thousand waits for work spread over the length of one."""


class KeeperInLoop(LeaseKeeper):
    """A lease keeper without a thread: a thousand threads would wait for the interpreter's lock."""

    def start(self) -> None:
        self._loop = self._own_loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run_from_random_moment())

    async def _run_from_random_moment(self) -> None:
        await asyncio.sleep(random.random() * self._interval_seconds)
        await self._run()
        self._has_ended.set()


async def run_periodically(seconds: float, step: Callable[[], Awaitable[object]]) -> None:
    """As `maintenance.run_periodically`, but begin at a random moment of the period."""
    await asyncio.sleep(random.random() * seconds)
    await step()
    await maintenance.run_periodically(seconds, step)


async def execute(job: Job) -> Mapping[str, Any]:
    """Do nothing; if the payload has `hold`, never end, and keep no payload in this process's memory."""
    if "hold" in job.payload:
        job.payload, job.raw_payload = {}, b""
        await asyncio.Event().wait()
    return {"done": True}


async def run(url: str, count: int, concurrency: int) -> None:
    """Run `count` workers until cancelled."""
    config, metrics, tasks = QueueConfig(redis_url=url), WorkerMetrics("fleet"), []
    for number in range(count):
        worker = DebateWorker(
            RedisStreamsQueue(config),
            f"fleet-{number}",
            executor=execute,
            max_concurrent=concurrency,
            metrics=metrics,
        )
        tasks.append(asyncio.create_task(worker.start()))
        await asyncio.sleep(START_INTERVAL_SECONDS)
    await asyncio.gather(*tasks)


def main() -> None:
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    debate_worker.LeaseKeeper = KeeperInLoop  # type: ignore[misc]
    debate_worker.run_periodically = run_periodically  # type: ignore[attr-defined]
    uvloop.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))


if __name__ == "__main__":
    main()
