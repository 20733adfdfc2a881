"""Decide whether an error is retried, and after how many seconds. Pure: no clock, no I/O.

Used by `attempt.py` to turn an exception into an outcome. Must not know queues.
"""

from __future__ import annotations

import errno
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from aragora_q.errors import AragoraQError, PermanentError

JITTER = 0.2
"""Delays vary by up to this share, up or down; those that a provider asked for, up only."""

NEVER_RETRIED: tuple[type[BaseException], ...] = (ValueError, TypeError, KeyError)
ALWAYS_RETRIED: tuple[type[BaseException], ...] = (AragoraQError, ConnectionError, TimeoutError)
PERMANENT_WORDS = ("invalid", "not found", "validation")

MAX_DESCRIBED = 5
"""Errors of an exception group that its description names."""


MACHINE_LIMITS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,  # fork: too many processes
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EDQUOT,
    }
)
"""Errors of the system calls that a process or its machine has no room for."""

MAX_MESSAGE_CHARS = 10_000
"""Length at which the message of an error is cut."""

MAX_CAUSES = 100
"""Errors that are looked at for a cause."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in an exception group, also in nested ones; of any other error, itself."""
    pending = [error]
    while pending:  # not recursive: a job may nest groups deeper than the stack
        each = pending.pop()
        if isinstance(each, BaseExceptionGroup):
            pending.extend(reversed(each.exceptions))
        else:
            yield each


def is_machine_limit(error: BaseException) -> bool:
    """Return True if `error`, or what it was raised from, is a limit of the process or its machine.

    These are open files, processes, threads, memory and disk space.
    """
    pending: list[BaseException] = [error]
    for _ in range(MAX_CAUSES):
        if not pending:
            break
        each = pending.pop()
        if isinstance(each, OSError) and each.errno in MACHINE_LIMITS:
            return True
        if isinstance(each, RuntimeError) and each.args == ("can't start new thread",):
            return True
        if isinstance(each, BaseExceptionGroup):
            pending.extend(each.exceptions)
        elif cause := each.__cause__ or each.__context__:  # libraries hide the cause, too
            pending.append(cause)
    return False


def is_retryable_error(error: BaseException) -> bool:
    """Return True if a job that raised `error` may be retried. The first rule that applies decides.

    1. PermanentError: no.
    2. ValueError, TypeError, KeyError and their subclasses: no.
    3. ConnectionError, TimeoutError and errors of this package (RetryLater, RedisUnreachable, …): yes,
       whatever their message.
    4. "invalid", "not found" or "validation" in the message, upper or lower case: no.
    5. Everything else: yes.

    An exception group, as `asyncio.TaskGroup` raises it, may be retried if one of its errors may.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(is_retryable_error(leaf) for leaf in leaves(error))
    if isinstance(error, (PermanentError, *NEVER_RETRIED)):
        return False
    if isinstance(error, ALWAYS_RETRIED):
        return True
    message = describe(error).partition(": ")[2].lower()
    return not any(word in message for word in PERMANENT_WORDS)


def describe(error: BaseException) -> str:
    """Return `Type: message`, as text that UTF-8 can encode, even if the exception's `__str__` fails.

    For an exception group, those of its errors.
    """
    if isinstance(error, BaseExceptionGroup):
        texts = [describe(leaf) for leaf in leaves(error)]
        more = len(texts) - MAX_DESCRIBED
        return "; ".join(texts[:MAX_DESCRIBED] + ([f"and {more} more"] if more > 0 else []))
    name = type(error).__name__
    try:
        message = str(error)[:MAX_MESSAGE_CHARS]
    except BaseException:  # noqa: BLE001 - a broken __str__ must not cost the job its report
        message = "(message cannot be read)"
    text = f"{name}: {message}" if message else name
    return text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff: `base_delay_seconds * exponential_base ** n`, with jitter, up to a maximum.

    `n` is 0 after the first failure. Jitter varies a delay by up to 20 %, but never beyond the maximum; a delay
    that a provider asked for only becomes longer.
    A worker takes the delays from its policy. How often a job is attempted is fixed when it is
    enqueued: by `Job.max_attempts`, or else by the queue's setting `retry_max_attempts`.

    Raises:
        ValueError: a delay is negative or infinite, `base_delay_seconds` is above `max_delay_seconds`,
            `exponential_base` is below 1, or `max_attempts` is below 1.

    Example:
        >>> from aragora_q import RetryPolicy
        >>> policy = RetryPolicy(base_delay_seconds=2.0, max_delay_seconds=10.0, jitter=False)
        >>> [policy.delay_seconds(n) for n in range(4)]
        [2.0, 4.0, 8.0, 10.0]
    """

    max_attempts: int = 3
    """Attempts, including the first."""
    base_delay_seconds: float = 1.0
    max_delay_seconds: float = 300.0
    exponential_base: float = 2.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}, must be at least 1")
        if self.max_delay_seconds == math.inf:
            raise ValueError("max_delay_seconds is inf, must be finite")
        if not 0 <= self.base_delay_seconds <= self.max_delay_seconds:
            raise ValueError(
                f"base_delay_seconds is {self.base_delay_seconds}, must be between 0 and "
                f"max_delay_seconds ({self.max_delay_seconds})"
            )
        if not 1 <= self.exponential_base < math.inf:
            raise ValueError(
                f"exponential_base is {self.exponential_base}, must be at least 1 and finite"
            )

    def spread_seconds(self, asked_seconds: float) -> float:
        """Return a delay that a provider asked for, made longer by the jitter, never shorter.

        Otherwise all jobs that it sends back for the same time would return in the same second.
        """
        return asked_seconds * _factor(1, 1 + JITTER) if self.jitter else asked_seconds

    def delay_seconds(self, attempt: int) -> float:
        """Return the seconds to wait after failure number `attempt`, counted from 0."""
        try:
            delay = self.base_delay_seconds * self.exponential_base**attempt
        except OverflowError:
            delay = self.max_delay_seconds
        if self.jitter:
            delay *= _factor(1 - JITTER, 1 + JITTER)
        return min(delay, self.max_delay_seconds)


def _factor(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311 - spreads load, not for security
