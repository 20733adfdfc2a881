"""Which held jobs are freed, and when: those that a budget or a provider holds, once there is room.

Used by the passes of `maintenance.py`. Knows the contracts of the queue and of the gates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass

from aragora_q.base import AUTOMATIC_CAUSES, HoldCause, JobStatus
from aragora_q.contracts import BudgetRoom, Gates, HeldJob
from aragora_q.money import LITTLE_SHARE
from aragora_q.work_queue import WorkQueue

MAX_HELD_PAGES, HELD_PAGE = 50, 100
"""Pages of held jobs that a pass reads at most, and the jobs of a page."""

MAX_FREED, MAX_FREED_OF_ONE = 1_000, 100
"""Freed jobs that have not started, at most; and of those that one budget or account had held."""

TRY_SECONDS = 40.0
"""By then, all workers have read what calls of finished debates took."""


@dataclass
class _Room:
    """What may be freed of the jobs that one budget or account holds, in one pass."""

    jobs: int
    usd: float = math.inf
    first_usd: float = 0.0
    """What each of the first jobs may need, even if that is more than `usd`."""
    first_jobs: int = 1

    def take(self, usd: float | None) -> bool:
        """Return True if a job that needs `usd` (None: unknown) may be freed, and make that much less room."""
        if self.jobs < 1 or max(self.usd, self.first_usd) <= 0:
            return False
        if self.usd < math.inf:
            needed = self.usd if usd is None else usd
            if needed > max(self.usd, self.first_usd):
                return False
            self.usd -= needed
        self.jobs, self.first_jobs = self.jobs - 1, self.first_jobs - 1
        if self.first_jobs < 1:
            self.first_usd = 0.0
        return True


class HeldJobs:
    """Frees jobs that budgets and providers hold, once there is room for them, in the order of their holds.

    A budget frees jobs that need no more than half of what is left of it, so that those that run find room.
    A job that needs more is passed over until little is used of a window (or, without windows, nothing is
    reserved); then it is freed if it comes first, and there is room for it. What a job needs was often
    expected, and less is expected after others have run: TRY_SECONDS after the last spending, if no call is
    under way, the first job that fits the limit is freed to try, once; then twice as many each time, until one
    of them is held again. An account frees as many as it takes
    calls. A pass looks at a bounded number of jobs, the next pass goes on there; what was freed and has not
    started counts as used.
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
        """Budgets of which little was used when a pass last saw them."""
        self._tries: dict[str, tuple[float, float]] = {}
        """What was spent of budgets, and when jobs may try, on the monotonic clock."""
        self._next_tries: dict[str, int] = {}
        """How many jobs try next; 1, if that is not known."""

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
        for by, freed in self._freed.items():
            if any(statuses[job_id] == JobStatus.HELD for job_id in freed):
                self._next_tries.pop(by, None)
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
            room = rooms["budget", by] = _Room(MAX_FREED_OF_ONE - len(self._freed.get(by, ())))
            if used.limit_usd is not None:
                must_restart |= self._set_usd(room, by, used, used.limit_usd, is_first=is_first)
        return must_restart

    def _set_usd(
        self, room: _Room, by: str, used: BudgetRoom, limit_usd: float, *, is_first: bool
    ) -> bool:
        """Say how much jobs that a budget holds may need. Returns True as `_add_rooms`."""
        freed, used_usd = self._freed.get(by, {}), used.spent_usd + used.reserved_usd
        left_usd = limit_usd - used_usd - sum(freed.values())
        room.usd = left_usd / 2
        is_idle = not (used.reserved_usd or freed)
        was_unused = by in self._unused
        is_unused = not freed and used_usd <= LITTLE_SHARE * limit_usd
        if is_unused:
            self._unused.add(by)
        else:
            self._unused.discard(by)
        if is_unused and not (was_unused or is_first):  # its first job may be on an earlier page
            room.jobs = 0
            return True
        if is_idle and left_usd > 0 and self._may_try(by, used.spent_usd):
            room.first_usd, room.first_jobs = limit_usd, self._next_tries.get(by, 1)
            self._next_tries[by] = min(2 * room.first_jobs, MAX_FREED_OF_ONE)
        elif is_unused or (is_idle and not used.turns):
            room.first_usd = left_usd
        return False

    def _may_try(self, by: str, spent_usd: float) -> bool:
        """Return True once after the amount that is spent of a budget has changed, TRY_SECONDS later."""
        now = time.monotonic()
        known_usd, try_at = self._tries.get(by, (None, 0.0))
        if known_usd != spent_usd:
            try_at = now + TRY_SECONDS
        is_due = now >= try_at
        self._tries[by] = spent_usd, math.inf if is_due else try_at
        return is_due
