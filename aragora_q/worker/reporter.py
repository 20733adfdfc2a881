"""Report outcomes of attempts to the queue in batches, until Redis accepts them.

The runner calls `report` for each job and learns the answer later. Knows the session's `report`, neither
slots nor attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aragora_q.base import Job
from aragora_q.contracts import Failed, Outcome, Report, ReportResult, WorkerSession
from aragora_q.errors import TRANSIENT_ERRORS, AragoraQError
from aragora_q.observability.logs import get_logger
from aragora_q.worker.outages import OutageTracker

logger = get_logger(__name__)


OnAnswer = Callable[[ReportResult | None], None]


class Reporter:
    """Outcomes on their way to the queue; `len` is how many it has not answered yet."""

    def __init__(self, session: WorkerSession, outages: OutageTracker) -> None:
        self._session = session
        self._outages = outages
        self._pending: list[tuple[Report, OnAnswer]] = []
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def report(self, job: Job, outcome: Outcome, on_answer: OnAnswer) -> None:
        """Send the outcome with the next batch; `on_answer` gets what the queue made of it.

        That may take as long as Redis is unavailable; it gets None if the report is given up. Needs `run`
        or `flush` to make progress. No task waits for the answer, which would make a short job a tenth
        more expensive.
        """
        self._pending.append((Report(job, outcome), on_answer))
        self._wake.set()

    async def run(self) -> None:
        """Send batches until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._pending:
                await self._send_batch()

    async def flush(self) -> None:
        """Send all pending reports, however long Redis is unavailable."""
        while self._pending:
            await self._send_batch()

    def give_up(self) -> None:
        """Wait no longer for reports that were not accepted; their jobs will be reclaimed."""
        for _, on_answer in self._pending:
            on_answer(None)

    async def _send_batch(self) -> None:
        batch = self._pending[:]
        reports = [report for report, _ in batch]
        results = await self._outages.retry_until_available("report", lambda: self._send(reports))
        del self._pending[: len(batch)]
        for (_, on_answer), result in zip(batch, results, strict=True):
            on_answer(result)

    async def _send(self, batch: list[Report]) -> list[ReportResult]:
        """Send a batch; if the server rejects one report for good, fail that job, not the others.

        If it rejects even the failure, the job is left to reclaim, as if its worker had died.
        """
        try:
            return await self._session.report(batch)
        except TRANSIENT_ERRORS:
            raise
        except AragoraQError as error:
            if len(batch) > 1:
                return [result for report in batch for result in await self._send([report])]
            [report] = batch
            fields = {"job": report.job.id, "error": str(error)}
            outcome, refused = report.outcome, f"report refused: {error}"
            if not isinstance(outcome, Failed):
                logger.error("report refused, failing the job", extra=fields)  # noqa: TRY400 - no traceback: the cause is in the line
                report.outcome = Failed(refused)
                return await self._send(batch)
            if outcome.result is not None:
                logger.error("report refused, leaving out the partial result", extra=fields)  # noqa: TRY400
                text = f"partial result left out ({refused}); {outcome.error}"
                report.outcome = Failed(text)
                return await self._send(batch)
            logger.error("report refused, job left to reclaim", extra=fields)  # noqa: TRY400
            return ["unreported"]
