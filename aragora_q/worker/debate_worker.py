"""`DebateWorker`: builds the parts of a worker, starts them, stops them in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, TypedDict

from aragora_q._version import __version__
from aragora_q.backoff import jittered
from aragora_q.base import STALL_SECONDS
from aragora_q.config import QueueConfig
from aragora_q.context import Executor
from aragora_q.contracts import Identity
from aragora_q.errors import SERVER_ERRORS, AragoraQError
from aragora_q.finishing import finish
from aragora_q.maintenance import MaintenanceLoop, run_periodically
from aragora_q.observability.logs import get_logger
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.retry import RetryPolicy
from aragora_q.scheduler import Scheduler
from aragora_q.webhooks.deliverer import Deliverer
from aragora_q.work_queue import WorkQueue
from aragora_q.worker import liveness
from aragora_q.worker.fetcher import Fetcher
from aragora_q.worker.fitness import Fitness
from aragora_q.worker.job_log import JobLog
from aragora_q.worker.leases import LeaseKeeper
from aragora_q.worker.outages import OutageTracker
from aragora_q.worker.registration import Registration
from aragora_q.worker.reporter import Reporter
from aragora_q.worker.runner import JobRunner
from aragora_q.worker.stopping import Stopped, StopSignal

logger = get_logger(__name__)

CLOSE_TIMEOUT_SECONDS = 5.0
"""How long a stopping worker tries to deliver its last reports."""


GATES_REFRESH_SECONDS, CLOSED_REFRESH_SECONDS = 5.0, 1.0
"""How often a worker declares its budgets and limits, and reads which providers take no calls; while one takes
none, CLOSED_REFRESH_SECONDS."""


class WorkerStats(TypedDict):
    """What a worker did since it started."""

    worker_id: str
    instance_id: str
    active_jobs: int
    max_concurrent: int
    jobs_processed: int
    """Jobs completed."""
    jobs_failed: int
    """Jobs that became dead letters."""
    unreported_jobs: int
    """Outcomes that Redis has not accepted yet."""
    uptime_seconds: float
    is_draining: bool
    redis_error: str | None
    """Why Redis is unavailable at present; None while it is available."""
    oldest_job_seconds: float | None
    trouble: str | None
    """Why the worker cannot run jobs at present; None while it can."""


class DebateWorker:
    """Runs jobs of a queue with an executor until it is stopped.

    Args:
        queue: where jobs come from.
        worker_id: unique among live workers; default: the queue's `consumer_name`.
        executor: does a job's work.
        max_concurrent: jobs to run at once; default: the setting `concurrency`.
        retry_policy: delays between attempts; default: from the settings.
        burst: stop when no job runs, waits, or falls due within the longest retry delay, or when the
            queue is paused.
        config: settings; default: those of the queue.
        metrics: where to count; default: a new registry.
        info: further fields for the worker's record in Redis.
        preflight: called when Redis first answers, before the worker registers; it may refuse the
            server by raising.

    Example:
        worker = DebateWorker(queue, executor=executor, max_concurrent=3)
        await worker.start()  # until worker.stop() is called from another task

    """

    def __init__(  # noqa: PLR0913 - the parts of a worker
        self,
        queue: WorkQueue,
        worker_id: str | None = None,
        *,
        executor: Executor,
        max_concurrent: int | None = None,
        retry_policy: RetryPolicy | None = None,
        burst: bool = False,
        config: QueueConfig | None = None,
        metrics: WorkerMetrics | None = None,
        info: dict[str, str] | None = None,
        preflight: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._config = config = config or queue.config
        self._queue = queue
        self._preflight = preflight
        self._lease_seconds = config.claim_idle_ms / 1000
        self.identity = Identity(worker_id or queue.consumer_name)
        self.metrics = metrics or WorkerMetrics(config.queue)
        self._session = queue.session(self.identity)
        self._stop = StopSignal()
        self._abort = asyncio.Event()
        self._stopped = asyncio.Event()
        self._has_declared = asyncio.Event()
        self._started_at: float | None = None
        self._task: asyncio.Task[Any] | None = None
        concurrency = config.concurrency if max_concurrent is None else max_concurrent
        policy = retry_policy or config.retry_policy()
        self._outages = OutageTracker(
            self.identity.worker_id, self.metrics, max_refusal_seconds=self._lease_seconds
        )
        self._fitness = Fitness(self.identity.worker_id)
        self._log = JobLog(self.identity.worker_id, self.metrics)
        self._gates = queue.gates(self.identity.worker_id)
        self.keeper = LeaseKeeper(
            self._session.lease_renewer,
            self._lease_seconds,
            self._gates.permit_renewer if self._gates else None,
        )
        self._reporter = Reporter(self._session, self._outages)
        self._registration = Registration(self._session, self._outages)
        self._runner = JobRunner(
            self._session,
            executor,
            self._reporter,
            self.keeper,
            self._fitness,
            self._log,
            self.metrics,
            config,
            concurrency=concurrency,
            policy=policy,
            is_ending=self._is_cancelled,
            gates=self._gates,
        )
        self._burst = burst
        self._maintenance = MaintenanceLoop(
            queue, self.identity.worker_id, self._lease_seconds, self._gates
        )
        self._scheduler = Scheduler(queue.schedules, config)
        self._deliverer = Deliverer(
            queue, config, self.metrics, lambda: self._maintenance.registered_workers
        )
        self._fetcher = Fetcher(
            queue,
            self._maintenance,
            self._session,
            self.keeper,
            self._runner,
            reporter=self._reporter,
            registration=self._registration,
            outages=self._outages,
            fitness=self._fitness,
            metrics=self.metrics,
            stop=self._stop,
            worker_info={
                **liveness.describe(),
                "version": __version__,
                "concurrency": str(concurrency),
                **(info or {}),
            },
            lease_seconds=self._lease_seconds,
            max_retry_delay_seconds=policy.max_delay_seconds,
            burst=burst,
            gates=self._gates,
        )
        self.metrics.loop_lag.set_function(lambda: self.keeper.loop_lag_seconds)

    async def start(self) -> None:
        """Register, run jobs until stopped, drain, unregister.

        Raises:
            ConfigError: the worker id is in use by a live worker, or the queue's data was written by a newer
                version. No job was started.

        """
        self._started_at = time.monotonic()
        self._task = asyncio.current_task()
        self._queue.before_close.add(self._stop_before_close)
        try:
            with suppress(Stopped):
                if self._preflight is not None:
                    await self._stop.guard(
                        self._outages.retry_until_available(
                            "check", self._preflight, self._stop.sleep
                        )
                    )
                await self._fetcher.register()
                await self._work()
        finally:
            self._queue.before_close.discard(self._stop_before_close)
            self._stop.set()
            self._stopped.set()

    async def stop(self, *, immediately: bool = False) -> None:
        """Start no more jobs, let running ones finish within the drain time, release the rest.

        `immediately` releases them at once; it may follow a `stop` that is under way. Returns when the
        worker has stopped.
        """
        self._stop.set()
        if immediately:
            self._abort.set()
        if self._started_at is not None:
            await self._stopped.wait()

    async def _stop_before_close(self) -> None:
        """Stop at once; a worker whose event loop was closed under it has stopped already."""
        if self._task is not None and not self._task.get_loop().is_closed():
            await self.stop(immediately=True)

    def _is_cancelled(self) -> bool:
        return self._task is not None and self._task.cancelling() > 0

    def reconfigure(self, config: QueueConfig) -> None:
        """Apply the settings that may change while jobs run; the others stay as they are.

        These are concurrency, retry delays, drain time, the largest result, budgets, limits of providers,
        schedules and webhooks.
        """
        self._runner.reconfigure(config)
        names = ("drain_timeout_seconds", "budgets", "providers")
        self._config = self._config.model_copy(
            update={name: getattr(config, name) for name in names}
        )
        if self._gates is not None:
            self._gates.reconfigure(self._config)
        self._scheduler.reconfigure(config)
        self._deliverer.reconfigure(config)

    def get_stats(self) -> WorkerStats:
        """Return what the worker did so far and does now."""
        uptime = 0.0 if self._started_at is None else time.monotonic() - self._started_at
        return {
            "worker_id": self.identity.worker_id,
            "instance_id": self.identity.instance_id,
            "active_jobs": len(self._runner),
            "max_concurrent": self._runner.concurrency,
            "jobs_processed": self._log.counts["completed"],
            "jobs_failed": self._log.counts["failed"],
            "unreported_jobs": len(self._reporter),
            "uptime_seconds": round(uptime, 3),
            "is_draining": self._stop.is_set(),
            "redis_error": self._outages.last_error,
            "oldest_job_seconds": self._runner.oldest_seconds(),
            "trouble": self._fitness.trouble,
        }

    def is_healthy(self) -> bool:
        """Return True while the worker makes progress, or Redis is unavailable.

        False if the worker has stalled, cannot run jobs (another process or machine may), or is refused by
        a replica for longer than a lease.
        """
        cannot_work = self._fitness.trouble is not None or self._outages.is_refused_too_long
        return not (cannot_work or self.has_stalled())

    def has_stalled(self) -> bool:
        """Return True if fetch, event loop or lease keeper make no progress although Redis is available.

        An outage of Redis is no reason to restart a worker: it would lose its jobs and gain nothing.
        """
        now, limit = time.monotonic(), max(STALL_SECONDS, self._lease_seconds / 2)
        if self.keeper.loop_lag_seconds > limit:
            return True
        if self._outages.last_error is not None or self._registration.is_id_in_use:
            return False
        # Each call has its whole time from the moment when it could be made.
        available_since = self._outages.available_since
        fetch_due_at = max(
            self._fetcher.last_fetch_at, self._runner.slot_free_since, available_since
        )
        is_fetching = (
            now - fetch_due_at < limit + self._fetcher.idle_seconds
            or not self._runner.free_slots()
            or self._stop.is_set()
        )
        renewed_at = max(self.keeper.last_answer_at, available_since)
        is_renewing = now - renewed_at < limit + self._lease_seconds
        return not (is_fetching and is_renewing)

    @property
    def stuck_jobs(self) -> list[str]:
        """Ids of jobs whose attempts did not end when the worker stopped; their tasks still run."""
        return self._runner.stuck_jobs

    async def _work(self) -> None:
        logger.info(
            "worker started",
            extra={"worker": self.identity.worker_id, "concurrency": self._runner.concurrency},
        )
        self.keeper.start()
        fetch = asyncio.create_task(self._fetch(), name="fetch")
        background = [
            asyncio.create_task(self._reporter.run(), name="report"),
            asyncio.create_task(self._apply_renewals(), name="renewals"),
            asyncio.create_task(self._maintain(), name="maintenance"),
            asyncio.create_task(
                run_periodically(self._lease_seconds / 2, self._fetcher.recheck_orphans),
                name="orphan-check",
            ),
            asyncio.create_task(self._follow_gates(), name="gates"),
            asyncio.create_task(self._scheduler.run(), name="schedules"),
            asyncio.create_task(self._deliverer.run(), name="webhooks"),
        ]
        try:
            await asyncio.wait([fetch, *background], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._abort.set()
            raise
        finally:
            try:
                await finish(partial(self._shut_down, fetch, background), self._abort.set)
            finally:
                await self._close()

    async def _shut_down(
        self, fetch: asyncio.Task[None], background: list[asyncio.Task[Any]]
    ) -> None:
        """Stop fetching, drain, deliver the last reports, unregister: in this order. It can be repeated.

        A background task never ends by itself: if one did, it failed, and so does the worker.
        """
        self._stop.set()
        failed = [task for task in background if task.done()]
        if failed:
            self._abort.set()
        await asyncio.wait([fetch])
        if not fetch.cancelled() and fetch.exception():
            self._abort.set()
        await self._drain()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._leave()
        for task in (*failed, fetch):
            if not task.cancelled():
                task.result()

    async def _fetch(self) -> None:
        """Fetch jobs, once it is known which providers take no calls."""
        with suppress(Stopped):
            await self._stop.guard(self._refresh_gates())
        if self._burst and not self._stop.is_set():  # it may be over before maintenance is due
            await self._maintenance.unhold()
            with suppress(*SERVER_ERRORS):
                await self._scheduler.step()
        self._has_declared.set()
        await self._fetcher.run()

    async def _maintain(self) -> None:
        """Run maintenance, once budgets are declared: held jobs are freed by what is left of them."""
        await self._has_declared.wait()
        await self._maintenance.run()

    async def _follow_gates(self) -> None:
        while True:
            is_closed = self._gates is not None and self._gates.closed_agents()
            seconds = CLOSED_REFRESH_SECONDS if is_closed else GATES_REFRESH_SECONDS
            await asyncio.sleep(jittered(seconds, 0.8, 1.2))
            await self._refresh_gates()

    async def _refresh_gates(self) -> None:
        """Declare budgets and limits, and read which providers take no calls now."""
        if self._gates is not None:
            with suppress(*SERVER_ERRORS):
                await self._gates.refresh()

    async def _apply_renewals(self) -> None:
        async for renewal in self.keeper.results():
            if renewal.error is not None:
                self._outages.record_failure("renew", renewal.error)
                continue
            self._outages.record_success("renew")
            self._runner.cancel(renewal.lost)
            if renewal.state == "unregistered":
                self._registration.request()
                self._runner.wake()

    async def _drain(self) -> None:
        if len(self._runner):
            logger.info(
                "draining", extra={"jobs": len(self._runner), "worker": self.identity.worker_id}
            )
        await asyncio.gather(
            self._runner.drain(self._config.drain_timeout_seconds, self._abort),
            self._release_orphans_now(),
        )

    async def _deliver_last_messages(self) -> None:
        """Deliver what the last reports put in the outbox, unless the worker is to stop at once."""
        if self._abort.is_set():
            return
        delivering = asyncio.create_task(self._deliverer.finish())
        abort = asyncio.create_task(self._abort.wait())
        await asyncio.wait([delivering, abort], return_when=asyncio.FIRST_COMPLETED)
        for task in (delivering, abort):
            task.cancel()
        await asyncio.gather(delivering, abort, return_exceptions=True)

    async def _release_orphans_now(self) -> None:
        """At once, not after the drain: until then, another worker could run them."""
        if self._outages.needs_recovery:
            with suppress(AragoraQError):  # it is repeated when all attempts have ended
                await self._fetcher.release_orphans()

    async def _leave(self) -> None:
        """Deliver the last reports and unregister, if Redis answers within CLOSE_TIMEOUT_SECONDS."""
        retry = self._outages.retry_until_available
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._reporter.flush()
                self._outages.request_recovery()
                await retry("release orphans", self._fetcher.release_orphans)
                await self.keeper.stop()
                await retry("unregister", self._session.unregister)
        except (TimeoutError, AragoraQError):
            logger.error(  # noqa: TRY400 - the cause is known
                "Redis unavailable at shutdown: unreported jobs will be reclaimed",
                extra={"jobs": len(self._reporter), "worker": self.identity.worker_id},
            )
        else:
            await self._deliver_last_messages()

    async def _close(self) -> None:
        # Last in, first out; each is called, even if one raises or this is cancelled.
        async with AsyncExitStack() as closing:
            if self._gates is not None:
                closing.push_async_callback(self._gates.close)
            closing.push_async_callback(self.keeper.stop)
            closing.callback(self._reporter.give_up)
            closing.push_async_callback(self._deliverer.close)
        stats = self.get_stats()
        logger.info(
            "worker stopped",
            extra={
                "worker": stats["worker_id"],
                "jobs_processed": stats["jobs_processed"],
                "jobs_failed": stats["jobs_failed"],
                "uptime_seconds": stats["uptime_seconds"],
            },
        )
