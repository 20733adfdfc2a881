"""`DebateWorker`: takes jobs while it has free slots, runs them, reports how they ended.

Four loops on one event loop: fetch (start jobs in batches, block when there are none), report
(`reporting.py`), care (the maintenance passes), and the lease keeper's answers. Each survives any
outage of Redis (`patience.py`). Knows `WorkQueue`, not Redis; what runs is `running.py`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from aragora_q._version import __version__
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig, get_queue_config
from aragora_q.context import Executor
from aragora_q.contracts import FetchResult, Identity, WorkQueue
from aragora_q.errors import TRANSIENT_ERRORS, ConfigError
from aragora_q.maintenance import MaintenanceLoop, every, promote_pass
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.retry import RetryPolicy
from aragora_q.worker import liveness as process
from aragora_q.worker.attempt import Attempt
from aragora_q.worker.leases import LeaseKeeper, LostLease
from aragora_q.worker.outages import BACKOFF_SECONDS, OutageTracker
from aragora_q.worker.reporter import Reporter
from aragora_q.worker.runner import JobRunner

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOW_FIRST_INTERVAL = 8
"""Every so many fetches the lanes are read low to high, so that a busy high lane starves nobody."""

IDLE_SECONDS = 2.0
BURST_IDLE_SECONDS = 0.05
"""How long an idle worker blocks, or sleeps while the queue is paused, before it looks around; in burst
mode, whether it is done."""

CLOSING_SECONDS = 5.0
"""How long a stopping worker tries to get its last reports through."""

STALL_SECONDS = 10.0
"""Without a sign of life for so long (or half a lease), a loop has stalled."""


class _Stopped(Exception):
    """The worker is to stop."""


class DebateWorker:
    """Runs jobs of `queue` with `executor`, at most `max_concurrent` at once, until stopped.

    `start` returns when the worker has stopped: after `stop`, or, with `burst`, when there is no job
    left that waits, runs here, or falls due within the longest retry delay, or none may start because
    the queue is paused. `preflight` may refuse the server by an exception; it is asked when Redis first
    answers, before the worker signs on.
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
        self._config = config or getattr(queue, "config", None) or get_queue_config()
        self._queue = queue
        self.identity = Identity(worker_id or queue.consumer_name)
        self._session = queue.session(self.identity)
        self._executor = executor
        self._slots = self._config.concurrency if max_concurrent is None else max_concurrent
        self._policy = retry_policy or self._config.retry_policy()
        self._burst = burst
        self._info = info or {}
        self._preflight = preflight
        self.metrics = metrics or WorkerMetrics(self._config.queue)
        self._patience = OutageTracker(self.identity.worker_id, self.metrics)
        self.keeper: LeaseKeeper = LeaseKeeper(
            self._session.lease_renewer,
            self._lease_seconds,
            self._on_renewal,
            partial(self._patience.record_failure, "renew"),
        )
        self.metrics.concurrency.set(self._slots)
        self.metrics.loop_lag.set_function(lambda: self.keeper.loop_lag_seconds)
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()
        self._reporter = Reporter(
            self._session,
            self._patience,
            self.metrics,
            let_go=self.keeper.drop,
            on_told=self._changed.set,
        )
        self._running = JobRunner(
            self.keeper, self._reporter, self.metrics, on_end=self._changed.set
        )
        self.metrics.active.set_function(lambda: len(self._running))
        self._must_register = False
        self._must_look = False
        self._is_paused = False
        self._started_at: float | None = None
        self._last_fetch_at = time.monotonic()

    @property
    def _lease_seconds(self) -> float:
        return self._config.claim_idle_ms / 1000

    async def start(self) -> None:
        """Sign on, run jobs until stopped, drain, sign off. Raises ConfigError if the id is taken."""
        self._started_at = time.monotonic()
        try:
            with suppress(_Stopped):
                if self._preflight is not None:
                    await self._served("check", self._preflight)
                await self._register()
                await self._work()
        finally:
            self._stopping.set()
            self._stopped.set()

    async def _work(self) -> None:
        logger.info(
            "worker started", extra={"worker": self.identity.worker_id, "slots": self._slots}
        )
        self.keeper.start()
        caretaker = MaintenanceLoop(self._queue, self.identity.worker_id, self._lease_seconds)
        tasks = [
            asyncio.create_task(self._reporter.run(), name="report"),
            asyncio.create_task(caretaker.run(), name="care"),
            asyncio.create_task(every(self._lease_seconds / 2, self._look_again), name="look"),
        ]
        try:
            await self._while_all_run(self._fetch_loop(), tasks)
            await self._drain()
        except BaseException:  # our own task is cancelled, or we may not go on: hand back what runs
            self._hurrying.set()
            await self._drain()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    async def _while_all_run(
        self, fetching: Coroutine[Any, Any, None], tasks: list[asyncio.Task[Any]]
    ) -> None:
        """Fetch until it is over. A loop that dies beside it is a bug: say so, and do not work on lame."""
        fetch = asyncio.create_task(fetching, name="fetch")
        try:
            await asyncio.wait([fetch, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            with suppress(_Stopped):
                await fetch
        finally:
            self._stopping.set()
            with suppress(_Stopped):
                await fetch

    async def stop(self, *, hurry: bool = False) -> None:
        """Take no more jobs, let running ones finish within the drain time, hand back the rest.

        `hurry` hands them back at once; it may follow a `stop` that is under way. Returns when the
        worker has stopped.
        """
        self._stopping.set()
        if hurry:
            self._hurrying.set()
        if self._started_at is not None:
            await self._stopped.wait()

    def reconfigure(self, config: QueueConfig) -> None:
        """Take up the settings that may change while jobs run; the others stay as they are.

        These are slots, retry delays, drain time and the largest result.
        """
        self._slots = config.concurrency
        self.metrics.concurrency.set(self._slots)
        self._policy = config.retry_policy()
        may_change = {"drain_timeout_seconds", "max_result_bytes"}
        self._config = self._config.model_copy(update=config.model_dump(include=may_change))
        self._changed.set()

    def get_stats(self) -> dict[str, Any]:
        """What the worker did so far: `jobs_processed` counts completed, `jobs_failed` dead letters."""
        uptime = 0.0 if self._started_at is None else time.monotonic() - self._started_at
        return {
            "worker_id": self.identity.worker_id,
            "instance_id": self.identity.instance_id,
            "active_jobs": len(self._running),
            "max_concurrent": self._slots,
            "jobs_processed": self._reporter.counts["completed"],
            "jobs_failed": self._reporter.counts["failed"],
            "unreported_jobs": len(self._reporter),
            "uptime_seconds": round(uptime, 3),
            "is_draining": self._stopping.is_set(),
            "redis_error": self._patience.fault,
            "oldest_job_seconds": self._running.oldest_seconds(),
        }

    def is_healthy(self) -> bool:
        """Whether fetching, the event loop and the lease keeper all make progress, or Redis is away.

        An outage of Redis is no reason to restart a worker: it would lose its jobs and gain nothing.
        """
        now, limit = time.monotonic(), max(STALL_SECONDS, self._lease_seconds / 2)
        if self.keeper.loop_lag_seconds > limit:
            return False
        if self._patience.fault is not None:
            return True
        is_fetching = (
            now - self._last_fetch_at < limit or not self._free_slots() or self._stopping.is_set()
        )
        return is_fetching and now - self.keeper.last_answer_at < limit + self._lease_seconds

    async def _fetch_loop(self) -> None:
        turn, resume_from = 0, None
        while not self._stopping.is_set():
            await self._until(lambda: self._free_slots() or self._must_register or self._must_look)
            if self._must_register:
                await self._register()
                continue
            if self._must_look or self._patience.needs_recovery:
                await self._served("recover", self._recover)
                resume_from = None
                continue
            if resume_from:
                fetched = await self._wait_for_work(resume_from)
            else:
                turn += 1
                fetched = await self._start_jobs(low_first=turn % LOW_FIRST_INTERVAL == 0)
            resume_from = fetched.resume_from
            self._note_fetched(fetched)
            if self._burst and not fetched.jobs and await self._is_all_done(fetched):
                return
            if fetched.state == "paused":  # blocking would only wake at the next enqueue
                await self._nap(self._idle_seconds)

    async def _until(self, condition: Callable[[], object]) -> None:
        """Wait for something that the end of an attempt, a report or a renewal may bring."""
        while not condition():
            self._changed.clear()
            await self._unless_stopping(self._changed.wait())

    async def _start_jobs(self, *, low_first: bool) -> FetchResult:
        half = -(-self._slots // 2)  # while the server starts one half, the other runs and reports
        start = partial(self._session.start, min(self._free_slots(), half), low_first=low_first)
        fetched = await self._served("fetch", start)
        await self._launch(fetched.jobs)
        return fetched

    async def _wait_for_work(self, resume_from: tuple[str, ...]) -> FetchResult:
        """Block until there is work, and begin the first of it, if nothing runs here.

        A running job may block the event loop: beside it, no job is to start unheard.
        """
        wait = self._look_for_work if len(self._running) else self._begin_next
        try:
            return await self._unless_stopping(wait(resume_from))
        except _Stopped:
            self._patience.needs_recovery = True  # what was given up may have started a job
            raise
        except TRANSIENT_ERRORS as error:
            self._patience.record_failure("fetch", error)
            await self._nap(BACKOFF_SECONDS[0] * random.uniform(1, 4))  # noqa: S311 - spreads load
            return FetchResult("ok")

    async def _look_for_work(self, resume_from: tuple[str, ...]) -> FetchResult:
        await self._session.wait_for_work(resume_from, self._idle_seconds)
        return FetchResult("ok")

    async def _begin_next(self, resume_from: tuple[str, ...]) -> FetchResult:
        fetched = await self._session.start_next(resume_from, self._idle_seconds)
        await self._launch(fetched.jobs)  # here: the fetch loop would hear of them two turns later
        return fetched

    def _note_fetched(self, fetched: FetchResult) -> None:
        self._last_fetch_at = time.monotonic()
        self.metrics.last_fetch.set_to_current_time()
        if fetched.state == "unregistered":
            self._must_register = True
        if fetched.state == "paused" and not self._is_paused:
            logger.info("queue is paused", extra={"worker": self.identity.worker_id})
        self._is_paused = fetched.state == "paused"

    @property
    def _idle_seconds(self) -> float:
        return BURST_IDLE_SECONDS if self._burst else IDLE_SECONDS

    async def _is_all_done(self, fetched: FetchResult) -> bool:
        """Whether a burst is over, now that this fetch has brought no job."""
        if len(self._running) or len(self._reporter):
            return False
        if fetched.state == "paused":
            return True
        if not fetched.resume_from:
            return False
        promoted, due_seconds = await self._served("promote", partial(promote_pass, self._queue))
        if promoted:
            return False
        return due_seconds is None or due_seconds > self._policy.max_delay_seconds

    def _free_slots(self) -> int:
        """Slots to fill. Reports that wait for Redis take slots too, so that they stay bounded."""
        backlog = max(0, len(self._reporter) - self._slots)
        return max(0, self._slots - len(self._running) - backlog)

    async def _launch(self, jobs: list[Job]) -> None:
        """Begin attempts; they take their first steps before anything else is done, even a line logged."""
        if not jobs:
            return
        largest = self._config.max_result_bytes
        for job in jobs:
            self._running.launch(Attempt(job, self._executor, self._policy, self._session, largest))
        await asyncio.sleep(0)
        for job in jobs:
            self._reporter.note_started(job)

    def _on_renewal(self, state: str, gone: list[LostLease]) -> None:
        self._patience.record_success("renew")
        if state == "unregistered":
            self._must_register = True
            self._changed.set()
        self._running.give_up(gone)

    async def _look_again(self) -> None:
        self._must_look = True
        self._changed.set()

    async def _recover(self) -> None:
        """Hand back jobs that were started for us without our hearing of it.

        After a fault, all of them. Now and then, those of half a lease ago: a start that was given up
        here may be served late, after we looked. Never beside a start whose answer is on its way.
        """
        min_idle_seconds = 0 if self._patience.needs_recovery else self._lease_seconds / 2
        self._must_look = self._patience.needs_recovery = False
        returned = await self._session.recover(self._running, min_idle_seconds=min_idle_seconds)
        if returned:
            logger.info("recovered jobs whose start went unheard", extra={"jobs": len(returned)})

    async def _register(self) -> None:
        info = {
            **process.describe(),
            "version": __version__,
            "slots": str(self._slots),
            **self._info,
        }
        deadline = None
        while True:
            other = await self._served("register", self._session.registered_instance)
            dead_instance_id = other.get("instance_id", "") if process.is_known_dead(other) else ""
            sign_on = partial(self._session.register, info, dead_instance_id=dead_instance_id)
            left = await self._served("register", sign_on)
            if not left:
                self._must_register = False
                return
            deadline = (
                deadline or time.monotonic() + left
            )  # a dead lease_owner's lease is over then
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"worker id {self.identity.worker_id} is in use by pid {other.get('pid')} on "
                    f"{other.get('host')}",
                    hint="give every worker an id of its own, or leave --worker-id out",
                )
            logger.warning("worker id in use, waiting", extra={"worker": self.identity.worker_id})
            await self._nap(min(left, 1.0))

    async def _drain(self) -> None:
        if len(self._running):
            logger.info(
                "draining", extra={"jobs": len(self._running), "worker": self.identity.worker_id}
            )
        await asyncio.gather(
            self._running.drain(self._config.drain_timeout_seconds, self._hurrying),
            self._recover_given_up(),
        )

    async def _recover_given_up(self) -> None:
        """At once, not after the drain: until then, others could run it."""
        if self._patience.needs_recovery:
            with suppress(*TRANSIENT_ERRORS):
                await self._recover()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._reporter.flush()
                self._patience.needs_recovery = True
                await self._recover()
                await self.keeper.stop()  # before signing off: its heartbeat would sign us on again
                await self._session.unregister()
        except (TimeoutError, *TRANSIENT_ERRORS):
            logger.error(  # noqa: TRY400 - the cause is known
                "Redis is away: unreported jobs will be reclaimed",
                extra={"jobs": len(self._reporter), "worker": self.identity.worker_id},
            )
        await self.keeper.stop()
        stats = self.get_stats()
        logger.info(
            "worker stopped",
            extra={
                name: stats[name]
                for name in ("worker_id", "jobs_processed", "jobs_failed", "uptime_seconds")
            },
        )

    async def _served(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to `call`, however often Redis has to be asked.

        Raises _Stopped, never in the middle of a call: a start whose answer is not awaited would
        leave jobs running that nobody runs.
        """
        return await self._patience.served(what, call, self._nap)

    async def _nap(self, seconds: float) -> None:
        await self._unless_stopping(asyncio.sleep(seconds))

    async def _unless_stopping(self, waiting: Awaitable[T]) -> T:
        """The result of something that may be given up. Raises _Stopped as soon as the worker is to stop."""
        wait = asyncio.ensure_future(waiting)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((wait, stop), return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                raise _Stopped
            return wait.result()
        finally:
            stop.cancel()
            if not wait.done() or self._stopping.is_set():  # else no turn of the loop is lost on it
                wait.cancel()
                await asyncio.gather(wait, return_exceptions=True)
