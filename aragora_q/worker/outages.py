"""Track what Redis does not serve: retry with backoff, log once per outage, keep the last error.

One tracker per worker, shared by its loops. It knows neither jobs nor the queue: what to call comes as
a function.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aragora_q.backoff import Backoff
from aragora_q.errors import SERVER_ERRORS, NotPrimary, UnsupportedServer
from aragora_q.observability.logs import get_logger
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.rate_limit import RateLimit

logger = get_logger(__name__)

T = TypeVar("T")

FIRST_DELAY_SECONDS = 0.05
MAX_DELAY_SECONDS = 3.0
"""Delay before the second try of a failed call, and the longest delay between two tries."""

REPEAT_LOG_SECONDS = 60.0
"""Interval at which an outage that lasts is logged again."""


class OutageTracker:
    """Which calls of one worker Redis does not serve at present.

    A worker that a replica refuses for longer than `max_refusal_seconds` is not healthy: another server is
    the primary, and no outage of Redis explains why this worker does not reach it.
    """

    def __init__(
        self, worker_id: str, metrics: WorkerMetrics, *, max_refusal_seconds: float = math.inf
    ) -> None:
        self._worker_id = worker_id
        self._metrics = metrics
        self._max_refusal_seconds = max_refusal_seconds
        self._refused_since: dict[str, float] = {}
        self._is_refusal_logged = False
        self._served: set[str] = set()
        self._errors: dict[str, str] = {}
        self._logged: dict[str, str] = {}
        self._lines = RateLimit(1)
        self._logged_at = -REPEAT_LOG_SECONDS
        self.available_since = -math.inf
        """When Redis last became available again, on the monotonic clock."""
        self.last_error: str | None = None
        """The latest error of a call that still fails; None while Redis serves all. For any thread."""
        self.needs_recovery = False
        """True after a failure: a reply may have been lost, and with it the start of jobs."""

    def request_recovery(self) -> None:
        """Ask for a check for orphans: the reply to a start may be lost."""
        self.needs_recovery = True

    def recovered(self) -> None:
        """Note that the check is under way."""
        self.needs_recovery = False

    async def retry_until_available(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> T:
        """Return the result of `call`, retried without limit while it raises an error of Redis.

        Only `sleep` can end the retries, by raising; a call under way is never interrupted.

        Raises:
            UnsupportedServer: the server lacks what `operation` needs, and has never served it before.
        """
        backoff = Backoff(FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS)
        while True:
            try:
                result = await call()
            except SERVER_ERRORS as error:
                if isinstance(error, UnsupportedServer) and operation not in self._served:
                    raise
                self.record_failure(operation, error)
            else:
                self.record_success(operation)
                return result
            await sleep(backoff.next_seconds())

    def record_failure(self, operation: str, error: Exception) -> None:
        """Note that Redis did not serve `operation`."""
        self._metrics.redis_errors(type(error).__name__).inc()
        self.needs_recovery = True
        text = str(error)
        self._errors.pop(operation, None)  # inserted again below, as the latest
        self._errors[operation] = self.last_error = text
        self._note_refusal(operation, error)
        is_new = self._logged.get(operation) != text
        is_due = time.monotonic() - self._logged_at >= REPEAT_LOG_SECONDS
        if (is_new or is_due) and self._lines.allow():
            self._logged_at = time.monotonic()
            self._logged[operation] = text
            logger.warning(
                "Redis unavailable, retrying", extra={"operation": operation, "error": text}
            )

    def record_success(self, operation: str) -> None:
        """Note that Redis served `operation`."""
        self._served.add(operation)
        if operation not in self._errors:
            return
        del self._errors[operation]
        self._refused_since.pop(operation, None)
        self._logged.pop(operation, None)
        if not self._errors:
            self.available_since = time.monotonic()
        self.last_error = next(reversed(self._errors.values()), None)
        if self.last_error is None:
            self._is_refusal_logged = False
            logger.info("Redis available again", extra={"worker": self._worker_id})

    @property
    def is_refused_too_long(self) -> bool:
        """True while a replica has refused an operation for longer than the limit. For any thread."""
        limit = time.monotonic() - self._max_refusal_seconds
        return any(since < limit for since in list(self._refused_since.values()))

    def _note_refusal(self, operation: str, error: Exception) -> None:
        if not isinstance(error, NotPrimary):
            self._refused_since.pop(operation, None)
            return
        self._refused_since.setdefault(operation, time.monotonic())
        if self.is_refused_too_long and not self._is_refusal_logged:
            self._is_refusal_logged = True
            logger.error(
                "worker is not healthy: a replica refuses it for longer than a lease",
                extra={
                    "operation": operation,
                    "error": str(error),
                    "remedy": "point redis_url at the primary, or at a name that follows it",
                },
            )
