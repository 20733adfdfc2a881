"""Periodic maintenance of a queue: promote, reclaim, unhold, purge, remove dead workers. One function per pass.

One worker of a queue runs the passes on timers; `reap` and `purge` run them from cron. Every step is one
bounded script that re-checks what it acts on, so any number of processes may run them at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from aragora_q.backoff import jittered
from aragora_q.base import AUTOMATIC_CAUSES, TERMINAL, HoldCause, JobStatus
from aragora_q.contracts import Gates, HeldJob, ReclaimResult, WorkQueue
from aragora_q.errors import SERVER_ERRORS, TRANSIENT_ERRORS, CommandRefused
from aragora_q.observability.logs import get_logger

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

MAX_HELD_PAGES, HELD_PAGE = 50, 100
"""Pages of held jobs that a pass reads at most, and the jobs of a page."""

MAX_FREED, MAX_FREED_OF_ONE = 1_000, 100
"""Freed jobs that have not started, at most; and of those that one budget or account had held."""

MIN_TTL_SECONDS, MAX_TTL_SECONDS = 0.5, 5.0
"""Bounds of how long the right to do maintenance lasts: a quarter lease within them."""


@dataclass
class ReapReport:
    """What one reap pass did, or with `dry_run` would do. `is_complete` False: the time was up first."""

    promoted: int = 0
    reclaimed: list[ReclaimResult] = field(default_factory=list)
    unheld: int = 0
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
    """Promote due jobs, reclaim jobs of dead workers, free held jobs, remove dead workers.

    With `dry_run` only report what would be reclaimed. `max_seconds` is checked between steps.
    """
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    report = ReapReport()
    if not dry_run:
        report.promoted, _ = await promote_pass(queue, deadline=deadline)
    report.reclaimed = await queue.reclaim(reclaimer, dry_run=dry_run, deadline=deadline)
    if not dry_run and not _is_past(deadline):
        report.unheld = await _unhold_all(queue, reclaimer, deadline)
    if not dry_run and not _is_past(deadline):
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
    """Delete ended jobs past retention, or older than `older_than_seconds`, in bounded steps.

    Returns counts by status.
    """
    purged: dict[JobStatus, int] = {}
    for status in sorted(statuses):
        purged[status], has_more = 0, True
        while has_more:
            step = await queue.purge(status, older_than_seconds=older_than_seconds, dry_run=dry_run)
            purged[status] += step.deleted
            has_more = step.has_more
    return purged


async def _unhold_all(queue: WorkQueue, reclaimer: str, deadline: float | None) -> int:
    if not await queue.count_held():
        return 0
    gates = queue.gates(reclaimer)
    try:
        if gates is not None:
            await gates.refresh()  # without workers, budgets are those of this process
        held = HeldJobs(queue, gates)
        unheld = await held.unhold_pass()
        while not (held.is_at_end or _is_past(deadline)):
            unheld += await held.unhold_pass()
        return unheld
    finally:
        if gates is not None:
            await gates.close()


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


@dataclass
class _Room:
    """What may be freed of the jobs that one budget or account holds, in one pass."""

    jobs: int
    usd: float = math.inf
    first_usd: float = 0.0
    """What the first job may need, even if that is more than `usd`."""

    def take(self, usd: float | None) -> bool:
        """Return True if a job that needs `usd` (None: unknown) may be freed, and make that much less room."""
        if self.jobs < 1 or self.usd <= 0:
            return False
        if self.usd < math.inf:
            needed = self.usd if usd is None else usd
            if needed > max(self.usd, self.first_usd):
                return False
            self.usd -= needed
        self.jobs, self.first_usd = self.jobs - 1, 0.0
        return True


class HeldJobs:
    """Frees jobs that budgets and providers hold, once there is room for them, in the order of their holds.

    A budget frees jobs that need no more than half of what is left of it, so that those that run find room.
    A job that needs more is passed over until nothing is spent in a window (or, without windows, nothing is
    reserved); then it is freed if it comes first, and there is room for it. An account frees as many as it
    takes calls. A pass looks at a bounded number of jobs, the next pass goes on there; what was freed and has
    not started counts as used.
    """

    def __init__(self, queue: WorkQueue, gates: Gates | None) -> None:
        self._queue = queue
        self._gates = gates
        self._after = ""
        self.is_at_end = False
        """True if passes have seen all held jobs."""
        self._freed: dict[str, dict[str, float]] = {}
        """What the freed jobs that still wait need, by what had held them."""
        self._waiting = 0
        """The number of these jobs."""
        self._unused: set[str] = set()
        """Budgets of which nothing was used when a pass last saw them."""

    async def unhold_pass(self) -> int:
        """Free jobs; returns how many."""
        await self._forget_started()
        is_first, unheld, rooms = not self._after, 0, dict[tuple[str, str], _Room]()
        must_restart = False
        for _ in range(MAX_HELD_PAGES):
            page = await self._queue.list_held(AUTOMATIC_CAUSES, self._after, limit=HELD_PAGE)
            must_restart |= await self._add_rooms(rooms, page.jobs, is_first=is_first)
            chosen = [job for job in page.jobs if self._take(rooms.get((job.cause, job.by)), job)]
            freed = {job.id for job in chosen}
            overdue = [job for job in page.jobs if job.until is not None and job.id not in freed]
            unheld += await self._unhold(chosen, AUTOMATIC_CAUSES)
            unheld += await self._unhold(overdue, ())
            self._after = page.after
            if not page.after:
                break
        if must_restart:
            self._after = ""
        self.is_at_end = not (self._after or must_restart)
        return unheld

    def _take(self, room: _Room | None, job: HeldJob) -> bool:
        if room is None or self._waiting >= MAX_FREED or not room.take(job.usd):
            return False
        self._freed.setdefault(job.by, {})[job.id] = job.usd or 0.0
        self._waiting += 1
        return True

    async def _unhold(self, jobs: list[HeldJob], causes: Collection[HoldCause]) -> int:
        if not jobs:
            return 0
        return (await self._queue.unhold_many([job.id for job in jobs], causes)).count("unheld")

    async def _forget_started(self) -> None:
        """Forget freed jobs that do not wait any more: what they use is in the books, or nothing."""
        ids = [job_id for freed in self._freed.values() for job_id in freed]
        statuses = await self._queue.get_statuses(ids) if ids else {}
        waiting = (JobStatus.PENDING, JobStatus.RETRYING)
        remaining = {
            by: {job_id: usd for job_id, usd in freed.items() if statuses[job_id] in waiting}
            for by, freed in self._freed.items()
        }
        self._freed = {by: freed for by, freed in remaining.items() if freed}
        self._waiting = sum(map(len, self._freed.values()))

    async def _add_rooms(
        self, rooms: dict[tuple[str, str], _Room], jobs: list[HeldJob], *, is_first: bool
    ) -> bool:
        """Add the rooms of what holds `jobs`. Returns True if the order of their holds asks for a restart."""
        if self._gates is None:
            return False
        holders = dict.fromkeys(
            (job.cause, job.by) for job in jobs if job.cause in AUTOMATIC_CAUSES
        )
        new = [holder for holder in holders if holder not in rooms]
        accounts = [by for cause, by in new if cause == "provider"]
        for by, free in zip(accounts, await self._gates.free_calls(accounts), strict=True):
            calls = MAX_FREED_OF_ONE if free is None else min(free, MAX_FREED_OF_ONE)
            rooms["provider", by] = _Room(calls - len(self._freed.get(by, ())))
        budgets = [by for cause, by in new if cause == "budget"]
        must_restart = False
        for by, used in zip(budgets, await self._gates.budget_rooms(budgets), strict=True):
            freed = self._freed.get(by, {})
            room = rooms["budget", by] = _Room(MAX_FREED_OF_ONE - len(freed))
            if used.limit_usd is None:
                continue
            left_usd = used.limit_usd - used.spent_usd - used.reserved_usd - sum(freed.values())
            room.usd = left_usd / 2
            if used.spent_usd or used.reserved_usd or freed:
                self._unused.discard(by)
                if not (used.turns or used.reserved_usd or freed):
                    room.first_usd = left_usd
                continue
            room.first_usd = used.limit_usd
            if (
                not is_first and by not in self._unused
            ):  # the first job of this budget may be on an earlier page
                room.jobs, must_restart = 0, True
            self._unused.add(by)
        return must_restart


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
        with suppress(*TRANSIENT_ERRORS):
            # A restarted worker takes over the jobs of its dead predecessor.
            await self._unless_refused("reclaim", self._reclaim, None)
        while True:
            pause_seconds = MAX_PROMOTE_SECONDS
            with suppress(*TRANSIENT_ERRORS):
                pause_seconds = await self._unless_refused(
                    "claim maintenance", self._step, pause_seconds
                )
            await asyncio.sleep(pause_seconds)

    async def unhold(self) -> None:
        """Free held jobs for which there is room, if that is due."""
        await self._run_if_due("unhold", self._unhold_seconds, self._unhold)

    async def _step(self) -> float:
        """Run the passes that are due if this worker may; return the seconds until the next step."""
        claim = await self._queue.claim_maintenance(self._worker_id, self._ttl_seconds)
        self.registered_workers = claim.registered_workers
        if not claim.is_granted:
            pause_seconds = self._ttl_seconds * max(0.5, claim.registered_workers / 10)
            return jittered(min(pause_seconds, MAX_ASK_SECONDS))
        next_due_seconds = await self._unless_refused("promote", self._promote, None)
        await self._run_if_due("reclaim", self._reclaim_seconds, self._reclaim)
        await self._run_if_due("remove", self._remove_seconds, self._queue.remove_dead_workers)
        await self.unhold()
        since_purge = claim.seconds_since_purge
        if since_purge is None or since_purge >= PURGE_INTERVAL_SECONDS:
            await self._unless_refused("purge", partial(purge_pass, self._queue), None)
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

    async def _promote(self) -> float | None:
        _, next_due_seconds = await promote_pass(self._queue)
        return next_due_seconds

    async def _unhold(self) -> None:
        with suppress(*TRANSIENT_ERRORS):  # the gates may be on another server
            if unheld := await self._held.unhold_pass():
                logger.info("held jobs freed", extra={"jobs": unheld})

    async def _reclaim(self) -> None:
        for job in await self._queue.reclaim(self._worker_id):
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
