"""The vocabulary of the queue: a job, its states and transitions, and what clients may ask of a queue.

Imported by every module above it; imports nothing of this package. Must not know Redis.
"""

import os
import re
from abc import ABC, abstractmethod
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, get_args

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12


class JobStatus(StrEnum):
    """The state of a job; prints as its value.

    A delayed job is PENDING. A RETRYING job has been started before: it waits for its backoff to end,
    or in its lane. A HELD job does not start until it is freed. COMPLETED, FAILED and CANCELLED are terminal.

    Example:
        >>> from aragora_q import JobStatus
        >>> print(JobStatus.PENDING, JobStatus.PENDING.is_terminal)
        pending False
    """

    PENDING = "pending"
    PROCESSING = "processing"
    RETRYING = "retrying"
    HELD = "held"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """True if the job has ended. Only an operator's requeue changes a terminal job."""
        return self in TERMINAL


MAX_USD = 100_000_000
"""Largest amount of money, in US dollars: sums of many are still exact in scripts."""

TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
LIVE = frozenset(JobStatus) - TERMINAL

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset(
        {JobStatus.PROCESSING, JobStatus.HELD, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.PROCESSING: frozenset(
        {
            JobStatus.PENDING,  # release, redelivery
            JobStatus.RETRYING,  # retry, retry later, reclaim
            JobStatus.HELD,  # its executor holds it; or any of these, if a hold was asked meanwhile
            JobStatus.COMPLETED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.RETRYING: frozenset(
        {JobStatus.PROCESSING, JobStatus.HELD, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.HELD: frozenset({JobStatus.PENDING, JobStatus.RETRYING, JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
"""The state machine. PENDING and RETRYING reach FAILED if a job's data turns out to be malformed."""


HoldCause = Literal["person", "budget", "provider", "executor", "approval"]
"""Who or what holds a job: an operator, a budget without room, a provider that takes no calls, the job's
executor, or a price that an operator must approve."""

HOLD_CAUSES: tuple[HoldCause, ...] = get_args(HoldCause)

AUTOMATIC_CAUSES: frozenset[HoldCause] = frozenset({"budget", "provider"})
"""Holds that end without an operator, when what was in the way is gone."""

MAX_HOLD_BY_BYTES = 64

MAX_ERROR_CHARS = 2_000
"""Longest text of an error, or of a reason, that is kept."""

MAX_REASON_CHARS = 500
"""Longest reason that an operator gives."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a job is held. Times are Unix seconds of the server's clock."""

    cause: HoldCause
    by: str
    """The operator as user@host, or the budget or provider in the way; may be empty."""
    reason: str
    since: float
    """When the job was held, the first time if it was freed automatically since; or when that was asked."""
    until: float | None = None
    """When the hold ends in any case; None: not before it is freed."""

    @property
    def who(self) -> str:
        """Who or what holds the job, for example `by person ann@desk`."""
        if self.cause == "approval":
            return "for approval"
        return " ".join(filter(None, ("by", self.cause, self.by)))

    @property
    def text(self) -> str:
        """Who or what holds the job and why, for example `by person ann@desk: prices changed`."""
        # What is in the way begins its own reasons.
        reason = self.reason.removeprefix(f"{self.cause} ").removeprefix(f"{self.by}: ")
        return f"{self.who}: {reason}" if reason else self.who


_new_ids: list[str] = []
"""Random ids that no job has yet. Most of the time of one alone would be the system call."""
os.register_at_fork(after_in_child=_new_ids.clear)


def new_job_id() -> str:
    """Return a random job id: 18 letters and digits, 107 bits. Longer ones take more memory in Redis."""
    while True:
        try:
            return _new_ids.pop()
        except IndexError:
            pid, random = os.getpid(), os.urandom(1026)  # three bytes are four letters: none is "="
            text = b2a_base64(random).translate(None, b"+/\n").decode()
            ids = [text[n : n + 18] for n in range(0, len(text) - 17, 18)]
            _new_ids.extend(ids if os.getpid() == pid else ())  # a signal's handler may have forked


@dataclass(slots=True)
class Job:
    """One unit of work. A client sets the first nine fields; the queue sets the others.

    Times are Unix seconds of the server's clock.

    Example:
        >>> from aragora_q import Job
        >>> job = Job({"question": "Tea?", "agents": ["demo", "demo"]}, priority=1)
        >>> print(job.status, job.attempts)
        pending 0
    """

    payload: dict[str, Any]
    """What the executor gets: a JSON object."""
    id: str = field(default_factory=new_job_id)
    """1 to 64 letters, digits and `._@=+-`, starting with a letter or digit. Unique within a queue."""
    priority: int = 0
    """-1000 to 1000. Above 0: the high lane; below 0: the low lane."""
    max_attempts: int | None = None
    """Charged starts before the job fails, including the first; None: `retry_max_attempts` of the queue."""
    delay_seconds: float = 0.0
    """Seconds from the enqueue until the job may start, at most 366 days."""
    group: str | None = None
    """The group whose counts include the job: 1 to 48 letters, digits and `._@=+-`."""
    tenant: str | None = None
    """For whom the job runs: 1 to 48 letters, digits and `._@=+-:/`."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """At most eight values by name. A name has up to 24 letters, digits and `._-`; a value is as `tenant`."""
    notify: tuple[str, ...] = ()
    """At most four webhooks to which its end is reported, by their names in the configuration."""

    status: JobStatus = JobStatus.PENDING
    attempts: int = 0
    """Charged starts so far, including a running one."""
    crashes: int = 0
    """Workers that died while they ran the job."""
    fence: int = 0
    """Fencing token: raised by every start, never reset, so that it identifies an attempt."""
    worker_id: str | None = None
    """The worker that runs the job, or ran it last."""
    created_at: float | None = None
    started_at: float | None = None
    """When the latest attempt started."""
    waited_seconds: float = 0.0
    """Seconds in the lane before this attempt, without delay and backoff."""
    completed_at: float | None = None
    """When the job ended, in any terminal status."""
    due_at: float | None = None
    """When a delayed or retrying job becomes runnable, or would without its hold; None if it is."""
    hold: Hold | None = None
    """Why the job is held; of a running job: why it will be, unless this attempt ends it."""
    error: str | None = None
    """The last error."""
    result: dict[str, Any] | None = None
    """What the executor returned; None until the job has completed. Of a failed job: the partial result that
    the executor gave with its PermanentError, if any."""
    progress: dict[str, Any] | None = None
    """What the executor last reported with `report_progress`."""
    trace: str = ""
    """The trace context in which the job was enqueued, or that of an attempt since, the latest one that was
    sampled: `traceparent` and, after a space, `tracestate` of W3C Trace Context. Empty if none is known."""
    is_restart: bool = False
    """True if the running attempt is not the first start of the job. Set only in the worker that runs it."""
    raw_payload: bytes = b""
    """The payload as Redis holds it, so that a malformed one is kept byte for byte. `enqueue` ignores it."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of jobs and its outcome. Times are Unix seconds of the server's clock.

    A group exists from its first job until its last one is purged. It is open until it is sealed; a sealed
    group has ended when none of its jobs is live. A requeue of one of its jobs reopens it.
    """

    name: str
    counts: Mapping[str, int]
    """Jobs by status; also `purged`: jobs that were in the group and are deleted."""
    created_at: float
    sealed_at: float | None = None
    ended_at: float | None = None
    cancelled_at: float | None = None
    """When the group was cancelled as a whole."""
    cancelled_by: str = ""
    cancelled_reason: str = ""
    then_id: str | None = None
    """The job that is enqueued when the group has ended."""
    then_status: str | None = None
    """`waiting`, `enqueued`, `cancelled` (with the group) or `lost` (another program deleted it)."""
    notify: tuple[str, ...] = ()
    """Webhooks to which its end is reported."""

    @property
    def state(self) -> str:
        """`open`, `sealed`, `ended` or `cancelled` (as a whole)."""
        if self.cancelled_at is not None:
            return "cancelled"
        if self.ended_at is not None:
            return "ended"
        return "open" if self.sealed_at is None else "sealed"

    @property
    def total(self) -> int:
        """Jobs that were ever in the group."""
        return sum(self.counts.values())

    @property
    def live(self) -> int:
        """Jobs that have not ended."""
        return sum(count for status, count in self.counts.items() if status in LIVE)


class EnqueueResult(NamedTuple):
    """The result for one job of `enqueue_many`, in `results` of its errors, too."""

    id: str
    """The id of the job."""
    created: bool
    """False if the id existed: nothing was written."""
    durable: bool = True
    """False only if the confirmation that the setting `durability` asks for did not come in time: the job is
    enqueued. Enqueue it again with the same id to ask for the confirmation again."""


class QueueStats(TypedDict):
    """Statistics of a queue. Times are Unix milliseconds of the server's clock, or None for never."""

    stream_length: int
    """Entries in all lanes: waiting and running jobs."""
    pending_count: int
    """Entries delivered to workers and not acknowledged: running jobs."""
    groups: list[dict[str, Any]]
    """Consumer groups of the lanes, as XINFO GROUPS returns them."""
    waiting: dict[str, int]
    """Runnable jobs that no worker has started, by lane: `high`, `normal`, `low`."""
    running: int
    delayed: int
    """Jobs that wait for their due time or their backoff."""
    held: int
    """Jobs that do not start until they are freed."""
    oldest_held_seconds: float | None
    """How long the first of them is held; None if no job is."""
    next_due_seconds: float | None
    """Seconds until the next delayed job is due; None if no job is delayed."""
    completed: int
    failed: int
    cancelled: int
    oldest_waiting_seconds: float | None
    """Age of the oldest waiting job; None if no job waits."""
    throughput: dict[str, int]
    """Jobs ended recently: `completed_1m`, `completed_5m`, `completed_15m`, `failed_1m`, …"""
    counters: dict[str, int]
    """Totals since the queue was created, by transition."""
    last_reap_at: int | None
    last_purge_at: int | None
    """When a pass last succeeded."""
    now: int
    """The server's clock."""
    paused: bool
    paused_at: int | None
    paused_by: str | None
    paused_reason: str | None
    """Who paused the queue and why; blank if they did not say, None if it is not paused."""
    resumed_at: int | None
    resumed_by: str | None
    resumed_reason: str | None
    """The same of the last resume; None while the queue is paused, or if it never was."""
    grace_until: int | None
    """End of the grace period after an outage: nothing is reclaimed before; None outside of one."""
    worker_counts: dict[str, int]
    """Registered workers: `alive` (as below; with more than 100 workers, by this client's `claim_idle_ms`)
    and `silent`."""
    workers: list[dict[str, Any]]
    """At most 100 workers, the oldest heartbeat first, each with `worker_id`, `heartbeat_age_seconds`,
    `is_alive` (its heartbeat is younger than its lease), `jobs_leased` (a number), `running` (job ids as of
    the last heartbeat), `event_loop_lag_seconds` (as of then), and as text what the worker registered:
    `instance_id`, `host`, `pid`, `version`, `concurrency`, `metrics_port`, …"""


class JobQueue(ABC):
    """Operations of a queue for clients. `RedisStreamsQueue` implements them.

    Every method raises RedisUnreachable if Redis does not answer, AccessDenied if it refuses the
    credentials, TryAgain if it cannot serve the call now (loading, full, failing over), and CommandRefused
    if it answers with any other error. After `close` every method raises QueueClosed.

    A queue may be used in one event loop after the other, but not in two at a time: RuntimeError.
    """

    consumer_name: str
    """Worker id of a worker that is not given one."""

    @abstractmethod
    async def enqueue(self, job: Job) -> str:
        """Add a job to the queue and return its id.

        Once this returns, the job will run to exactly one recorded outcome. Enqueueing the same id again
        changes nothing, so the call can be repeated after any error.

        Raises:
            TypeError: `job` is not a Job. Not enqueued.
            InvalidPayload: the job breaks a rule, or its payload is larger than `max_payload_bytes`.
                Not enqueued.
            GroupSealed: the job's group takes no more jobs. Not enqueued.
            QueueFull: `max_backlog` waiting and delayed jobs are in the queue. Not enqueued.
            UnsupportedServer: the server cannot provide the setting `durability`. Not enqueued.
            AccessDenied: Redis refused the credentials. Not enqueued.
            TryAgain: Redis cannot serve the call now. Not enqueued; call again later.
            NotDurable: enqueued, but the replicas or the disk did not confirm it in time.
            RedisUnreachable: the job may or may not be enqueued; call again with the same job.
        """

    @abstractmethod
    async def enqueue_many(self, jobs: Iterable[Job]) -> list[EnqueueResult]:
        """Add many jobs in few round trips; return a result per job, in the same order.

        `jobs` may be any iterable, such as a list or a generator, but not an async one. Of a generator, jobs
        are made while the server works.

        Jobs are sent in batches. The call stops at the first job that breaks a rule: earlier batches are in
        the queue; the other jobs of its batch, and later ones, are not. A job that only the server refuses,
        because its group is sealed or the debate that it takes over is gone, does not keep the others out; its
        error is raised at the end.

        Give each job an id: after an error, call again with the same jobs, or with a new generator that makes
        the same ids. Jobs that exist are not changed. A job made without an id gets a new one each time.

        Raises:
            AragoraQError: as `enqueue`, but not NotDurable, which `EnqueueResult.durable` reports instead.
                Some of the jobs may have been enqueued: its `results` has one result per job, in the same
                order, or None. None means: not enqueued, or unknown after RedisUnreachable. Of a generator,
                these are the jobs taken from it.
            TypeError: one of `jobs` is not a Job. It has no `results`, and neither has an error of another
                kind that a generator raises: the batches that were sent stay in the queue.
        """

    @abstractmethod
    async def get_status(self, job_id: str) -> JobStatus | None:
        """Return the job's status; None if the job is unknown or past retention.

        Raises:
            InvalidPayload: the job's data in Redis is corrupted.
        """

    @abstractmethod
    async def get_job(self, job_id: str) -> Job | None:
        """Return the job with payload, result, last error and progress; None if unknown or past retention.

        Raises:
            InvalidPayload: the job's data in Redis is corrupted.
        """

    @abstractmethod
    async def cancel(self, job_id: str, *, by: str = "", reason: str = "") -> bool:
        """Cancel a job in any live state, immediately; return False if it had already ended.

        A worker that is running the job stops it within a quarter of its lease. If there is a `reason`, or
        `by`, who cancels it, they are added to the job's history; `by` is cut at 64 bytes.

        Raises:
            JobNotFound: the job is unknown or past retention.
        """

    @abstractmethod
    async def hold(self, job_id: str, *, reason: str = "", by: str = "") -> bool:
        """Hold a live job: it does not start until `unhold`; return False if it had already ended.

        A running job goes on: it is held when its attempt ends, unless that completes or fails it.
        `reason` and `by`, who holds it, are shown to operators; `by` is cut at 64 bytes.

        Raises:
            JobNotFound: the job is unknown or past retention.
        """

    @abstractmethod
    async def unhold(self, job_id: str, *, by: str = "", reason: str = "") -> bool:
        """Return a held job to where it came from; return False if it was not held.

        `by` and `reason` are as of `cancel`.

        Raises:
            JobNotFound: the job is unknown or past retention.
        """

    @abstractmethod
    async def get_queue_stats(self) -> QueueStats:
        """Return the queue's statistics; the cost does not grow with the number of jobs."""

    @abstractmethod
    async def close(self) -> None:
        """Close the queue's connections, after its workers in this program released their jobs and stopped.

        A call that is cancelled, as by a time limit, goes on in the background. Other calls under way raise
        QueueClosed; they may have taken effect.

        Raises:
            RuntimeError: the queue is in use in another event loop, which is still open. Nothing is closed.
        """


LANES = ("high", "normal", "low")
"""Priority lanes in reading order."""

MAX_JOB_ID_CHARS = 64
JOB_ID_PUNCTUATION = "._@=+-"

JOB_ID_PATTERN = re.compile(
    rf"[A-Za-z0-9][A-Za-z0-9{JOB_ID_PUNCTUATION}]{{0,{MAX_JOB_ID_CHARS - 1}}}"
)
"""A job id: 1 to 64 characters that are safe in a key, a shell and a log line. No colon: with one,
a job's hash key could equal another job's payload key."""


def is_job_id(text: str) -> bool:
    """Return True if a job may have this id: nothing else becomes part of a key."""
    return JOB_ID_PATTERN.fullmatch(text) is not None


WORKER_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")
"""A worker id: at most 48 characters, so that `worker@instance` keeps a job's hash compact."""

QUEUE_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""A queue name: lower case, no braces (they delimit a cluster's hash tag), no colon."""

STALL_SECONDS = 10.0
"""A loop without progress for this long (of a worker with a longer lease: half a lease) has stalled."""

GATES = "gates"
"""The name in the keys of the gates, which no queue may have."""


def lane_of(priority: int) -> str:
    """Return the lane of a priority: above 0 high, below 0 low.

    `lane_stream` in `redis/lua/include/job.lua` applies the same rule.
    """
    if priority > 0:
        return "high"
    return "low" if priority < 0 else "normal"
