"""The exceptions of aragora-q, each with the exit code of the command line.

Raised by every module. The command line prints the message and then `hint`, and exits with
`exit_code`. This module does not know Redis: `redis/errors.py` translates the server's errors.

    AragoraQError                 1
    ├── ConfigError              78   a setting, file or variable is invalid
    │   └── UnsupportedServer    78   the Redis server is too old or configured unsafely
    ├── InvalidPayload           65   invalid job data (also a ValueError: never retried)
    │   └── GroupSealed          65   the group takes no more jobs
    ├── JobNotFound               3   no such job, or past the retention time
    ├── JobNotEnded              75   the job is live: what was asked for exists once it has ended
    ├── NothingFound              3   no job or group of this name, or no job that matches
    ├── GroupNotFound             3   no such group, or all its jobs were purged
    ├── BudgetNotFound            3   no such budget
    ├── ScheduleNotFound          3   no such schedule is configured or known
    ├── WebhookNotFound           3   no such webhook is configured or known
    ├── ProviderNotFound          3   no calls to such a provider are known
    ├── RedisUnreachable         69   no server answers at redis_url
    ├── TryAgain                 75   Redis answers, but cannot serve now (OOM, LOADING, BUSY, …)
    │   ├── NotPrimary           75   the server is a replica, or has become one
    │   ├── QueueFull            75   `max_backlog` is reached
    │   └── NotDurable           75   accepted, but not confirmed as `durability` requires
    ├── AccessDenied             77   NOAUTH, WRONGPASS, NOPERM
    ├── QueueClosed               1   `close` was called before the call ended
    ├── CommandRefused           76   the server's error is not one that aragora-q knows
    ├── LeaseLost                 1   the job no longer belongs to this attempt: stop working on it
    ├── AgentUnavailable          1   a debate's agent failed; a retry may help
    ├── CommandFailed             1   the `command` executor's program failed; a retry may help
    ├── WorkerUnable              1   raised by executors: this worker cannot run jobs at present
    ├── PermanentError            1   raised by executors: do not retry
    ├── HoldJob                   1   raised by executors: hold the job until it is freed
    ├── JobLimitReached           1   the job's own limit of tokens or cost leaves no room for a call
    └── RetryLater                1   raised by executors: retry after a delay, attempt not charged
        └── GateClosed            1   a provider takes no calls now: as RetryLater, without bounds
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aragora_q.base import EnqueueResult


class AragoraQError(Exception):
    """Base class of all errors of aragora-q.

    `hint` says what an operator can do; `exit_code` is the exit code of the command line.
    """

    exit_code = 1
    results: Sequence[EnqueueResult | None] = ()
    """Of `enqueue_many`: one per job, in order; None if the job is not known to be in the queue."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(AragoraQError):
    """A setting is invalid. The message names value, rule and origin, never a secret."""

    exit_code = 78


class UnsupportedServer(ConfigError):
    """The Redis server is too old, evicts keys, or lacks a feature that a setting requires."""


class InvalidPayload(AragoraQError, ValueError):
    """Job data is invalid. Also a ValueError, so an attempt that raises it is not retried."""

    exit_code = 65


class GroupSealed(InvalidPayload):
    """The group was sealed: it takes no more jobs."""


class GroupNotFound(AragoraQError):
    """No job of the group is in the queue: it never had one, or the last one was purged."""

    exit_code = 3

    def __init__(self, group: str, queue: str) -> None:
        super().__init__(
            f"group {group:.100} not found in queue {queue}",
            hint="check --queue; a group exists from its first job until its last one is purged",
        )


class BudgetNotFound(AragoraQError):
    """No worker declares a budget of this name, and none was set."""

    exit_code = 3


class ProviderNotFound(AragoraQError):
    """No calls to a provider or account of this name are known."""

    exit_code = 3


class ScheduleNotFound(AragoraQError):
    """The configuration of this process has no schedule of this name."""

    exit_code = 3

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(
            f"schedule {name!r:.60} is not in the configuration here",
            hint=did_you_mean(name, known)
            or "check --queue, and where the configuration comes from",
        )


class WebhookNotFound(AragoraQError):
    """The configuration of this process has no webhook of this name, and the queue knows none."""

    exit_code = 3

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(
            f"webhook {name!r:.60} is not in the configuration here",
            hint=did_you_mean(name, known)
            or "check --queue, and where the configuration comes from",
        )


class JobNotFound(AragoraQError):
    """The job does not exist, or it ended longer ago than the retention time."""

    exit_code = 3

    def __init__(self, job_id: str, queue: str) -> None:
        super().__init__(
            f"job {job_id:.100} not found in queue {queue}",
            hint="check --queue, and the database number in REDIS_URL; the job may also have expired "
            "(ended more than the retention time ago)",
        )


class JobNotEnded(AragoraQError):
    """The job has not ended: what was asked for exists once it has."""

    exit_code = 75

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(
            f"job {job_id:.100} has not ended: it is {status}",
            hint=f"aragora-q wait {job_id:.100} waits until it has",
        )


class NothingFound(AragoraQError):
    """No job and no group has this name, or no job matches what was asked for."""

    exit_code = 3


class RedisUnreachable(AragoraQError):
    """Redis cannot be reached: connection refused, timed out or closed, or unknown host name."""

    exit_code = 69


class TryAgain(AragoraQError):
    """Redis answers but cannot serve now: OOM, LOADING, BUSY, CLUSTERDOWN, MISCONF."""

    exit_code = 75


class NotPrimary(TryAgain):
    """The server that `redis_url` leads to is a replica: READONLY, MASTERDOWN.

    After a failover, the next calls reach the new primary, if `redis_url` names Sentinels or a cluster, or the
    name or address in it leads there.
    """


