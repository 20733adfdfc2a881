"""How attempts ended, told: to the queue in batches, to operators in logs, metrics and counts.

The worker adds what its attempts came to; what the queue made of it is nobody's business but this
module's. Knows the session's `report`, neither slots nor running tasks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aragora_q.base import Job
from aragora_q.contracts import Failed, Report, ReportResult, WorkerSession
from aragora_q.errors import TRANSIENT_ERRORS, AragoraQError
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.rate_limit import RateLimit
from aragora_q.worker.outages import OutageTracker

logger = logging.getLogger(__name__)

LINES_PER_SECOND = 20
"""Log lines on jobs that start and end well, and again as many on those that do not."""


@dataclass(slots=True)
class _Ended:
    report: Report
    seconds: float


class Reporter:
    """The reports of one worker, on their way.

    `let_go` is called with id and fence of each job whose report was answered, `on_told` after each batch.
    """

    def __init__(
        self,
        session: WorkerSession,
        patience: OutageTracker,
        metrics: WorkerMetrics,
        *,
        let_go: Callable[[str, int], None],
        on_told: Callable[[], None],
    ) -> None:
        self._session = session
        self._patience = patience
        self._metrics = metrics
        self._let_go = let_go
        self._on_told = on_told
        self._waiting: list[_Ended] = []
        self._refused: set[str] = set()
        self._to_report = asyncio.Event()
        self._lines = RateLimit(LINES_PER_SECOND)
        self._trouble_lines = RateLimit(LINES_PER_SECOND)
        self.counts: Counter[str] = Counter()
        """Reports so far, by verdict."""

    def __len__(self) -> int:
        """How many reports have not got through yet."""
        return len(self._waiting)

    def __contains__(self, job_id: object) -> bool:
        """Whether that job ended here and the queue does not know it yet, or did not want to."""
        is_waiting = any(ended.report.job.id == job_id for ended in self._waiting)
        return is_waiting or job_id in self._refused

    def add(self, report: Report, seconds: float) -> None:
        """Report this, soon. `seconds` is how long the attempt ran."""
        self._waiting.append(_Ended(report, seconds))
        self._to_report.set()

    async def run(self) -> None:
        """Report whatever comes, until cancelled."""
        while True:
            await self._to_report.wait()
            self._to_report.clear()
            if self._waiting:
                await self._report()

    async def flush(self) -> None:
        """Report all that waits, however long it takes."""
        while self._waiting:
            await self._report()

    async def _report(self) -> None:
        batch = self._waiting[:]
        verdicts = await self._patience.served("report", lambda: self._report_or_fail(batch))
        del self._waiting[: len(batch)]
        for ended, verdict in zip(batch, verdicts, strict=True):
            self._let_go(ended.report.job.id, ended.report.job.fence)
            self._log_ended(ended, verdict)
        counts = Counter(verdicts)
        for verdict, number in counts.items():
            self._metrics.attempts[verdict].inc(number)
        self._metrics.leases_lost.inc(counts["lost"])
        self.counts += counts
        self._on_told()

    async def _report_or_fail(self, batch: list[_Ended]) -> list[ReportResult]:
        """Report; where the server refuses a report for good, fail that job, not the others.

        If it refuses even that, the job's lease runs out: it is reclaimed as if its worker had died.
        """
        try:
            return await self._session.report([ended.report for ended in batch])
        except TRANSIENT_ERRORS:
            raise
        except AragoraQError as error:
            if len(batch) > 1:
                return [verdict for each in batch for verdict in await self._report_or_fail([each])]
            [ended] = batch
            job = ended.report.job
            facts = {**self.facts(job), "error": str(error)}
            if not isinstance(ended.report.outcome, Failed):
                logger.error("report refused, failing the job", extra=facts)  # noqa: TRY400 - the cause is told
                ended.report = Report(job, Failed(f"report refused: {error}"))
                return await self._report_or_fail(batch)
            logger.error("report refused, job left to reclaim", extra=facts)  # noqa: TRY400
            self._refused.add(job.id)  # else it would be handed back uncharged, for ever
            return ["lost"]

    def note_started(self, job: Job) -> None:
        """Say that an attempt begins."""
        self._metrics.queue_latency.observe(job.waited_seconds)
        if self._refused:
            self._refused.discard(job.id)
        if self._lines.allows():
            logger.info("job started", extra=self.facts(job))

    def note_given_up(self, job: Job, why: str) -> None:
        """Say that an attempt was stopped, because its job is no longer ours: `lost` or `cancelled`."""
        self._metrics.attempts[why].inc()
        if why == "lost":
            self._metrics.leases_lost.inc()
        logger.warning("job %s, attempt stopped", why, extra=self.facts(job))

    def _log_ended(self, ended: _Ended, verdict: str) -> None:
        is_well = verdict in ("completed", "released")
        lines = self._lines if is_well else self._trouble_lines
        if not lines.allows():
            return
        facts = {**self.facts(ended.report.job), "seconds": ended.seconds}
        if error := getattr(ended.report.outcome, "error", None):
            facts["error"] = error
        if suppressed := lines.pop_suppressed():
            facts["lines_suppressed"] = suppressed
        logger.log(logging.INFO if is_well else logging.WARNING, "job %s", verdict, extra=facts)

    def facts(self, job: Job) -> dict[str, Any]:
        """What every log line on a job says."""
        worker_id = self._session.identity.worker_id
        return {"job": job.id, "attempt": job.attempts, "worker": worker_id}
