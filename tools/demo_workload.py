"""A scripted workload of two and a half minutes for the dashboard's picture.

`draw_dashboard.py` runs it on a monitored stack whose workers use `executor`. Delays, failures and
priorities are random with a fixed seed.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Call, Executor, Settlement, current_attempt
from aragora_q.errors import PermanentError
from aragora_q.streams.queue import RedisStreamsQueue
from tools.monitored_stack import MonitoredStack

SEED = 7
TICK_SECONDS = 0.25
LEASE_MS = 6_000
WORKERS, CONCURRENCY = 3, 8


@dataclass(frozen=True)
class Phase:
    """The load during some seconds."""

    seconds: float
    jobs_per_second: float
    failing: float = 0.02
    """Share of jobs that fail permanently; four times as many fail once and are retried."""
    is_paused: bool = False
    has_frozen_worker: bool = False
    cancels: bool = False
    """One in ten jobs is cancelled right after it is enqueued."""


PHASES = (
    Phase(25, 6),
    Phase(18, 20),
    Phase(12, 5, is_paused=True),
    Phase(25, 4),
    Phase(14, 6, has_frozen_worker=True),
    Phase(16, 5),
    Phase(15, 8, failing=0.08, cancels=True),
    Phase(25, 11),
)


BUDGET = ("budget", "set", "day", "2/day")
PRICES = {"large": 0.011, "small": 0.002}
"""US dollars of a call, by model."""


def executor() -> Executor:
    """Return an executor whose duration and outcome are in the payload. A job makes one paid call."""
    failed_once: set[str] = set()

    async def execute(job: Job) -> Mapping[str, Any]:
        outcome = job.payload["outcome"]
        if outcome == "retried" and job.id in failed_once:
            outcome = "completed"
        attempt, call = current_attempt(), _call(job)
        await attempt.acquire(call)
        await asyncio.sleep(job.payload["seconds"])
        if outcome == "failed":
            await attempt.settle(call, Settlement("rejected"))
            raise PermanentError("the question cannot be answered")
        if outcome == "retried":
            failed_once.add(job.id)
            await attempt.settle(call, Settlement("unavailable", cost_usd=0.0))
            raise ConnectionError("the model's server closed the connection")
        price = PRICES[job.payload["model"]]
        await attempt.settle(call, Settlement("ok", 900, 250, 300, price))
        return {"answered": True}

    return execute


def _call(job: Job) -> Call:
    model = job.payload["model"]
    return Call(
        id=current_attempt().call_id("answer"),
        agent=model,
        provider="acme",
        account="acme@7d793037",
        model=f"acme:{model}",
        max_input_tokens=1_000,
        max_output_tokens=500,
        max_cost_usd=2 * PRICES[model],
    )


def _job(rng: random.Random, phase: Phase) -> Job:
    share, failing = rng.random(), phase.failing
    outcome = "failed" if share < failing else "retried" if share < 5 * failing else "completed"
    return Job(
        payload={
            "seconds": min(rng.lognormvariate(0.5, 0.6), 12.0),
            "outcome": outcome,
            "model": rng.choices(("large", "small"), (1, 2))[0],
        },
        priority=rng.choices((1, 0, -1), (2, 6, 2))[0],
        delay_seconds=rng.choice((0, 0, 0, 0, 0, 0, 5, 12)),
    )


async def run_briefly(stack: MonitoredStack) -> None:
    """Run three jobs under the budget."""
    await asyncio.to_thread(stack.call, *BUDGET)
    queue = RedisStreamsQueue(QueueConfig(redis_url=stack.redis_url))
    payload = {"seconds": 0.1, "outcome": "completed", "model": "large"}
    try:
        ids = [await queue.enqueue(Job(payload=payload)) for _ in range(3)]
    finally:
        await queue.close()
    await asyncio.to_thread(stack.call, "wait", *ids)


async def run(stack: MonitoredStack) -> None:
    """Run every phase."""
    await asyncio.to_thread(stack.call, *BUDGET)
    queue = RedisStreamsQueue(QueueConfig(redis_url=stack.redis_url, claim_idle_ms=LEASE_MS))
    rng = random.Random(SEED)  # noqa: S311 - not for cryptography
    try:
        for phase in PHASES:
            await queue.pause(paused=phase.is_paused)
            for command in ("reap", "purge"):  # as timers do
                await asyncio.to_thread(stack.call, command, "--quiet")
            if phase.has_frozen_worker:
                stack.workers[-1].send_signal(signal.SIGSTOP)
            await _run_phase(queue, phase, rng)
            stack.workers[-1].send_signal(signal.SIGCONT)
    finally:
        await queue.close()


async def _run_phase(queue: RedisStreamsQueue, phase: Phase, rng: random.Random) -> None:
    ends_at, due = time.monotonic() + phase.seconds, 0.0
    while time.monotonic() < ends_at:
        due += rng.expovariate(1 / (phase.jobs_per_second * TICK_SECONDS))
        jobs = [_job(rng, phase) for _ in range(int(due))]
        due -= len(jobs)
        await queue.enqueue_many(jobs)
        for job in jobs if phase.cancels else ():
            if rng.random() < 0.1:
                await queue.cancel(job.id)
        await asyncio.sleep(TICK_SECONDS)
