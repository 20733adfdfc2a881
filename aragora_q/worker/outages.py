"""A worker's patience with Redis: ask until it answers, remember what is not served, say so once.

Used by the worker's loops and its reporter; the lease keeper's outages are told here as well. Knows
neither jobs nor the queue: what is asked comes as a function.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aragora_q.errors import TRANSIENT_ERRORS
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.rate_limit import RateLimit

logger = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_SECONDS = (0.05, 3.0)
"""First and longest pause between two tries while Redis is away."""

REPEAT_LOG_SECONDS = 60.0
"""How often the log repeats a fault that goes on."""


class OutageTracker:
    """What of one worker's business Redis does not serve at present."""

    def __init__(self, worker_id: str, metrics: WorkerMetrics) -> None:
        self._worker_id = worker_id
        self._metrics = metrics
        self._faults: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._lines = RateLimit(1)
        self._reminded_at = -REPEAT_LOG_SECONDS
        self.fault: str | None = None
        """What was heard last of faults that are not over; None while all is served. For any thread."""
        self.needs_recovery = False
        """Set by every fault, cleared by whoever has seen to it: an answer may have been lost."""

    async def served(
        self,
        what: str,
        call: Callable[[], Awaitable[T]],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> T:
        """The answer to `call`, however often Redis has to be asked: backoff with jitter, no end.

        Only `sleep` may end it, by an exception, never in the middle of a call.
        """
        pause, longest = BACKOFF_SECONDS
        while True:
            try:
                answer = await call()
            except TRANSIENT_ERRORS as error:
                self.record_failure(what, error)
            else:
                self.record_success(what)
                return answer
            await sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load
            pause = min(pause * 2, longest)

    def record_failure(self, what: str, error: Exception) -> None:
        """Redis did not serve `what`."""
        self._metrics.redis_errors(type(error).__name__).inc()
        self.needs_recovery = True
        text = str(error)
        self._faults.pop(what, None)  # else it would keep its old place
        self._faults[what] = self.fault = text
        is_news = self._told.get(what) != text
        is_due = time.monotonic() - self._reminded_at >= REPEAT_LOG_SECONDS
        if (is_news or is_due) and self._lines.allows():
            self._reminded_at = time.monotonic()
            self._told[what] = text
            logger.warning("Redis did not serve us, trying on", extra={"what": what, "error": text})

    def record_success(self, what: str) -> None:
        """Redis served `what`."""
        if what in self._faults:
            del self._faults[what]
            self._told.pop(what, None)
            self.fault = next(reversed(self._faults.values()), None)
            if self.fault is None:
                logger.info("Redis serves us again", extra={"worker": self._worker_id})
