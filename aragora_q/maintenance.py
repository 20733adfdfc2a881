"""What a queue needs done now and then: promote, reclaim, purge, forget. One pass each.

Workers call the passes on timers, `reap` and `purge` call the same ones from cron. Every step is one
bounded script that re-checks what it acts on, so any number of caretakers may run at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from aragora_q.base import TERMINAL, JobStatus
from aragora_q.contracts import ReclaimResult, WorkQueue
from aragora_q.errors import TRANSIENT_ERRORS

logger = logging.getLogger(__name__)

MAX_PROMOTE_SECONDS = 1.0
"""How late a delayed job may become runnable: the longest pause between two promote passes."""

PURGE_INTERVAL_SECONDS = 3600.0


@dataclass
class ReapReport:
    """What one reap pass did, or would do. `is_complete` False: the budget ran out first."""

    promoted: int = 0
    taken: list[ReclaimResult] = field(default_factory=list)
    consumers_deleted: int = 0
    is_complete: bool = True


async def promote_pass(
    queue: WorkQueue, *, deadline: float | None = None
) -> tuple[int, float | None]:
    """Make all due jobs runnable. Returns how many, and seconds until the next is due."""
    promoted = 0
    while True:
        step = await queue.promote()
        promoted += step.promoted
        if step.next_due_seconds != 0 or _is_past(deadline):
            return promoted, step.next_due_seconds


async def reap_pass(
    queue: WorkQueue, reclaimer: str, *, budget_seconds: float | None = None, dry_run: bool = False
) -> ReapReport:
    """Reclaim from dead workers, promote what is due, forget workers long gone.

    `dry_run` only tells what reclaim would take. The budget is looked at between steps.
    """
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    report = ReapReport(taken=await queue.reclaim(reclaimer, dry_run=dry_run, deadline=deadline))
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
    """Delete ended jobs past retention (or older than asked), in bounded steps; how many of each."""
    purged: dict[JobStatus, int] = {}
    for status in sorted(statuses):
        purged[status] = 0
        while True:
            step = await queue.purge(status, older_than_seconds=older_than_seconds, dry_run=dry_run)
            purged[status] += step.deleted
            if not step.has_more:
                break
    return purged


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


class MaintenanceLoop:
    """Calls the passes on timers, for the worker `reclaimer`, whose lease sets the pace."""

    def __init__(self, queue: WorkQueue, reclaimer: str, lease_seconds: float) -> None:
        self._queue = queue
        self._reclaimer = reclaimer
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        """Take care until cancelled. A pass that Redis does not serve is tried again at its next turn."""
        await asyncio.gather(
            self._promote_when_due(),
            every(self._lease_seconds / 4, self._reclaim),
            every(self._lease_seconds, self._queue.remove_dead_workers),
            every(PURGE_INTERVAL_SECONDS, lambda: purge_pass(self._queue)),
        )

    async def _reclaim(self) -> None:
        for taken in await self._queue.reclaim(self._reclaimer):
            logger.warning(
                "job taken from a dead worker",
                extra={
                    "job": taken.id,
                    "decision": taken.decision,
                    "from_worker": taken.worker_id,
                    "idle_seconds": taken.idle_seconds,
                    "crashes": taken.crashes,
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


async def every(seconds: float, step: Callable[[], Awaitable[object]]) -> None:
    """Do `step` every so often, with jitter, so that a fleet that started together drifts apart."""
    while True:
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load
        with suppress(*TRANSIENT_ERRORS):
            await step()
