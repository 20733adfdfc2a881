"""What a worker asks of a queue: sessions, outcomes, reports."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from aragora_q.base import Job, JobQueue, JobStatus


@dataclass(frozen=True, slots=True)
class Completed:
    """The executor returned; `result` is its JSON-encoded result."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Retry:
    """The executor raised something that may pass. The queue fails the job when attempts are used up.

    `charged` False is *retry later*: the attempt is given back, within the bounds of `RetryLater`.
    """

    error: str
    delay_seconds: float
    charged: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """The executor raised something that will not pass: the job becomes a dead letter."""

    error: str


@dataclass(frozen=True, slots=True)
class Released:
    """The worker hands the job back unfinished; nothing is charged."""


Outcome = Completed | Retry | Failed | Released


@dataclass(frozen=True, slots=True)
class Report:
    """An attempt's outcome on its way to the queue."""

    job: Job
    outcome: Outcome


ReportResult = Literal["completed", "retrying", "failed", "released", "cancelled", "lost"]
"""What the queue made of a report; the last two: refused, the attempt no longer held the job."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who holds a lease: a worker id, and the boot that tells two processes of that id apart."""

    worker_id: str
    instance_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def lease_owner(self) -> str:
        """How a job's hash names its lease_owner."""
        return f"{self.worker_id}@{self.instance_id}"


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What a worker's fetch brought. `resume_from` is set when nothing waited: where to block."""

    state: Literal["ok", "paused", "unregistered"]
    jobs: list[Job] = field(default_factory=list)
    resume_from: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RenewalResult:
    """The queue's answer to a heartbeat: is the queue paused, which jobs are no longer ours and why."""

    state: Literal["ok", "paused", "unregistered"]
    gone: dict[str, Literal["lost", "cancelled"]]


@dataclass(frozen=True, slots=True)
class PromotionResult:
    """One step of promote. `next_due_seconds` is None if no job is delayed."""

    promoted: int
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """One entry taken from a worker that died.

    `decision`: reclaimed (runs again), poisoned (failed: too many crashes), redelivered (was never
    started), dropped (a copy of a job that ended or waits elsewhere).
    """

    id: str
    decision: Literal["reclaimed", "poisoned", "redelivered", "dropped"]
    worker_id: str
    idle_seconds: float
    crashes: int


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """One step of purge. `has_more` True: call again to delete the rest."""

    deleted: int
    has_more: bool


class LeaseRenewer(Protocol):
    """The lease keeper's line to the queue: synchronous, for a thread of its own."""

    def renew(self, held: Sequence[tuple[str, int]]) -> RenewalResult:
        """Beat the heart and renew the leases of `held`, pairs of job id and fence."""

    def close(self) -> None:
        """Hang up."""


class WorkerSession(ABC):
    """The queue as one worker sees it, between signing on and signing off."""

    identity: Identity

    @abstractmethod
    async def register(self, info: Mapping[str, str], *, dead_instance_id: str = "") -> float:
        """Sign on. Returns 0, or the seconds after which another boot's claim to the id is over.

        `dead_instance_id` is a boot known to be gone; its claim does not count.
        """

    @abstractmethod
    async def registered_instance(self) -> dict[str, str]:
        """The record of whoever is signed on under this worker id; empty if nobody is."""

    @abstractmethod
    async def start(self, limit: int, *, low_first: bool = False) -> FetchResult:
        """Take up to `limit` waiting jobs and start them, highest lane first (or lowest)."""

    @abstractmethod
    async def wait_for_work(self, resume_from: tuple[str, ...], timeout_seconds: float) -> None:
        """Block until a lane has something newer than `resume_from`, or the time is up."""

    @abstractmethod
    async def start_next(self, resume_from: tuple[str, ...], timeout_seconds: float) -> FetchResult:
        """As `wait_for_work` and then `start` of one job, in one round trip: half the latency.

        Who gives it up must `recover`: the queue may have started a job, or may be about to.
        """

    @abstractmethod
    async def report(self, reports: Sequence[Report]) -> list[ReportResult]:
        """Record how attempts ended; the answers are in the order of the reports."""

    @abstractmethod
    async def recover(self, known: Container[str], *, min_idle_seconds: float) -> list[str]:
        """Hand back jobs that were started for this worker without its knowledge (a lost reply)."""

    @abstractmethod
    def lease_renewer(self) -> LeaseRenewer:
        """A renewer for another thread, which must close it."""

    @abstractmethod
    async def report_progress(self, job: Job, progress: Mapping[str, Any]) -> None:
        """As `AttemptContext.report_progress`."""

    @abstractmethod
    async def checkpoint(self, job: Job, name: str, value: Mapping[str, Any]) -> None:
        """As `AttemptContext.checkpoint`."""

    @abstractmethod
    async def checkpoints(self, job: Job) -> dict[str, dict[str, Any]]:
        """As `AttemptContext.checkpoints`."""

    @abstractmethod
    async def unregister(self) -> None:
        """Sign off; the worker must have reported everything it holds."""


class WorkQueue(JobQueue):
    """A queue as workers and maintenance see it."""

    @abstractmethod
    def session(self, identity: Identity, *, lease_seconds: float | None = None) -> WorkerSession:
        """The queue as the worker `identity` sees it; nothing is sent yet."""

    @abstractmethod
    async def promote(self) -> PromotionResult:
        """Make due delayed jobs runnable: one bounded step."""

    @abstractmethod
    async def reclaim(
        self, reclaimer: str, *, dry_run: bool = False, deadline: float | None = None
    ) -> list[ReclaimResult]:
        """Take over the jobs of dead workers: one walk through what is pending, in bounded steps.

        No step is begun after `deadline`, a time of `time.monotonic()`.
        """

    @abstractmethod
    async def purge(
        self, status: JobStatus, *, older_than_seconds: float | None = None, dry_run: bool = False
    ) -> PurgeResult:
        """Delete ended jobs past retention, or older than `older_than_seconds`: one bounded step.

        `dry_run` only counts them.
        """

    @abstractmethod
    async def remove_dead_workers(self) -> int:
        """Drop records and empty consumers of workers long silent; returns consumers dropped."""
