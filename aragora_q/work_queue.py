"""The calls of a queue that workers and maintenance make; what they take and return is in `contracts`.

Apart from these, so that a client of the queue, such as a command, does not load them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from aragora_q.base import HOLD_CAUSES, Group, HoldCause, Job, JobQueue, JobStatus

if TYPE_CHECKING:
    from aragora_q.config import QueueConfig
    from aragora_q.contracts import (
        Gates,
        HeldPage,
        Identity,
        MaintenanceClaim,
        Outbox,
        PromotionResult,
        PurgeResult,
        ReclaimResult,
        Schedules,
        WorkerSession,
    )


class WorkQueue(JobQueue):
    """A queue as workers and maintenance use it."""

    config: QueueConfig
    outbox: Outbox
    before_close: set[Callable[[], Awaitable[None]]]
    """What `close` calls and waits for first: the workers of the queue stop and release their jobs."""
    schedules: Schedules

    @abstractmethod
    def session(self, identity: Identity, *, lease_seconds: float | None = None) -> WorkerSession:
        """Return the queue as the worker `identity` uses it; nothing is sent yet."""

    def gates(self, worker_id: str) -> Gates | None:  # noqa: ARG002 - for queues that have gates
        """Return the gates to providers and budgets for a worker, which it must close; None: no gates."""
        return None

    @abstractmethod
    async def claim_maintenance(self, worker_id: str, ttl_seconds: float) -> MaintenanceClaim:
        """Ask to be the one worker that does maintenance for the next `ttl_seconds`."""

    @abstractmethod
    async def promote(self) -> PromotionResult:
        """Make due delayed jobs runnable: one bounded step."""

    @abstractmethod
    async def reclaim(
        self,
        reclaimer: str,
        *,
        dry_run: bool = False,
        deadline: float | None = None,
        results: list[ReclaimResult] | None = None,
    ) -> list[ReclaimResult]:
        """Reclaim the jobs of dead workers: one pass over what is pending, in bounded steps.

        No further step starts after `deadline`, a time of `time.monotonic()`; the first one always does.
        The results are added to `results`, step by step, so that those before an error are known.
        """

    @abstractmethod
    async def count_held(self) -> int:
        """Return the number of held jobs."""

    @abstractmethod
    async def list_held(
        self, causes: Collection[HoldCause], after: str = "", *, limit: int = 100
    ) -> HeldPage:
        """List jobs that are held for one of `causes`, or longer than they should be: one bounded step.

        `after` is that of the page before; a page may be empty without being the last.
        """

    @abstractmethod
    async def get_jobs(self, job_ids: Sequence[str], *, max_bytes: int) -> list[Job | None]:
        """Return jobs with payload, result and last error, in the order of their ids, in few round trips.

        None for a job that is unknown, past retention, or whose data is corrupted. A payload or result longer
        than `max_bytes` is left out: then the payload is empty and the result is None.
        """

    @abstractmethod
    async def get_group(self, name: str) -> Group | None:
        """Return a group; None if it has no job, or its data is corrupted."""

    @abstractmethod
    async def get_statuses(self, job_ids: Sequence[str]) -> Mapping[str, str | None]:
        """Return the status of each job; None if it is unknown, or past retention."""

    @abstractmethod
    async def unhold_many(
        self,
        job_ids: Sequence[str],
        causes: Collection[HoldCause] = HOLD_CAUSES,
        *,
        by: str = "",
        reason: str = "",
    ) -> list[str]:
        """Return held jobs to where they came from, in few round trips.

        Returns one result per job: `unheld`, `not-held`, `unknown` (or past retention), the status of a job
        that has ended, or the cause of a hold that is not one of `causes`. A job that is held for longer than
        its hold's time is freed in any case, unless a person holds it.
        """

    @abstractmethod
    async def purge(
        self,
        status: JobStatus,
        *,
        older_than_seconds: float | None = None,
        dry_run: bool = False,
        by: str = "",
        reason: str = "",
    ) -> PurgeResult:
        """Delete ended jobs past retention, or older than `older_than_seconds`: one bounded step.

        `dry_run` only counts them. `by` is the operator who asked for it; empty: it is maintenance.
        """

    @abstractmethod
    async def remove_dead_workers(self) -> int:
        """Delete records and empty consumers of workers silent for long; returns consumers deleted."""

    @abstractmethod
    async def sample(self) -> float:
        """Write a sample of the queue, unless this minute has one; returns the seconds to the next one."""
