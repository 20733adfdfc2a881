"""Start jobs while there are free slots; block while none are waiting.

One loop per worker. A call that starts jobs is abandoned only if it waits for work when the worker stops,
because its reply names jobs that this worker has to run. If a reply may be lost, the jobs that it would
have named (orphans) are released.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from aragora_q.backoff import jittered
from aragora_q.base import Job
from aragora_q.contracts import MAX_STARTS, AskedAgent, FetchResult, Gates, WorkerSession
from aragora_q.errors import SERVER_ERRORS, TRANSIENT_ERRORS, AragoraQError
from aragora_q.maintenance import MaintenanceLoop, promote_pass
from aragora_q.observability.logs import get_logger
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.work_queue import WorkQueue
from aragora_q.worker.fitness import Fitness
from aragora_q.worker.leases import LeaseKeeper
from aragora_q.worker.outages import OutageTracker
from aragora_q.worker.registration import Registration
from aragora_q.worker.reporter import Reporter
from aragora_q.worker.runner import JobRunner
from aragora_q.worker.stopping import Stopped, StopSignal

logger = get_logger(__name__)

T = TypeVar("T")

LANE_SHARES = {"high": 6, "normal": 1, "low": 1}
"""Of eight fetches, how many read a lane first, on average. A busy lane gets at least this share of starts."""

IDLE_SECONDS = 5.0
MAX_IDLE_SECONDS = 30.0
WORKERS_PER_IDLE_SECOND = 20
BURST_IDLE_SECONDS = 0.05
"""One wait for work lasts IDLE_SECONDS; in a fleet of more than 100 workers longer, because many of them look:
a second per WORKERS_PER_IDLE_SECOND, up to MAX_IDLE_SECONDS; in burst mode BURST_IDLE_SECONDS."""

PAUSED_SECONDS = 2.0
"""How often a worker looks whether a paused queue was resumed."""

CLOSED_SECONDS = 1.0
"""How long a worker waits at most, after it put all jobs off that it could have started."""

AHEAD_SECONDS = 0.1
"""Jobs block the event loop if the first steps of those that one call started take longer."""

UNAVAILABLE_SECONDS = 0.05
"""Delay after a wait for work that failed, times 1 to 4."""


class Fetcher:
    """The fetch loop. `run` ends when the worker stops or, in burst mode, when no job is left."""

    def __init__(  # noqa: PLR0913 - what a fetch depends on
        self,
        queue: WorkQueue,
        maintenance: MaintenanceLoop,
        session: WorkerSession,
        keeper: LeaseKeeper,
        runner: JobRunner,
        *,
        reporter: Reporter,
        registration: Registration,
        outages: OutageTracker,
        fitness: Fitness,
        metrics: WorkerMetrics,
        stop: StopSignal,
        worker_info: dict[str, str],
        lease_seconds: float,
        max_retry_delay_seconds: float,
        burst: bool,
        gates: Gates | None = None,
    ) -> None:
        self._queue = queue
        self._maintenance = maintenance
        self._session = session
        self._keeper = keeper
        self._runner = runner
        self._reporter = reporter
        self._registration = registration
        self._outages = outages
        self._fitness = fitness
        self._metrics = metrics
        self._stop = stop
        self._worker_info = worker_info
        self._lease_seconds = lease_seconds
        self._max_retry_delay_seconds = max_retry_delay_seconds
        self._burst = burst
        self._gates = gates
        self._needs_orphan_check = False
        self._recheck_until = 0.0
        self._is_paused = False
        self._is_empty = False
        self._max_batch = MAX_STARTS  # 1 after a call that failed, doubled by each success
        self._launch_seconds = math.inf
        self.last_fetch_at = time.monotonic()
        """When Redis last answered a request for jobs, on the monotonic clock."""

    async def register(self) -> None:
        """Register the worker. Raises ConfigError if a live worker uses its id, Stopped when stopping."""
        await self._registration.register(self._worker_info, self._stop.sleep)

    async def run(self) -> None:
        """Fetch jobs until the worker stops or the burst is over."""
        with suppress(Stopped):
            is_over = False
            while not is_over:
                is_over = await self._step()
            await self._note_held()

    @property
    def idle_seconds(self) -> float:
        """How long one wait for work lasts."""
        if self._burst:
            return BURST_IDLE_SECONDS
        scaled = self._maintenance.registered_workers / WORKERS_PER_IDLE_SECOND
        return min(max(IDLE_SECONDS, scaled), MAX_IDLE_SECONDS)

    async def recheck_orphans(self) -> None:
        """Look for orphans again if a start was abandoned lately: it may have reached the server late."""
        if time.monotonic() < self._recheck_until:
            self._needs_orphan_check = True
            self._runner.wake()

    async def _step(self) -> bool:
        """Do what is due next; return True when a burst is over."""
        while not (self._runner.free_slots() or self._has_duty()):
            if self._burst:
                self._fitness.raise_if_lasting()
            await self._stop.guard(self._runner.slots_changed())
        if self._stop.is_set():
            raise Stopped
        if self._registration.is_needed:
            await self.register()
            return False
        if self._has_duty():
            await self._retry("release orphans", self.release_orphans)
            self._is_empty = False
            return False
        fetched = await (self._wait_for_work() if self._is_empty else self._start_jobs())
        self._is_empty = fetched.state == "empty"
        self._note(fetched)
        if self._burst and not fetched.jobs and await self._is_burst_over(fetched):
            return True
        if fetched.state == "paused":  # resuming wakes no one
            await self._stop.sleep(min(PAUSED_SECONDS, self.idle_seconds))
        if fetched.put_off and not fetched.jobs:
            opens_seconds = min(self._closed_agents().values(), default=0.0)
            await self._stop.sleep(min(CLOSED_SECONDS, opens_seconds))
        return False

    def _closed_agents(self) -> Mapping[AskedAgent, float]:
        """Return the agents whose jobs would be started in vain, and for how many seconds."""
        return self._gates.closed_agents() if self._gates is not None else {}

    def _has_duty(self) -> bool:
        needs_orphan_check = self._needs_orphan_check or self._outages.needs_recovery
        return self._registration.is_needed or needs_orphan_check

    async def _start_jobs(self) -> FetchResult:
        """Start jobs. While many wait, Redis starts the next ones before these run."""
        limit = self._batch(taken=0)
        fetched = await self._retry("fetch", partial(self._start, limit))
        while 0 < limit == len(fetched.jobs) and self._may_start_ahead():
            next_limit = self._batch(taken=limit)
            if next_limit < limit:
                break  # rather a larger batch once these jobs run
            start = self._retry("fetch", partial(self._start, next_limit))
            ahead = asyncio.create_task(start, name="fetch-ahead")
            await self._launch(fetched.jobs)
            self._note(fetched)
            fetched = await ahead  # also when the worker stops: the reply names jobs to run
            limit = next_limit
        await self._launch(fetched.jobs)
        return fetched

    def _batch(self, taken: int) -> int:
        """Return how many jobs to start with one call; `taken` free slots are for those started before."""
        half = -(-self._runner.concurrency // 2)  # Redis starts one half while the other one runs
        return min(self._runner.free_slots() - taken, half, MAX_STARTS)

    def _may_start_ahead(self) -> bool:
        """Return False also if jobs block the event loop: those started ahead would wait for it."""
        is_free = self._launch_seconds < AHEAD_SECONDS
        return is_free and not (self._stop.is_set() or self._has_duty())

    async def _start(self, limit: int) -> FetchResult:
        sent_at = time.monotonic()
        self._keeper.begin_start()
        try:
            fetched = await self._session.start(
                min(limit, self._max_batch),
                first_lane=_draw_lane(),
                closed_agents=self._closed_agents(),
            )
        except TRANSIENT_ERRORS:
            self._max_batch = 1  # the reply may be too large for a slow link
            raise
        self._max_batch = min(2 * self._max_batch, MAX_STARTS)
        return self._unless_late(fetched, time.monotonic() - sent_at)

    async def _launch(self, jobs: Sequence[Job]) -> None:
        if jobs:
            began_at = time.monotonic()
            await self._runner.launch(jobs)
            self._launch_seconds = time.monotonic() - began_at

    def _unless_late(self, fetched: FetchResult, seconds: float) -> FetchResult:
        """Return `fetched`, but without jobs if it took `seconds` to come: the leases may have expired."""
        if not fetched.jobs or seconds < self._lease_seconds / 2:
            if not self._outages.needs_recovery:
                self._keeper.end_start()
            return fetched
        logger.warning(
            "reply to a start came late, its jobs are released",
            extra={"jobs": len(fetched.jobs), "seconds": round(seconds, 1)},
        )
        self._outages.request_recovery()
        return FetchResult("ok")

    async def _wait_for_work(self) -> FetchResult:
        """Block until there is work, and start the first job if none runs here.

        If a job runs, it may block the event loop, and a job that was started here would have to wait. If a
        provider takes no calls, it may have changed by then.
        """
        try:
            return await self._stop.guard(self._wait_or_start_next())
        except Stopped:
            self._outages.request_recovery()  # the abandoned call may have started a job
            raise
        except SERVER_ERRORS as error:
            self._outages.record_failure("fetch", error)
            await self._stop.sleep(jittered(UNAVAILABLE_SECONDS, 1, 4))
            return FetchResult("ok")

    async def _wait_or_start_next(self) -> FetchResult:
        if len(self._runner) or self._closed_agents():
            await self._session.wait_for_work(self.idle_seconds)
            return FetchResult("ok")
        sent_at = time.monotonic()
        self._keeper.begin_start()
        fetched = await self._session.start_next(self.idle_seconds, first_lane=_draw_lane())
        waited_seconds = time.monotonic() - sent_at - self.idle_seconds
        fetched = self._unless_late(fetched, waited_seconds)
        await self._launch(fetched.jobs)  # at once: the loop would come to it two turns later
        return fetched

    def _note(self, fetched: FetchResult) -> None:
        self.last_fetch_at = time.monotonic()
        self._metrics.last_fetch.set_to_current_time()
        if fetched.state == "unregistered":
            self._registration.request()
        if fetched.state == "paused" and not self._is_paused:
            logger.info("queue is paused", extra={"worker": self._session.identity.worker_id})
        self._is_paused = fetched.state == "paused"

    async def _is_burst_over(self, fetched: FetchResult) -> bool:
        """Return True if no job runs, waits, is an orphan, or falls due within the longest retry delay."""
        if len(self._runner) or len(self._reporter) or self._has_duty():
            return False
        if fetched.state == "paused":
            return True
        if fetched.state != "empty":
            return False
        promote = partial(promote_pass, self._queue, Counter[str]())
        due_seconds = await self._retry("promote", promote)
        if due_seconds is not None and due_seconds <= self._max_retry_delay_seconds:
            return False
        # What was promoted, perhaps by another worker. By one call: its result says whether a job was started.
        fetched = await self._retry("fetch", partial(self._start, self._batch(taken=0)))
        await self._launch(fetched.jobs)
        return fetched.state == "empty" and not self._has_duty()

    async def _note_held(self) -> None:
        """Log how many jobs a burst leaves, because they are held."""
        with suppress(AragoraQError):  # not worth waiting for
            if held := await self._queue.count_held():
                logger.warning("burst is over, held jobs were not run", extra={"jobs": held})

    async def release_orphans(self) -> None:
        """Release jobs that were started for this worker but whose reply was lost.

        After a failure all of them; else those started half a lease ago or earlier, because a start
        that was abandoned here may reach the server late. Never while a start is under way.
        """
        is_full = self._outages.needs_recovery
        min_idle_seconds = 0 if is_full else self._lease_seconds / 2
        self._needs_orphan_check = False
        if is_full:
            self._recheck_until = time.monotonic() + 1.5 * self._lease_seconds
        self._outages.recovered()
        released = await self._session.release_orphans(
            self._runner.owns, min_idle_seconds=min_idle_seconds
        )
        if is_full and not self._outages.needs_recovery:
            self._keeper.end_start()
        if released:
            logger.info("released orphaned jobs (start reply lost)", extra={"jobs": len(released)})

    async def _retry(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._outages.retry_until_available(operation, call, self._stop.sleep)


def _draw_lane() -> str:
    """Return the lane to read first. Drawn at random, so that no pattern of fetches starves a lane."""
    return random.choices(list(LANE_SHARES), list(LANE_SHARES.values()))[0]  # noqa: S311 - fairness
