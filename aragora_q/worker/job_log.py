"""Log and count what happens to a worker's jobs: started, stopped, ended.

Log lines are rate-limited, so that a busy worker does not flood the journal; counts are complete.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from aragora_q.base import Job
from aragora_q.contracts import Held, Outcome, ReportResult
from aragora_q.observability.logs import get_logger
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.rate_limit import RateLimit

logger = get_logger(__name__)

LINES_PER_SECOND = 20
"""Log lines per second for jobs that start and end as expected, and as many for those that do not."""


class JobLog:
    """Log lines, metrics and counts about the jobs of one worker."""

    def __init__(self, worker_id: str, metrics: WorkerMetrics) -> None:
        self._worker_id = worker_id
        self._metrics = metrics
        self._lines = RateLimit(LINES_PER_SECOND)
        self._trouble_lines = RateLimit(LINES_PER_SECOND)
        self.counts: Counter[str] = Counter()
        """Reports so far, by result."""

    def started(self, job: Job) -> None:
        """An attempt started."""
        self._metrics.queue_latency.observe(job.waited_seconds)
        if self._lines.allow():
            logger.info("job started", extra=self._fields(job))

    def stopped(self, job: Job, reason: str) -> None:
        """An attempt was stopped because its lease is `lost`, or its job `cancelled`."""
        self._metrics.attempts[reason].inc()
        if reason == "lost":
            self._metrics.leases_lost.inc()
        logger.warning("job %s, attempt stopped", reason, extra=self._fields(job))

    def ended(self, job: Job, outcome: Outcome, seconds: float, result: ReportResult) -> None:
        """The queue answered the report of an attempt that ran for `seconds`."""
        status = "lost" if result == "unreported" else result
        self.counts[status] += 1
        self._metrics.attempts[status].inc()
        if status == "lost":
            self._metrics.leases_lost.inc()
        is_expected = status in ("completed", "released")
        lines = self._lines if is_expected else self._trouble_lines
        if not lines.allow():
            return
        fields = {**self._fields(job), "seconds": seconds}
        if error := getattr(outcome, "error", None):
            fields["error"] = error
        if isinstance(outcome, Held):
            fields |= {"cause": outcome.cause, "reason": outcome.reason}
        if suppressed := lines.pop_suppressed():
            fields["lines_suppressed"] = suppressed
        logger.log(logging.INFO if is_expected else logging.WARNING, "job %s", status, extra=fields)

    def _fields(self, job: Job) -> dict[str, Any]:
        return {"job": job.id, "attempt": job.attempts, "worker": self._worker_id}
