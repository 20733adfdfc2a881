"""Run started jobs: one task per job, from its first step until its outcome is on the way to the queue.

The fetcher launches jobs and waits for free slots; the lease keeper's answers stop attempts. Knows
attempts, leases and the reporter, not how jobs are fetched.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aragora_q.base import Job
from aragora_q.config import QueueConfig
from aragora_q.context import Executor
from aragora_q.contracts import (
    Completed,
    Gates,
    Lease,
    Outcome,
    Released,
    ReportResult,
    Retry,
    WorkerSession,
)
from aragora_q.observability.logs import get_logger
from aragora_q.observability.worker_metrics import WorkerMetrics, exemplar_of
from aragora_q.retry import RetryPolicy
from aragora_q.tracing import NO_SPAN, Span
from aragora_q.worker.attempt import Attempt, CancelReason
from aragora_q.worker.attempt_spans import AttemptSpans
from aragora_q.worker.fitness import Fitness
from aragora_q.worker.job_log import JobLog
from aragora_q.worker.leases import LeaseKeeper, LostLease
from aragora_q.worker.reporter import Reporter

logger = get_logger(__name__)

CANCEL_TIMEOUT_SECONDS = 5.0
"""How long cancelled attempts may take to end; the jobs of those that do not are released anyway."""

MAX_UNREPORTED = 1_000
"""How many jobs whose report was refused for good are remembered, so that they are left to reclaim."""


@dataclass(slots=True, eq=False)
class _RunningJob:
    attempt: Attempt
    started_at: float = field(default_factory=time.monotonic)
    task: asyncio.Task[None] | None = None  # the loop keeps only weak references
    span: Span = NO_SPAN

    @property
    def lease(self) -> Lease:
        return self.attempt.job.id, self.attempt.job.fence


class JobRunner:
    """The jobs a worker runs, at most `concurrency` at once; `len` is how many execute now."""

    def __init__(  # noqa: PLR0913 - the parts of a running job
        self,
        session: WorkerSession,
        executor: Executor,
        reporter: Reporter,
        keeper: LeaseKeeper,
        fitness: Fitness,
        log: JobLog,
        metrics: WorkerMetrics,
        config: QueueConfig,
        *,
        concurrency: int,
        policy: RetryPolicy,
        is_ending: Callable[[], bool] = lambda: False,
        gates: Gates | None = None,
    ) -> None:
        self.concurrency = concurrency
        self._session = session
        self._executor = executor
        self._reporter = reporter
        self._keeper = keeper
        self._fitness = fitness
        fitness.on_change = self._note_free_slot
        self._log = log
        self._metrics = metrics
        self._policy = policy
        self._is_ending = is_ending
        self._gates = gates
        self._max_result_bytes = config.max_result_bytes
        self._spans = AttemptSpans(session, config.queue)
        self._jobs: dict[str, _RunningJob] = {}
        self._executing: set[_RunningJob] = set()
        self._left_to_reclaim: deque[Lease] = deque(maxlen=MAX_UNREPORTED)
        self._slots_changed = asyncio.Event()
        self.slot_free_since = -math.inf
        """When a slot last became free, on the monotonic clock."""
        metrics.concurrency.set(concurrency)
        metrics.active.set_function(lambda: len(self._executing))

    def __len__(self) -> int:
        return len(self._executing)

    def owns(self, lease: Lease) -> bool:
        """Return True if this worker knows that it owns the lease; False for the lease of an orphan."""
        running = self._jobs.get(lease[0])
        is_known = running is not None and running.lease == lease
        return is_known or lease in self._left_to_reclaim

    def reconfigure(self, config: QueueConfig) -> None:
        """Apply concurrency, retry delays and the largest result of `config` to jobs started from now on."""
        self.concurrency = config.concurrency
        self._policy = config.retry_policy()
        self._max_result_bytes = config.max_result_bytes
        self._metrics.concurrency.set(config.concurrency)
        self._note_free_slot()

    def free_slots(self) -> int:
        """Return the number of jobs that may start now.

        Reports that wait for Redis beyond `concurrency` take slots too, so that they stay bounded.
        """
        backlog = max(0, len(self._reporter) - self.concurrency)
        free = max(0, self.concurrency - len(self._executing) - backlog)
        return free if self._fitness.trouble is None else min(free, self._fitness.trial_slots())

    def slots_changed(self) -> Coroutine[Any, Any, bool]:
        """Return a wait for the next change: a slot may have become free since this call."""
        self._slots_changed.clear()  # here, not when the wait begins: that may be a turn later
        return self._slots_changed.wait()

    def wake(self) -> None:
        """End a wait for slots: the fetcher has something else to do."""
        self._slots_changed.set()

    def oldest_seconds(self) -> float | None:
        """Return how long the oldest executing job has been running; None if none is."""
        if not self._executing:
            return None
        return time.monotonic() - min(running.started_at for running in self._executing)

    async def launch(self, jobs: Sequence[Job]) -> None:
        """Start attempts. They take their first step before anything else happens, even a log line."""
        if not jobs:
            return
        create_task = asyncio.get_running_loop().create_task
        self._fitness.started()
        launched = []
        for job in jobs:
            running = _RunningJob(
                Attempt(
                    job,
                    self._executor,
                    self._policy,
                    self._session,
                    self._max_result_bytes,
                    self._is_ending,
                    self._gates,
                    self._metrics.calls,
                )
            )
            if older := self._jobs.get(job.id):
                self._stop(older, "lost")  # ours again, while its lost attempt still runs
            self._jobs[job.id] = running
            self._executing.add(running)
            self._keeper.add(job.id, job.fence)
            running.task = create_task(self._run(running))
            launched.append(running)
        await asyncio.sleep(0)
        for running in launched:
            self._log.started(running.attempt.job, running.span)

    async def _run(self, running: _RunningJob) -> None:
        attempt, job = running.attempt, running.attempt.job
        is_reported = False
        try:
            with self._spans.span(job) as span:
                running.span = span
                self._spans.began(job, span)
                outcome = self._judged(attempt, await attempt.run())
                self._spans.ended(attempt, outcome, span)
            seconds = time.monotonic() - running.started_at
            self._metrics.attempt_duration.observe(seconds, exemplar_of(span))
            self._free_slot(running)
            if outcome is not None:
                answered = partial(self._answered, running, outcome, seconds)
                self._reporter.report(job, outcome, answered)
                is_reported = True
        finally:
            if not is_reported:
                self._free_slot(running)
                self._forget(running)

    def _judged(self, attempt: Attempt, outcome: Outcome | None) -> Outcome | None:
        """Return the outcome, charged if a trouble is the job's and not this worker's."""
        job = attempt.job
        if isinstance(outcome, Completed):
            self._fitness.succeeded(job.id)
        if attempt.trouble is None or self._fitness.failed(job.id, attempt.trouble):
            return outcome
        text = f"{attempt.trouble} (only this job: the worker completes others)"
        return Retry(text, self._policy.delay_seconds(job.attempts - 1))

    def _answered(
        self, running: _RunningJob, outcome: Outcome, seconds: float, result: ReportResult | None
    ) -> None:
        """Act on the queue's answer: until then, the job's lease is renewed, and it may take a slot."""
        self._note_free_slot()
        self._forget(running)
        if result is not None:
            self._note_result(running, outcome, seconds, result)

    def _note_result(
        self, running: _RunningJob, outcome: Outcome, seconds: float, result: ReportResult
    ) -> None:
        if result == "unreported":
            self._left_to_reclaim.append(running.lease)
        self._log.ended(running.attempt.job, outcome, seconds, result, running.span)

    def _free_slot(self, running: _RunningJob) -> None:
        """Count a slot as free: when the attempt has ended, not when Redis has its outcome."""
        self._executing.discard(running)
        self._note_free_slot()

    def _note_free_slot(self) -> None:
        self.slot_free_since = time.monotonic()
        self._slots_changed.set()

    def _forget(self, running: _RunningJob) -> None:
        job = running.attempt.job
        if self._jobs.get(job.id) is running:  # a newer attempt keeps its own lease
            del self._jobs[job.id]
            self._keeper.remove(job.id)

    def cancel(self, lost: Iterable[LostLease]) -> None:
        """Stop attempts whose lease is lost or whose job was cancelled."""
        for job_id, fence, reason in lost:
            running = self._jobs.get(job_id)
            if running is not None and running.attempt.job.fence == fence:
                self._stop(running, reason)

    def _stop(self, running: _RunningJob, reason: CancelReason) -> None:
        """Stop an attempt that no longer owns its job; its outcome is not reported."""
        if running in self._executing and not running.attempt.is_abandoned:
            running.attempt.cancel(reason)
            self._log.stopped(running.attempt.job, reason, running.span)
        self._forget(running)

    async def drain(self, timeout_seconds: float, abort: asyncio.Event) -> None:
        """Wait up to `timeout_seconds` for attempts to end, or until `abort` is set; cancel the rest.

        The jobs of cancelled attempts are reported as released, also of those that do not end.
        """
        aborted = asyncio.create_task(abort.wait())
        await self._wait_until_idle(timeout_seconds, aborted)
        aborted.cancel()
        for running in self._executing:
            running.attempt.cancel("released")
        await self._wait_until_idle(CANCEL_TIMEOUT_SECONDS)
        for running in list(self._executing):
            self._spans.abandon(running.attempt, running.span)
            self._release(running)
        await self._spans.finish()

    async def _wait_until_idle(
        self, timeout_seconds: float, abort: asyncio.Task[Any] | None = None
    ) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self._executing and (left := deadline - time.monotonic()) > 0:
            if abort is not None and abort.done():
                return
            changed = asyncio.create_task(self.slots_changed())
            waiting = {changed, abort} if abort is not None else {changed}
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()

    def _release(self, running: _RunningJob) -> None:
        """Release the job of an attempt that does not stop; whatever it still returns is dropped."""
        job = running.attempt.job
        if running.attempt.is_abandoned:
            return
        running.attempt.cancel("lost")
        logger.error(
            "attempt does not stop, its job is released",
            extra={"job": job.id, "attempt": job.attempts, **running.span.ids},
        )
        seconds, released = time.monotonic() - running.started_at, Released()

        def answered(result: ReportResult | None) -> None:  # the attempt, which still runs, is kept
            if result is not None:
                self._note_result(running, released, seconds, result)

        self._reporter.report(job, released, answered)

    @property
    def stuck_jobs(self) -> list[str]:
        """Ids of jobs whose attempts did not end when they were cancelled."""
        return [running.attempt.job.id for running in self._executing]
