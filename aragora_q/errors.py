"""Every exception of aragora-q, and what an operator can do about each.

Raised by all modules; rendered by the command line as one line, `hint` after it, and turned into
the exit code below. Knows nothing of Redis: `connection.py` translates what the server says.

    AragoraQError                 1
    ├── ConfigError              78   a setting, file or variable is wrong
    │   └── UnsupportedServer     78   the Redis server cannot keep our promises as it is set up
    ├── InvalidPayload           65   job data breaks a rule (also a ValueError: never retried)
    ├── JobNotFound               3   no such job, or past retention
    ├── RedisUnreachable         69   nothing answers at redis_url
    ├── TryAgain                 75   Redis answers, but not now (OOM, LOADING, READONLY, …)
    │   ├── QueueFull          75   the queue's `max_backlog` is reached
    │   └── NotDurable           75   accepted, but not confirmed as `durability` asks
    ├── AccessDenied             77   NOAUTH, WRONGPASS, NOPERM
    ├── LeaseLost                 1   the job is no longer this attempt's: stop working on it
    ├── AgentUnavailable          1   a debate's agent failed in a way that may pass
    ├── CommandFailed             1   the `command` executor's program failed in a way that may pass
    ├── PermanentError            1   raised by executors: do not retry
    └── RetryLater                1   raised by executors: come back in N seconds, uncharged
"""

from __future__ import annotations


class AragoraQError(Exception):
    """Base of all our errors.

    `hint` tells an operator what to do next; `exit_code` is what the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(AragoraQError):
    """A setting is wrong; the message names value, rule and origin, never a secret."""

    exit_code = 78


class UnsupportedServer(ConfigError):
    """The Redis server is too old, evicts keys, or lacks what a setting asks of it."""


class InvalidPayload(AragoraQError, ValueError):
    """Job data breaks a rule. A ValueError, so that an executor that meets it fails for good."""

    exit_code = 65


class JobNotFound(AragoraQError):
    """No job of that id is known, or it ended longer ago than the retention time."""

    exit_code = 3

    def __init__(self, job_id: str, queue: str) -> None:
        super().__init__(
            f"no job {job_id} in queue {queue}",
            hint="it may be in another queue (--queue), or ended before the retention time",
        )


class RedisUnreachable(AragoraQError):
    """No Redis answers: refused, timed out, cut, or a host name that does not resolve."""

    exit_code = 69


class TryAgain(AragoraQError):
    """Redis answers but cannot serve now: OOM, LOADING, READONLY, BUSY, CLUSTERDOWN, MISCONF."""

    exit_code = 75


class QueueFull(TryAgain):
    """The queue holds `max_backlog` waiting jobs; nothing was enqueued."""


class NotDurable(TryAgain):
    """The job `job_id` was accepted, but no replica, or no disk, confirmed it in time.

    Enqueue it again with the same id: nothing is done twice, and the confirmation is asked for again.
    """

    def __init__(self, job_id: str, durability: str) -> None:
        super().__init__(
            f"job {job_id} was accepted, but not confirmed in time as durability {durability} asks",
            hint="enqueue it again with the same id, or look after the server's replicas and disk",
        )
        self.job_id = job_id


class AccessDenied(AragoraQError):
    """Redis refused the credentials, or the user lacks a permission."""

    exit_code = 77


class LeaseLost(AragoraQError):
    """Another lease_owner, a cancel or a newer fence owns the job: results are no longer accepted."""


class AgentUnavailable(AragoraQError):
    """An agent's provider is down, overloaded, cut off or slow: asking again may help."""


class CommandFailed(AragoraQError):
    """The program ended with an exit code that says "try again", or a signal killed it."""


class PermanentError(AragoraQError):
    """Raise this from an executor when trying again cannot help."""


class RetryLater(AragoraQError):
    """Raise this from an executor when a provider said to come back later.

    The attempt is not charged, at most 50 times and 6 hours per job. `delay_seconds` is at least
    how long the job waits.
    """

    def __init__(self, message: str, *, delay_seconds: float) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


TRANSIENT_ERRORS = (RedisUnreachable, TryAgain, AccessDenied)
"""What may pass by itself: a worker that meets one of these tries on, without end."""
