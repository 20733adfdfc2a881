"""Wait until jobs have ended: wakes up on the queue's events and polls in case an event is missed.

Shared by `wait` and `enqueue --wait`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Container, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from aragora_q.base import LIVE, Job, JobStatus
from aragora_q.errors import AragoraQError, JobNotFound

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

POLL_SECONDS = 3.0
"""Longest time between two polls, and so the delay if an event is missed."""

FOLLOW_RETRY_SECONDS = 0.5
"""Pause after an error before the events are followed again."""

ENDINGS = frozenset({"completed", "failed", "cancelled"})


class WaitTimedOut(AragoraQError):
    """The jobs did not end within the timeout; they continue."""

    exit_code = 124


async def ended_jobs(
    queue: RedisStreamsQueue, job_ids: Iterable[str], timeout_seconds: float | None
) -> AsyncIterator[Job]:
    """Yield the jobs in the order in which they end. Raises JobNotFound and WaitTimedOut."""
    pending = dict.fromkeys(job_ids)
    deadline = time.monotonic() + (math.inf if timeout_seconds is None else timeout_seconds)
    woken = asyncio.Event()
    # Before the first look, so that what ends after it is among the events.
    newest = await queue.newest_event_id()
    follow = asyncio.create_task(_wake(queue, newest, pending, woken))
    try:
        while True:
            woken.clear()
            for job in await _ended(queue, list(pending)):
                del pending[job.id]
                yield job
            if not pending:
                return
            pause = min(POLL_SECONDS, deadline - time.monotonic())
            if pause <= 0:
                raise WaitTimedOut(
                    f"timeout: not ended after {timeout_seconds:g} s: {' '.join(pending)}"
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), pause)
    finally:
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)


async def _wake(
    queue: RedisStreamsQueue, after: str, pending: Container[str], woken: asyncio.Event
) -> None:
    """Set `woken` when one of the jobs ends. Errors of Redis surface in the next poll, which is then due."""
    while True:
        with suppress(AragoraQError):
            async for event in queue.events(after):
                after = event["id"]
                ids = event.get("ids", "").split() if event.get("event") in ENDINGS else ()
                if any(job_id in pending for job_id in ids):
                    woken.set()
        woken.set()
        await asyncio.sleep(FOLLOW_RETRY_SECONDS)


async def _ended(queue: RedisStreamsQueue, job_ids: Sequence[str]) -> list[Job]:
    statuses = await queue.tracker.get_statuses(job_ids)
    return [await require_job(queue, job_id) for job_id in job_ids if statuses[job_id] not in LIVE]


async def require_job(queue: RedisStreamsQueue, job_id: str) -> Job:
    """Return the job. Raises JobNotFound, or InvalidPayload if its data is corrupted."""
    job = await queue.get_job(job_id)
    if job is None:
        raise JobNotFound(job_id, queue.config.queue)
    return job


def exit_code(jobs: Iterable[Job]) -> int:
    """Return 0 if all jobs completed, 1 if one failed or was cancelled."""
    return int(any(job.status is not JobStatus.COMPLETED for job in jobs))
