"""A limit on how often something is done."""

from __future__ import annotations

import time


class RateLimit:
    """At most `per_second` permits a second; what was held back is counted for the next permit."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0
        self._used = 0
        self.suppressed = 0

    def allows(self) -> bool:
        """Whether one more line may be written in this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._used = second, 0
        self._used += 1
        if self._used <= self._per_second:
            return True
        self.suppressed += 1
        return False

    def pop_suppressed(self) -> int:
        """How many were held back since the last call."""
        suppressed, self.suppressed = self.suppressed, 0
        return suppressed
