"""Limit how often something is done per second, such as writing log lines."""

from __future__ import annotations

import time


class RateLimit:
    """Allow at most `per_second` calls per second, and count the suppressed ones."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0
        self._used = 0
        self.suppressed = 0

    def allow(self) -> bool:
        """Return True if one more call is allowed in this second; otherwise count it as suppressed."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._used = second, 0
        self._used += 1
        if self._used <= self._per_second:
            return True
        self.suppressed += 1
        return False

    def pop_suppressed(self) -> int:
        """Return the number of calls suppressed since the last time, and reset it."""
        suppressed, self.suppressed = self.suppressed, 0
        return suppressed
