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
from aragora_q.observability.worker_metrics import ENDINGS, WorkerMetrics, exemplar_of
from aragora_q.rate_limit import RateLimit
from aragora_q.tracing import Span

logger = get_logger(__name__)

LINES_PER_SECOND = 20
"""Log lines per second for jobs that start and end as expected, and as many for those that do not."""


class JobLog:
    """Log lines, metrics and counts about the jobs of one worker.

    Lines about an attempt have the ids of its span, although they are not logged inside it.
    """

    def __init__(self, worker_id: str, metrics: WorkerMetrics) -> None:
        self._worker_id = worker_id
        self._metrics = metrics
        self._lines = RateLimit(LINES_PER_SECOND)
        self._trouble_lines = RateLimit(LINES_PER_SECOND)
        self.counts: Counter[str] = Counter()
        """Reports so far, by result."""

    def started(self, job: Job, span: Span) -> None:
        """An attempt started."""
        self._metrics.queue_latency.observe(job.waited_seconds)
        if self._lines.allow():
            logger.info("job started", extra=self._fields(job, span))

    def stopped(self, job: Job, reason: str, span: Span) -> None:
        """An attempt was stopped because its lease is `lost`, or its job `cancelled`."""
        self._metrics.attempts[reason].inc()
        if reason == "lost":
            self._metrics.leases_lost.inc()
        logger.warning("job %s, attempt stopped", reason, extra=self._fields(job, span))

    def ended(
        self, job: Job, outcome: Outcome, seconds: float, result: ReportResult, span: Span
    ) -> None:
        """The queue answered the report of an attempt that ran for `seconds`."""
        status = "lost" if result == "unreported" else result
        self.counts[status] += 1
        self._metrics.attempts[status].inc()
        if status == "lost":
            self._metrics.leases_lost.inc()
        if status in ENDINGS and job.started_at is not None and job.created_at is not None:
            total_seconds = max(0.0, job.started_at - job.created_at) + seconds
            self._metrics.job_duration[status].observe(total_seconds, exemplar_of(span))
        is_expected = status in ("completed", "released")
        lines = self._lines if is_expected else self._trouble_lines
        if not lines.allow():
            return
        fields = {**self._fields(job, span), "seconds": seconds}
        if error := getattr(outcome, "error", None):
            fields["error"] = error
        if isinstance(outcome, Held):
            fields |= {"cause": outcome.cause, "reason": outcome.reason}
        if suppressed := lines.pop_suppressed():
            fields["lines_suppressed"] = suppressed
        logger.log(logging.INFO if is_expected else logging.WARNING, "job %s", status, extra=fields)

    def _fields(self, job: Job, span: Span) -> dict[str, Any]:
        return {"job": job.id, "attempt": job.attempts, "worker": self._worker_id, **span.ids}
