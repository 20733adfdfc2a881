"""Periodic maintenance of a queue: promote, reclaim, unhold, purge, remove dead workers, sample.

One function per pass. One worker of a queue runs the passes on timers; `reap` and `purge` run them from cron.
Every step is one bounded script that re-checks what it acts on, so any number of processes may run them at
once. A pass that changed something has a span, `maintain {queue}`, which is made after its end, because most
passes, one a second, change nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from aragora_q import tracing
from aragora_q.backoff import jittered
from aragora_q.base import TERMINAL, JobStatus
from aragora_q.contracts import Gates, ReclaimResult
from aragora_q.errors import SERVER_ERRORS, TRANSIENT_ERRORS, CommandRefused
from aragora_q.held_jobs import HeldJobs
from aragora_q.observability.logs import get_logger
from aragora_q.scheduler import Scheduler
from aragora_q.work_queue import WorkQueue

logger = get_logger(__name__)

T = TypeVar("T")

MAX_PROMOTE_SECONDS = 1.0
"""Longest pause between two promote passes: how late a delayed job may become runnable."""

PURGE_INTERVAL_SECONDS = 3600.0
MAX_RECLAIM_SECONDS = 15.0
MAX_REMOVE_SECONDS = 60.0
"""Longest time between two passes. Reclaim runs every quarter lease, removal every lease, if that is less."""

REPEAT_LOG_SECONDS = 60.0
"""Interval at which a pass that keeps failing is logged again."""

MAX_ASK_SECONDS = 15.0
"""Longest pause between two requests for the right to do maintenance: most of a large fleet may be dead."""

MAX_UNHOLD_SECONDS = 5.0
"""Longest time between two passes that free held jobs; every quarter lease, if that is less."""

RETRY_SAMPLE_SECONDS = 5.0
"""Time after which a sample that could not be written is tried again."""

MIN_TTL_SECONDS, MAX_TTL_SECONDS = 0.5, 5.0
"""Bounds of how long the right to do maintenance lasts: a quarter lease within them."""


@dataclass
class ReapReport:
    """What one reap pass did, or with `dry_run` would do. `is_complete` False: the time was up first."""

    promoted: int = 0
    reclaimed: list[ReclaimResult] = field(default_factory=list)
    unheld: int = 0
    consumers_deleted: int = 0
    ticks: int = 0
    """Jobs of schedules that were enqueued."""
    is_complete: bool = True


async def promote_pass(
    queue: WorkQueue, changed: Counter[str], *, deadline: float | None = None
) -> float | None:
    """Make all due jobs runnable; count them as `promoted`. Returns the seconds until the next job is due."""
    while True:
        step = await queue.promote()
        changed["promoted"] += step.promoted
        if step.next_due_seconds != 0 or _is_past(deadline):
            return step.next_due_seconds


async def reap_pass(
    queue: WorkQueue, reclaimer: str, *, max_seconds: float | None = None, dry_run: bool = False
) -> ReapReport:
    """Promote due jobs, reclaim jobs of dead workers, free held jobs, remove dead workers, write a sample.

    Also enqueue what the schedules of the queue's configuration have due. With `dry_run` only report what would
    be reclaimed. `max_seconds` is checked between steps.
    """
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    report = ReapReport()
    with _span_of_changes(queue.config.queue) as changed:
        if not dry_run:
            await promote_pass(queue, changed, deadline=deadline)
        try:
            await queue.reclaim(
                reclaimer, dry_run=dry_run, deadline=deadline, results=report.reclaimed
            )
        finally:
            changed["reclaimed"] = 0 if dry_run else len(report.reclaimed)
        if not dry_run and not _is_past(deadline):
            await _unhold_all(queue, reclaimer, deadline, changed)
        if not dry_run and not _is_past(deadline):
            changed["workers_removed"] = await queue.remove_dead_workers()
        report.promoted, report.unheld = changed["promoted"], changed["unheld"]
        report.consumers_deleted = changed["workers_removed"]
    if not dry_run:
        await queue.sample()
        report.ticks, _ = await Scheduler(queue.schedules, queue.config).step()
    report.is_complete = not _is_past(deadline)
    return report


@contextmanager
def _span_of_changes(queue: str) -> Iterator[Counter[str]]:
    """Make a span of what the body did, if it counts anything in the yielded counter."""
    changed, began_at = Counter[str](), time.monotonic()
    try:
        yield changed
    finally:
        if attributes := {f"aragora_q.{name}": count for name, count in changed.items() if count}:
            seconds = time.monotonic() - began_at
            tracing.record(
                f"maintain {queue}", seconds, {"messaging.destination.name": queue, **attributes}
            )


async def purge_pass(
    queue: WorkQueue,
    *,
    statuses: frozenset[JobStatus] = TERMINAL,
    older_than_seconds: float | None = None,
    dry_run: bool = False,
    by: str = "",
    reason: str = "",
) -> dict[JobStatus, int]:
    """Delete ended jobs past retention, or older than `older_than_seconds`, in bounded steps.

    `by` is the operator who asked for it, if one did. Returns counts by status.
    """
    purged: dict[JobStatus, int] = {}
    with _span_of_changes(queue.config.queue) as changed:
        for status in sorted(statuses):
            purged[status], has_more = 0, True
            while has_more:
                step = await queue.purge(
                    status,
                    older_than_seconds=older_than_seconds,
                    dry_run=dry_run,
                    by=by,
                    reason=reason,
                )
                purged[status] += step.deleted
                if not dry_run:
                    changed["purged"] += step.deleted
                has_more = step.has_more
    return purged


async def _unhold_all(
    queue: WorkQueue, reclaimer: str, deadline: float | None, changed: Counter[str]
) -> None:
    """Free held jobs for which there is room; count them as `unheld`."""
    if not await queue.count_held():
        return
    gates = queue.gates(reclaimer)
    try:
        if gates is not None:
            await gates.refresh()  # without workers, budgets are those of this process
        held = HeldJobs(queue, gates)
        changed["unheld"] += await held.unhold_pass()
        while not (held.is_at_end or _is_past(deadline)):
            changed["unheld"] += await held.unhold_pass()
    finally:
        if gates is not None:
            await gates.close()


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


class MaintenanceLoop:
    """Runs the passes for one worker of a queue: at any time, one worker does it for all.

    Workers ask for the right to do maintenance. The one that has it asks again within a second. The others
    ask rarely, and more rarely the more of them there are, so that the cost does not grow with the fleet. A
    worker that dies is replaced within 20 seconds.
    """

    def __init__(
        self, queue: WorkQueue, worker_id: str, lease_seconds: float, gates: Gates | None = None
    ) -> None:
        self._queue = queue
        self._held = HeldJobs(queue, gates)
        self._worker_id = worker_id
        self._ttl_seconds = min(max(lease_seconds / 4, MIN_TTL_SECONDS), MAX_TTL_SECONDS)
        self._reclaim_seconds = min(lease_seconds / 4, MAX_RECLAIM_SECONDS)
        self._unhold_seconds = min(lease_seconds / 4, MAX_UNHOLD_SECONDS)
        self._remove_seconds = min(lease_seconds, MAX_REMOVE_SECONDS)
        self._due: dict[str, float] = {}
        self._logged_at: dict[str, float] = {}
        self.registered_workers = 1
        """Registered workers of the queue, when it was last asked."""

    async def run(self) -> None:
        """Run until cancelled. A pass that fails because of Redis runs again when it is due."""
        with suppress(*TRANSIENT_ERRORS), _span_of_changes(self._queue.config.queue) as changed:
            # A restarted worker takes over the jobs of its dead predecessor.
            await self._unless_refused("reclaim", partial(self._reclaim, changed), None)
        while True:
            pause_seconds = MAX_PROMOTE_SECONDS
            with suppress(*TRANSIENT_ERRORS):
                pause_seconds = await self._unless_refused(
                    "claim maintenance", self._step, pause_seconds
                )
            await asyncio.sleep(pause_seconds)

    async def unhold(self) -> None:
        """Free held jobs for which there is room, if that is due."""
        with _span_of_changes(self._queue.config.queue) as changed:
            await self._unhold_if_due(changed)

    async def _unhold_if_due(self, changed: Counter[str]) -> None:
        await self._run_if_due("unhold", self._unhold_seconds, partial(self._unhold, changed))

    async def _step(self) -> float:
        """Run the passes that are due if this worker may; return the seconds until the next step."""
        claim = await self._queue.claim_maintenance(self._worker_id, self._ttl_seconds)
        self.registered_workers = claim.registered_workers
        if not claim.is_granted:
            pause_seconds = self._ttl_seconds * max(0.5, claim.registered_workers / 10)
            return jittered(min(pause_seconds, MAX_ASK_SECONDS))
        with _span_of_changes(self._queue.config.queue) as changed:
            promote = partial(promote_pass, self._queue, changed)
            next_due_seconds = await self._unless_refused("promote", promote, None)
            await self._run_if_due(
                "reclaim", self._reclaim_seconds, partial(self._reclaim, changed)
            )
            await self._run_if_due("remove", self._remove_seconds, partial(self._remove, changed))
            await self._unhold_if_due(changed)
        since_purge = claim.seconds_since_purge
        if since_purge is None or since_purge >= PURGE_INTERVAL_SECONDS:
            await self._unless_refused("purge", partial(purge_pass, self._queue), None)
        await self._run_if_due("sample", RETRY_SAMPLE_SECONDS, self._sample)
        pause_seconds = min(MAX_PROMOTE_SECONDS, self._ttl_seconds / 2, self._reclaim_seconds)
        return pause_seconds if next_due_seconds is None else min(pause_seconds, next_due_seconds)

    async def _run_if_due(
        self, name: str, interval_seconds: float, run: Callable[[], Awaitable[object]]
    ) -> None:
        if time.monotonic() >= self._due.get(name, 0.0):
            self._due[name] = time.monotonic() + jittered(interval_seconds, 0.8, 1.2)
            await self._unless_refused(name, run, None)

    async def _unless_refused(self, name: str, run: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return the result of `run`; if Redis refuses its commands, log that and return `otherwise`.

        The other passes may succeed, and this one later.
        """
        try:
            return await run()
        except CommandRefused as error:
            if time.monotonic() - self._logged_at.get(name, -math.inf) >= REPEAT_LOG_SECONDS:
                self._logged_at[name] = time.monotonic()
                logger.warning(
                    "maintenance failed, repeating it",
                    extra={"operation": name, "error": str(error)},
                )
            return otherwise

    async def _sample(self) -> None:
        seconds = await self._queue.sample()
        # Each sample is taken as a minute begins, so that they are evenly spaced.
        self._due["sample"] = time.monotonic() + seconds

    async def _remove(self, changed: Counter[str]) -> None:
        changed["workers_removed"] = await self._queue.remove_dead_workers()

    async def _unhold(self, changed: Counter[str]) -> None:
        with suppress(*TRANSIENT_ERRORS):  # the gates may be on another server
            if unheld := await self._held.unhold_pass():
                changed["unheld"] = unheld
                logger.info("held jobs freed", extra={"jobs": unheld})

    async def _reclaim(self, changed: Counter[str]) -> None:
        reclaimed: list[ReclaimResult] = []
        try:
            await self._queue.reclaim(self._worker_id, results=reclaimed)
        finally:
            changed["reclaimed"] += len(reclaimed)
            _log_reclaimed(reclaimed)


def _log_reclaimed(jobs: Iterable[ReclaimResult]) -> None:
    for job in jobs:
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


async def run_periodically(seconds: float, step: Callable[[], Awaitable[object]]) -> None:
    """Run `step` every `seconds`, with jitter, so that workers started together drift apart."""
    while True:
        await asyncio.sleep(jittered(seconds, 0.8, 1.2))
        with suppress(*SERVER_ERRORS):
            await step()
