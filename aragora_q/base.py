"""The vocabulary: a job, its states and legal moves, what an attempt may report, the queue's contract.

Imported by everything above it; imports nothing but errors. It must not know Redis.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol


class JobStatus(StrEnum):
    """Where a job is in its life. Printed as its value (`pending`)."""

    PENDING = "pending"
    PROCESSING = "processing"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended; a terminal job never changes by itself."""
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})

LEGAL_MOVES: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.PROCESSING: frozenset(
        {
            JobStatus.PENDING,  # release
            JobStatus.RETRYING,  # retry, retry later, reclaim
            JobStatus.COMPLETED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.RETRYING: frozenset({JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
"""The state machine. PENDING and RETRYING reach FAILED when an entry's data turns out malformed."""


def new_job_id() -> str:
    """A random job id: 32 hex digits. Without dashes a job's key stays in a smaller size class."""
    return uuid.uuid4().hex


@dataclass(slots=True)
class Job:
    """One unit of work. What a client fills in comes first; the queue fills in the rest.

    Times are Unix seconds; `delay_seconds` counts from the enqueue on the server's clock.
    """

    payload: dict[str, Any]
    id: str = field(default_factory=new_job_id)
    priority: int = 0
    """Above 0: the high lane; below 0: the low lane."""
    max_attempts: int | None = None
    """Starts charged before the job fails, the first included; None: the queue's `retry_max_attempts`."""
    delay_seconds: float = 0.0

    status: JobStatus = JobStatus.PENDING
    attempts: int = 0
    """Charged starts so far, a running one included."""
    crashes: int = 0
    """Workers that died while they held the job."""
    fence: int = 0
    """Raised by every start, never reset: tells this attempt from any other."""
    worker_id: str | None = None
    created_at: float | None = None
    started_at: float | None = None
    waited_seconds: float = 0.0
    """How long it waited in its lane before this attempt, due times and backoff not included."""
    completed_at: float | None = None
    """When the job ended, however it ended."""
    due_at: float | None = None
    """When a delayed or retrying job becomes runnable; None once it is."""
    error: str | None = None
    """What went wrong last."""
    result: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    """What the executor last reported of its way."""
    raw_payload: bytes = b""
    """The payload as Redis holds it, kept so that a malformed one survives byte for byte."""


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


Verdict = Literal["completed", "retrying", "failed", "released", "cancelled", "lost"]
"""What the queue made of a report; the last two: refused, the attempt no longer held the job."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """Answer to one enqueued job. `created` False: the id was known, nothing was written.

    `durable` False: accepted, but not confirmed in time as the setting `durability` asks; ask again.
    """

    id: str
    created: bool
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Identity:
    """Who holds a lease: a worker id, and the boot that tells two processes of that id apart."""

    worker_id: str
    boot_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def holder(self) -> str:
        """How a job's hash names its holder."""
        return f"{self.worker_id}@{self.boot_id}"


class AttemptContext(Protocol):
    """What a running executor may tell the queue, from `current_attempt()`.

    All writes are fenced: they raise LeaseLost when the job is no longer this attempt's. While Redis
    is away, checkpoints wait for it; progress raises RedisUnreachable, and nothing is lost by going on.
    """

    @property
    def is_last_attempt(self) -> bool:
        """Whether a charged retry after this attempt would fail the job."""

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        """Show `progress` in `status` and to everyone who follows the job's events."""

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under `name` for this and later attempts (JSON, size-bounded).

        What is kept under `life/…` is forgotten when an operator requeues the job.
        """

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        """All checkpoints of the job so far, by name."""


class DetachedAttempt:
    """Stands in where no worker runs the executor: keeps everything in memory."""

    is_last_attempt = False

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        """Nobody listens."""

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        self._kept[name] = dict(value)

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        return dict(self._kept)


attempt_context: ContextVar[AttemptContext] = ContextVar("attempt_context")


def current_attempt() -> AttemptContext:
    """The attempt in whose task the caller runs; outside a worker, one that keeps things in memory."""
    return attempt_context.get(None) or DetachedAttempt()


Executor = Callable[[Job], Awaitable[Mapping[str, Any]]]
"""Does a job's work: takes the job, returns its result as a JSON object, or raises.

PermanentError fails the job, RetryLater postpones it uncharged; `retry.is_retryable_error` judges
the rest. An alias rather than a protocol, so that any async function is one.
"""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a worker's fetch brought. `resume_from` is set when nothing waited: where to block."""

    state: Literal["ok", "paused", "unregistered"]
    jobs: list[Job] = field(default_factory=list)
    resume_from: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Renewal:
    """The queue's answer to a heartbeat: is the queue paused, which jobs are no longer ours and why."""

    state: Literal["ok", "paused", "unregistered"]
    gone: dict[str, Literal["lost", "cancelled"]]


@dataclass(frozen=True, slots=True)
class Promotion:
    """One pass of promote. `next_due_seconds` is None when nothing is delayed.

    Jobs that only a newer version can run do not count: they come and go, and are nobody's to wait for.
    """

    promoted: int
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """One entry taken from a worker that died.

    `decision`: reclaimed (runs again), poisoned (failed: too many crashes), redelivered (was never
    started), dropped (a copy of a job that ended or waits elsewhere).
    """

    id: str
    decision: Literal["reclaimed", "poisoned", "redelivered", "dropped"]
    worker_id: str
    idle_seconds: float
    crashes: int


class LeaseRenewer(Protocol):
    """The lease keeper's line to the queue: synchronous, for a thread of its own."""

    def renew(self, held: Sequence[tuple[str, int]]) -> Renewal:
        """Beat the heart and renew the leases of `held`, pairs of job id and fence."""

    def close(self) -> None:
        """Hang up."""


class WorkerSession(ABC):
    """The queue as one worker sees it, between signing on and signing off."""

    identity: Identity

    @abstractmethod
    async def register(self, info: Mapping[str, str], *, dead_boot_id: str = "") -> float:
        """Sign on. Returns 0, or the seconds after which another boot's claim to the id is over.

        `dead_boot_id` is a boot known to be gone; its claim does not count.
        """

    @abstractmethod
    async def current_boot(self) -> dict[str, str]:
        """The record of whoever is signed on under this worker id; empty if nobody is."""

    @abstractmethod
    async def start(self, limit: int, *, low_first: bool = False) -> Fetched:
        """Take up to `limit` waiting jobs and start them, highest lane first (or lowest)."""

    @abstractmethod
    async def wait_for_work(self, resume_from: tuple[str, ...], timeout_seconds: float) -> None:
        """Block until a lane has something newer than `resume_from`, or the time is up."""

    @abstractmethod
    async def start_next(self, resume_from: tuple[str, ...], timeout_seconds: float) -> Fetched:
        """As `wait_for_work` and then `start` of one job, in one round trip: half the latency.

        Who gives it up must `recover`: the queue may have started a job, or may be about to.
        """

    @abstractmethod
    async def report(self, reports: Sequence[Report]) -> list[Verdict]:
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


class JobQueue(ABC):
    """What clients, workers and caretakers may ask of a queue."""

    consumer_name: str
    """Worker id for those who do not choose one."""

    @abstractmethod
    async def enqueue(self, job: Job) -> str:
        """Accept a job and return its id. Enqueueing a known id again changes nothing.

        Raises PayloadInvalid, BacklogFull, NotDurable, TryAgain, RedisUnreachable. Once it returns, the
        job will run to one recorded outcome.
        """

    @abstractmethod
    async def enqueue_many(self, jobs: Sequence[Job]) -> list[Enqueued]:
        """Accept many jobs in few round trips, answers in the order of the jobs.

        Not all or nothing: when it raises, run it again with the same ids.
        """

    @abstractmethod
    async def get_status(self, job_id: str) -> JobStatus | None:
        """The job's status; None if it is unknown or past retention."""

    @abstractmethod
    async def get_job(self, job_id: str) -> Job | None:
        """All that is known of a job; None if it is unknown or past retention."""

    @abstractmethod
    async def cancel(self, job_id: str) -> bool:
        """Cancel a job in any live state, at once and for good; False if it had ended before.

        Raises JobNotFound.
        """

    @abstractmethod
    async def get_queue_stats(self) -> dict[str, Any]:
        """`stream_length`, `pending_count`, `groups` and more, in constant time."""

    @abstractmethod
    def session(self, identity: Identity, *, lease_seconds: float | None = None) -> WorkerSession:
        """The queue as the worker `identity` sees it; nothing is sent yet."""

    @abstractmethod
    async def promote(self) -> Promotion:
        """Make due delayed jobs runnable: one bounded step."""

    @abstractmethod
    async def reclaim(
        self, reclaimer: str, *, dry_run: bool = False, deadline: float | None = None
    ) -> list[Reclaimed]:
        """Take over the jobs of dead workers: one walk through what is pending, in bounded steps.

        No step is begun after `deadline`, a time of `time.monotonic()`.
        """

    @abstractmethod
    async def purge(
        self, status: JobStatus, *, older_than_seconds: float | None = None, dry_run: bool = False
    ) -> tuple[int, bool]:
        """Delete ended jobs past retention: one bounded step. Returns how many, and if more are left."""

    @abstractmethod
    async def forget_dead_workers(self) -> int:
        """Drop records and empty consumers of workers long silent; returns consumers dropped."""

    @abstractmethod
    async def close(self) -> None:
        """Close the queue's connections."""