class QueueClosed(AragoraQError):
    """The queue was closed with `close`; whether a call that was under way took effect is unknown."""


class QueueFull(TryAgain):
    """The queue has `max_backlog` waiting and delayed jobs.

    Jobs of the call that were enqueued before are in `results`.
    """

    def __init__(self, queue: str, max_backlog: int, refused: str = "") -> None:
        rest = f"; {refused} were not enqueued" if refused else ""
        super().__init__(
            f"queue {queue} has reached its limit of {max_backlog} waiting jobs{rest}",
            hint="add workers, wait, or raise max_backlog",
        )


class NotDurable(TryAgain):
    """The job `job_id` was accepted, but the replicas or the disk did not confirm it in time.

    Enqueueing it again with the same id adds no second job and waits for the confirmation again.
    """

    def __init__(self, job_id: str, durability: str) -> None:
        super().__init__(
            f"job {job_id} was accepted, but not confirmed in time (durability {durability})",
            hint=f"enqueue it again with the same id; if this persists, {how_to_confirm(durability)}",
        )
        self.job_id = job_id


class AccessDenied(AragoraQError):
    """Redis rejected the credentials, or the user lacks a permission."""

    exit_code = 77


class CommandRefused(AragoraQError):
    """Redis refused a command with an error that aragora-q does not know; the message has it."""

    exit_code = 76


class LeaseLost(AragoraQError):
    """The job was cancelled, or another worker or a newer attempt owns it: results are discarded."""


class AgentUnavailable(AragoraQError):
    """An agent's provider is down, overloaded, unreachable or slow. A retry may help."""


class CommandFailed(AragoraQError):
    """The program was killed by a signal, or its exit code asks for a retry."""


class WorkerUnable(AragoraQError):
    """Raised by an executor when its process or machine cannot run the job, whatever the job is.

    The job is released, uncharged, for any worker. The worker is unhealthy and backs off until a job runs.
    If the worker completes other jobs in between, only the first three times: then it is an ordinary error.
    """


class PermanentError(AragoraQError):
    """Raised by an executor when a retry cannot help: the job fails at once.

    `partial_result`, a JSON object, is what the job has to show nevertheless: it becomes the `result` of the
    failed job. If it is not JSON, or larger than `max_result_bytes`, it is left out, and the error says so.
    """

    def __init__(
        self, message: str, *, partial_result: Mapping[str, Any] | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.partial_result = partial_result


class RetryLater(AragoraQError):
    """Raised by an executor when a provider asks to retry later.

    The job waits `delay_seconds`, or up to 20 % longer, so that jobs with the same delay do not all return at
    once, and never less than the backoff. The attempt is not charged, at most 50 times and for at most 6 hours
    per job.
    """

    def __init__(self, message: str, *, delay_seconds: float) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class GateClosed(RetryLater):
    """A provider takes no calls now: the job waits `delay_seconds`, at most 5 minutes, which counts toward no
    limit.

    Raised by `AttemptContext.acquire`; an executor lets it pass. `by` is the account that is closed; empty: it
    is open, but the call's turn did not come, or it has no capacity for the flex tier.
    """

    def __init__(self, message: str, *, delay_seconds: float, by: str = "") -> None:
        super().__init__(message, delay_seconds=delay_seconds)
        self.by = by


class HoldJob(AragoraQError):
    """Raised by an executor to hold its job: it is not started again until it is freed.

    The attempt is not charged. `cause` is `executor`; `acquire` raises it with `budget` or `provider`, and the
    job is freed when that has room again. `by` names what is in the way, in at most 64 bytes; `usd` is what the
    job needs to go on; `until_seconds` is the time after which it is freed in any case, None: unlimited.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: str = "executor",
        by: str = "",
        until_seconds: float | None = None,
        usd: float | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.by = by
        self.until_seconds = until_seconds
        self.usd = usd


class JobLimitReached(AragoraQError):
    """A call does not fit what is left of the job's own `limit`: `max_tokens` or `max_cost_usd`. Not sent."""

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


TRANSIENT_ERRORS = (RedisUnreachable, TryAgain, AccessDenied)
"""Errors that a running worker retries without limit."""

SERVER_ERRORS = (*TRANSIENT_ERRORS, CommandRefused)
"""Errors of Redis; none ends a worker. A call that may be refused for good, such as the report of one job,
must not be retried after CommandRefused."""


_WORDS = {
    "a valid boolean": "true or false",
    "a valid dictionary": "a table",  # TOML's word for it
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid tuple": "a list",
}
"""Phrases in pydantic's messages, and those of docs/reference/settings.md."""


def how_to_confirm(durability: str) -> str:
    """Return what to look at if enqueues are not confirmed, as a part of a hint."""
    if durability == "replica":
        return (
            "look at the replicas in the primary's INFO replication: as many as durability_replicas says "
            "must be online and keep up"
        )
    return "look at INFO persistence and the log: the server needs an append-only file, and room on its disk"


def validation_rule(message: str) -> str:
    """Return a validation message of pydantic as a rule, such as `must be greater than 0`."""
    rule = message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
    rule = rule.partition(", unable to")[0].partition(" or instance of")[0].rstrip(".")
    for pydantic, ours in _WORDS.items():
        rule = rule.replace(pydantic, ours)
    return rule[0].lower() + rule[1:]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name closest to `name`; None if none has the similarity `cutoff` (0 to 1)."""
    from difflib import get_close_matches  # noqa: PLC0415 - needed for error messages only

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a hint that names the known name closest to `name`; empty if none is close."""
    match = nearest(name, known, cutoff)
    return f"did you mean {match!r}?" if match else ""
