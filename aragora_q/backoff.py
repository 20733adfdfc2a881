"""Delays between tries: exponential, with jitter so that many processes do not retry in step.

Used wherever a call to Redis is retried. A job's own retry delays are `retry.RetryPolicy`.
"""

from __future__ import annotations

import random


def jittered(seconds: float, low: float = 0.5, high: float = 1.0) -> float:
    """Return `seconds` times a random factor between `low` and `high`."""
    return seconds * random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing


class Backoff:
    """The delays of one series of tries: `first_seconds`, doubled up to `max_seconds`, with jitter."""

    def __init__(self, first_seconds: float, max_seconds: float) -> None:
        self._seconds = first_seconds
        self._max_seconds = max_seconds

    def next_seconds(self) -> float:
        """Return the delay before the next try."""
        seconds = jittered(self._seconds)
        self._seconds = min(self._seconds * 2, self._max_seconds)
        return seconds
