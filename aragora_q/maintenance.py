"""Periodic maintenance of a queue: promote, reclaim, purge, remove dead workers. One function per pass.

Workers run the passes on timers, `reap` and `purge` run them from cron. Every step is one bounded
script that re-checks what it acts on, so any number of processes may run them at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from aragora_q.backoff import jittered
from aragora_q.base import TERMINAL, JobStatus
from aragora_q.contracts import ReclaimResult, WorkQueue
from aragora_q.errors import TRANSIENT_ERRORS
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

MAX_PROMOTE_SECONDS = 1.0
"""Longest pause between two promote passes: how late a delayed job may become runnable."""

PURGE_INTERVAL_SECONDS = 3600.0


@dataclass
class ReapReport:
    """What one reap pass did, or with `dry_run` would do. Not `is_complete`: the time was up first."""

    promoted: int = 0
    reclaimed: list[ReclaimResult] = field(default_factory=list)
    consumers_deleted: int = 0
    is_complete: bool = True


async def promote_pass(
    queue: WorkQueue, *, deadline: float | None = None
) -> tuple[int, float | None]:
    """Make all due jobs runnable. Returns how many, and the seconds until the next job is due."""
    promoted = 0
    while True:
        step = await queue.promote()
        promoted += step.promoted
        if step.next_due_seconds != 0 or _is_past(deadline):
            return promoted, step.next_due_seconds


async def reap_pass(
    queue: WorkQueue, reclaimer: str, *, max_seconds: float | None = None, dry_run: bool = False
) -> ReapReport:
    """Reclaim jobs of dead workers, promote due jobs, remove dead workers.

    With `dry_run` only report what would be reclaimed. `max_seconds` is checked between steps.
    """
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    report = ReapReport(
        reclaimed=await queue.reclaim(reclaimer, dry_run=dry_run, deadline=deadline)
    )
    if dry_run:
        return report
    if not _is_past(deadline):
        report.promoted, _ = await promote_pass(queue, deadline=deadline)
    if not _is_past(deadline):
        report.consumers_deleted = await queue.remove_dead_workers()
    report.is_complete = not _is_past(deadline)
    return report


async def purge_pass(
    queue: WorkQueue,
    *,
    statuses: frozenset[JobStatus] = TERMINAL,
    older_than_seconds: float | None = None,
    dry_run: bool = False,
) -> dict[JobStatus, int]:
    """Delete ended jobs past retention, or older than asked, in bounded steps. Returns counts by status."""
    purged: dict[JobStatus, int] = {}
    for status in sorted(statuses):
        purged[status], has_more = 0, True
        while has_more:
            step = await queue.purge(status, older_than_seconds=older_than_seconds, dry_run=dry_run)
            purged[status] += step.deleted
            has_more = step.has_more
    return purged


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


class MaintenanceLoop:
    """Runs the passes on timers for the worker `reclaimer`; its lease sets the intervals."""

    def __init__(self, queue: WorkQueue, reclaimer: str, lease_seconds: float) -> None:
        self._queue = queue
        self._reclaimer = reclaimer
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        """Run until cancelled. A pass that fails because Redis is unavailable runs again on its timer."""
        async with asyncio.TaskGroup() as passes:
            passes.create_task(self._promote_when_due())
            passes.create_task(run_periodically(self._lease_seconds / 4, self._reclaim))
            passes.create_task(
                run_periodically(self._lease_seconds, self._queue.remove_dead_workers)
            )
            passes.create_task(
                run_periodically(PURGE_INTERVAL_SECONDS, lambda: purge_pass(self._queue))
            )

    async def _reclaim(self) -> None:
        for job in await self._queue.reclaim(self._reclaimer):
            logger.warning(
                "job reclaimed from a dead worker",
                extra={
                    "job": job.id,
                    "decision": job.decision,
                    "from_worker": job.worker_id,
                    "idle_seconds": job.idle_seconds,
                    "crashes": job.crashes,
                },
            )

    async def _promote_when_due(self) -> None:
        while True:
            pause_seconds = MAX_PROMOTE_SECONDS
            with suppress(*TRANSIENT_ERRORS):
                _, next_due_seconds = await promote_pass(self._queue)
                if next_due_seconds is not None:
                    pause_seconds = min(pause_seconds, next_due_seconds)
            await asyncio.sleep(pause_seconds)


async def run_periodically(seconds: float, step: Callable[[], Awaitable[object]]) -> None:
    """Run `step` every `seconds`, with jitter, so that workers started together drift apart."""
    while True:
        await asyncio.sleep(jittered(seconds, 0.8, 1.2))
        with suppress(*TRANSIENT_ERRORS):
            await step()
