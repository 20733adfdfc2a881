"""The attempts that a worker has under way: launched, held by the lease keeper, ended or given up.

The worker decides when to launch, the reporter hears how attempts ended. Knows tasks and leases,
neither slots nor how jobs are fetched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from aragora_q.contracts import Outcome, Report
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.worker.attempt import Attempt
from aragora_q.worker.leases import LeaseKeeper, LostLease
from aragora_q.worker.reporter import Reporter

CANCEL_TIMEOUT_SECONDS = 5.0
"""How long attempts have to end once they are cancelled; those that do not are left behind."""


@dataclass
class _Running:
    attempt: Attempt
    task: asyncio.Task[Outcome | None]
    started_at: float


class JobRunner:
    """Attempts by job id. `on_end` is called whenever one has ended, however it did."""

    def __init__(
        self,
        keeper: LeaseKeeper,
        reporter: Reporter,
        metrics: WorkerMetrics,
        on_end: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self._reporter = reporter
        self._metrics = metrics
        self._on_end = on_end
        self._running: dict[str, _Running] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._running)

    def __contains__(self, job_id: object) -> bool:
        """Whether that job runs here, or ended here and the queue has not been told.

        Asked anew for every job, since a start may be answered meanwhile.
        """
        return job_id in self._running or job_id in self._reporter

    def oldest_seconds(self) -> float | None:
        """How long the one that began first has been running; None if there is none."""
        if not self._running:
            return None
        return time.monotonic() - min(running.started_at for running in self._running.values())

    def launch(self, attempt: Attempt) -> None:
        """Begin an attempt of a job that was started for this worker."""
        job = attempt.job
        if older := self._running.pop(
            job.id, None
        ):  # ours again, while our lost attempt still runs
            self._give_up(older, "lost")
        task = asyncio.get_running_loop().create_task(attempt.run())  # the short way: once per job
        running = _Running(attempt, task, time.monotonic())
        self._running[job.id] = running
        self._keeper.hold(job.id, job.fence)
        task.add_done_callback(partial(self._finish, running))

    def _finish(self, ran: _Running, task: asyncio.Task[Outcome | None]) -> None:
        job = ran.attempt.job
        if self._running.get(job.id) is ran:
            del self._running[job.id]
        seconds = time.monotonic() - ran.started_at
        self._metrics.attempt_duration.observe(seconds)
        outcome = ran.attempt.interrupted() if task.cancelled() else task.result()
        if outcome is None or ran.attempt.is_abandoned:
            self._keeper.drop(job.id, job.fence)
        else:
            self._reporter.add(Report(job, outcome), seconds)
        self._on_end()

    def give_up(self, gone: list[LostLease]) -> None:
        """Stop attempts whose leases are no more."""
        for job_id, fence, why in gone:
            running = self._running.get(job_id)
            if running is not None and running.attempt.job.fence == fence:
                self._give_up(running, why)

    def _give_up(self, running: _Running, why: str) -> None:
        """Stop an attempt whose job is no longer ours; whatever it would still say is not reported."""
        running.attempt.abandon()
        running.task.cancel()
        self._reporter.note_given_up(running.attempt.job, why)

    async def drain(self, timeout_seconds: float, hurrying: asyncio.Event) -> None:
        """Let attempts end by themselves until the time is up or `hurrying` set; release the rest."""
        hurry = asyncio.create_task(hurrying.wait())
        deadline = time.monotonic() + timeout_seconds
        while self._running and not hurrying.is_set() and time.monotonic() < deadline:
            tasks = [running.task for running in self._running.values()]
            await asyncio.wait(
                [*tasks, hurry],
                timeout=deadline - time.monotonic(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        hurry.cancel()
        leftover = list(self._running.values())
        for running in leftover:
            running.attempt.release()
            running.task.cancel()
        if leftover:
            await asyncio.wait(
                [running.task for running in leftover], timeout=CANCEL_TIMEOUT_SECONDS
            )
