"""Two and a half minutes in the life of a queue, for the picture of the dashboard: jobs and mishaps.

`dashboard.py` plays it against a `Watched` whose workers run `executor`. Delays, failures and the
order of priorities are drawn from one seed; all that follows from them is the queue's own doing.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aragora_q.base import Executor, Job
from aragora_q.config import QueueConfig
from aragora_q.errors import PermanentError
from aragora_q.streams import RedisStreamsQueue
from docs.watched import Watched

SEED = 7
TICK_SECONDS = 0.25
LEASE_MS = 6_000
WORKERS, CONCURRENCY = 3, 8


@dataclass(frozen=True)
class Phase:
    """What happens for some seconds."""

    seconds: float
    jobs_per_second: float
    failing: float = 0.02
    """Share of jobs that fail at once and for good; four times as many fail once and are retried."""
    is_paused: bool = False
    has_frozen_worker: bool = False
    cancels: bool = False
    """One in ten of the jobs is cancelled as soon as it is enqueued."""


STORY = (
    Phase(25, 6),
    Phase(18, 20),
    Phase(12, 5, is_paused=True),
    Phase(25, 4),
    Phase(14, 6, has_frozen_worker=True),
    Phase(16, 5),
    Phase(15, 8, failing=0.08, cancels=True),
    Phase(25, 11),
)


def executor() -> Executor:
    """Takes as long as the payload says, and ends as it says."""
    met: set[str] = set()

    async def execute(job: Job) -> Mapping[str, Any]:
        await asyncio.sleep(job.payload["seconds"])
        if job.payload["ends"] == "badly":
            raise PermanentError("the question cannot be settled")
        if job.payload["ends"] == "late" and job.id not in met:
            met.add(job.id)
            raise ConnectionError("the model's server hung up")
        return {"settled": True}

    return execute


def _job(chance: random.Random, phase: Phase) -> Job:
    dice = chance.random()
    ends = "badly" if dice < phase.failing else "late" if dice < 5 * phase.failing else "well"
    return Job(
        payload={"seconds": min(chance.lognormvariate(0.5, 0.6), 12.0), "ends": ends},
        priority=chance.choices((1, 0, -1), (2, 6, 2))[0],
        delay_seconds=chance.choice((0, 0, 0, 0, 0, 0, 5, 12)),
    )


async def play(watched: Watched) -> None:
    """The whole story, from the first job to the last phase's end."""
    queue = RedisStreamsQueue(QueueConfig(redis_url=watched.redis_url, claim_idle_ms=LEASE_MS))
    chance = random.Random(SEED)  # noqa: S311 - a picture is no secret
    try:
        for phase in STORY:
            await queue.pause(paused=phase.is_paused)
            for command in ("reap", "purge"):  # as timers would
                await asyncio.to_thread(watched.call, command, "--quiet")
            if phase.has_frozen_worker:
                watched.workers[-1].send_signal(signal.SIGSTOP)
            await _play_phase(queue, phase, chance)
            watched.workers[-1].send_signal(signal.SIGCONT)
    finally:
        await queue.close()


async def _play_phase(queue: RedisStreamsQueue, phase: Phase, chance: random.Random) -> None:
    ends_at, owed = time.monotonic() + phase.seconds, 0.0
    while time.monotonic() < ends_at:
        owed += chance.expovariate(1 / (phase.jobs_per_second * TICK_SECONDS))
        jobs = [_job(chance, phase) for _ in range(int(owed))]
        owed -= len(jobs)
        await queue.enqueue_many(jobs)
        for job in jobs if phase.cancels else ():
            if chance.random() < 0.1:
                await queue.cancel(job.id)
        await asyncio.sleep(TICK_SECONDS)
