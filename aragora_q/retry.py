"""When to try again, and after how long. Pure: no clock, no I/O.

Used by `attempt.py` to turn an exception into an outcome. Knows nothing of queues.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from aragora_q.errors import AragoraQError, PermanentError

JITTER = 0.2
"""Delays are spread evenly over plus and minus this share."""

NEVER_RETRIED: tuple[type[BaseException], ...] = (ValueError, TypeError, KeyError)
ALWAYS_RETRIED: tuple[type[BaseException], ...] = (AragoraQError, ConnectionError, TimeoutError)
PERMANENT_WORDS = ("invalid", "not found", "validation")


def is_retryable_error(error: BaseException) -> bool:
    """Whether trying again may help; the first rule that applies decides.

    1. PermanentError no;
    2. ValueError, TypeError, KeyError (and what derives from them) no;
    3. ConnectionError, TimeoutError and our own errors (RetryLater, RedisUnreachable, …) yes,
       whatever they say;
    4. "invalid", "not found" or "validation" in the message, in any case: no;
    5. everything else yes.
    """
    if isinstance(error, (PermanentError, *NEVER_RETRIED)):
        return False
    if isinstance(error, ALWAYS_RETRIED):
        return True
    message = describe(error).partition(": ")[2].lower()
    return not any(word in message for word in PERMANENT_WORDS)


def describe(error: BaseException) -> str:
    """`Type: message`, in characters that UTF-8 can hold, whatever the exception's own code does."""
    name = type(error).__name__
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not cost the job its report
        message = "(its message cannot be read)"
    text = f"{name}: {message}" if message else name
    return text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff: `base * exponential_base ** attempt`, plus and minus 20 % jitter, capped.

    `attempt` counts from 0 for the delay after the first failure. The cap holds after jitter.
    Raises ValueError for a negative or endless delay, a base delay above the cap, a base below 1, or
    fewer than one attempt.
    """

    max_attempts: int = 3
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

    def delay_seconds(self, attempt: int) -> float:
        """Seconds to wait after failure number `attempt`, counted from 0."""
        try:
            delay = self.base_delay_seconds * self.exponential_base**attempt
        except OverflowError:
            delay = self.max_delay_seconds
        if self.jitter:
            delay *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load, hides nothing
        return min(delay, self.max_delay_seconds)
