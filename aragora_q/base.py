"""The vocabulary: a job, its states and legal moves, what an attempt may report, the queue's contract.

Imported by everything above it; imports nothing but errors. It must not know Redis.
"""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


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

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
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
class EnqueueResult:
    """Answer to one enqueued job. `created` False: the id was known, nothing was written.

    `durable` False: accepted, but not confirmed in time as the setting `durability` asks; ask again.
    """

    id: str
    created: bool
    durable: bool = True


class JobQueue(ABC):
    """What clients, workers and caretakers may ask of a queue."""

    consumer_name: str
    """Worker id for those who do not choose one."""

    @abstractmethod
    async def enqueue(self, job: Job) -> str:
        """Accept a job and return its id. Enqueueing a known id again changes nothing.

        Raises InvalidPayload, QueueFull, NotDurable, TryAgain, RedisUnreachable. Once it returns, the
        job will run to one recorded outcome.
        """

    @abstractmethod
    async def enqueue_many(self, jobs: Sequence[Job]) -> list[EnqueueResult]:
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
    async def close(self) -> None:
        """Close the queue's connections."""


LANES = ("high", "normal", "low")
"""Priority lanes in reading order."""

MAX_JOB_ID_CHARS = 64
JOB_ID_PUNCTUATION = "._@=+-"

JOB_ID_PATTERN = re.compile(
    rf"[A-Za-z0-9][A-Za-z0-9{JOB_ID_PUNCTUATION}]{{0,{MAX_JOB_ID_CHARS - 1}}}"
)
"""A job id: 1 to 64 characters that are safe in a key, a shell and a log line. No colon: with one,
a job's hash key could equal another job's payload key."""

WORKER_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")
"""A worker id: at most 48 characters, so that `worker@instance` keeps a job's hash compact."""

QUEUE_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""A queue name: lower case, no braces (they delimit a cluster's hash tag), no colon."""


def lane_of(priority: int) -> str:
    """Return the lane of a priority: above 0 high, below 0 low.

    `lane_stream` in `redis/lua/include/job.lua` applies the same rule.
    """
    if priority > 0:
        return "high"
    return "low" if priority < 0 else "normal"
