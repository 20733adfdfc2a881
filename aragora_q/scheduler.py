"""Enqueue the jobs of schedules at their times, for the queue of one process.

Each worker that has schedules runs a `Scheduler`, not only the one that maintains the queue: configurations
may differ. `reap` runs one step. The queue enqueues each time once, and its server's clock decides when. Knows
the contract of the queue and cron expressions, not Redis.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from datetime import UTC, datetime

from aragora_q import tracing
from aragora_q.backoff import jittered
from aragora_q.config import QueueConfig
from aragora_q.config.tables import ScheduleConfig
from aragora_q.contracts import (
    Plan,
    Schedules,
    SchedulesRead,
    ScheduleState,
    Tick,
    TickResult,
)
from aragora_q.errors import SERVER_ERRORS, AragoraQError, RedisUnreachable
from aragora_q.formats import duration
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

LATE_SECONDS = 600.0
"""A time that passed longer ago is missed, or, with `catch_up = "last"`, enqueued late."""

READ_SECONDS = 30.0
"""Longest time between two reads: the server's clock may be set, a schedule paused or forgotten."""

SPREAD_SECONDS = 2.0
"""Workers look at a due time within this time, so that the first one has enqueued it for most of them."""

RETRY_SECONDS = 5.0
"""Time after which a step that failed because of Redis is tried again."""

REPEAT_LOG_SECONDS = 60.0
"""Interval at which the failure of steps is logged again."""


class Scheduler:
    """Enqueues what the schedules of a configuration have due. Used by one task at a time.

    A time is due from then on until its job is enqueued; of several times only the newest is enqueued. Times
    before the configuration was read are not due, unless an earlier process with a time to come has said so.
    """

    def __init__(self, schedules: Schedules, config: QueueConfig) -> None:
        self._schedules = schedules
        self._queue_name = config.queue
        self._config = config
        self._own: dict[str, ScheduleConfig] = {}
        self._since: dict[str, int] = {}
        """When a schedule was first looked at here, Unix ms of the server's clock."""
        self._looked: dict[str, int] = {}
        """The same of the last time: if Redis has lost its data since, times from then on are due."""
        self._first: dict[str, tuple[int, int]] = {}
        """A time of the past, and the schedule's first time after it."""
        self._full: dict[str, int] = {}
        """Times that a full queue did not take: each is logged once."""
        self._is_reconfigured = asyncio.Event()
        self._failure_logged_at = -REPEAT_LOG_SECONDS
        self.reconfigure(config)

    def reconfigure(self, config: QueueConfig) -> None:
        """Follow the schedules of `config` from now on; for those that changed, no time before now is due."""
        self._config = config
        own = config.schedules_of(self._queue_name)
        for name in [name for name in self._own if self._own[name] != own.get(name)]:
            for known in (self._since, self._looked, self._first, self._full):
                known.pop(name, None)
        self._own = own
        self._is_reconfigured.set()

    async def run(self) -> None:
        """Run until cancelled. Without schedules, nothing is sent."""
        while True:
            self._is_reconfigured.clear()
            try:
                _, seconds = await self.step()
            except SERVER_ERRORS as error:
                seconds = jittered(RETRY_SECONDS)
                self._log_failure(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds if self._own else None):
                    await self._is_reconfigured.wait()

    async def step(self) -> tuple[int, float]:
        """Enqueue what is due now. Returns the number of jobs, and the seconds until the next step."""
        if not self._own:
            return 0, READ_SECONDS
        read = await self._schedules.read()
        judged = await self._judge_all(read)
        if judged is None:
            return 0, 0.0
        ticks, plans, next_at = judged
        results = await self._enqueue(ticks) if ticks else []
        for tick, result in zip(ticks, results, strict=True):
            plans += self._conclude(tick, result, read.states.get(tick.schedule))
        if plans:
            for plan, is_set in zip(plans, await self._schedules.plan(plans), strict=True):
                if is_set and plan.last_at is not None:
                    self._log_missed(plan.schedule.name, plan.missed, plan.last_at, plan.error)
        spread_seconds = random.uniform(0, SPREAD_SECONDS)  # noqa: S311 - spreads load, guards nothing
        until_next = 0.0 if "changed" in results else next_at / 1000 - read.now
        return results.count("created"), min(until_next, READ_SECONDS) + spread_seconds

    async def _enqueue(self, ticks: list[Tick]) -> list[TickResult]:
        """Enqueue jobs in a new trace: they do not belong to the trace in which this process was started."""
        attributes = {"messaging.destination.name": self._queue_name}
        with tracing.span(f"maintain {self._queue_name}", attributes=attributes, parent="") as span:
            results = await self._schedules.enqueue(ticks)
            span.set({"aragora_q.ticks": results.count("created")})
        return results

    async def _judge_all(self, read: SchedulesRead) -> tuple[list[Tick], list[Plan], int] | None:
        """Return what is to be enqueued, what planned, and the next time. None: reconfigured meanwhile."""
        ticks: list[Tick] = []
        plans: list[Plan] = []
        times: list[int] = []
        own, now = self._own, round(read.now * 1000)
        for name in own:
            state = read.states.get(name, ScheduleState(name))
            tick, plan, next_at = self._judge(name, state, now)
            ticks += [tick] if tick else []
            plans += [plan] if plan else []
            times.append(next_at)
            if tick or (plan and plan.missed):
                await asyncio.sleep(0)  # to count many missed times takes milliseconds
                if self._own is not own:
                    return None
        return (ticks, plans, min(times)) if times else None

    def _judge(
        self, name: str, state: ScheduleState, now: int
    ) -> tuple[Tick | None, Plan | None, int]:
        """Return what is to be enqueued, or planned, of a schedule, and its next time."""
        schedule = self._own[name]
        is_new = name not in self._since
        looked = self._looked.get(name, now)
        since = self._since.setdefault(name, now) if state.is_planned else looked
        self._since[name], self._looked[name] = since, now
        last, planned = _ms(state.last_at), _ms(state.next_at)
        after = max(last or 0, since if planned is None else min(since, planned - 1))
        first_at = self._first_after(name, after)
        if first_at > now:
            is_sooner = planned is None or first_at < planned or planned <= now
            if planned != first_at and (is_new or is_sooner):
                return None, Plan(state, first_at), first_at
            return None, None, first_at
        at, count = schedule.times.due(after, now) or (first_at, 1)
        next_at = schedule.times.next_after(at)
        is_late = now - at > LATE_SECONDS * 1000
        if state.paused is not None:
            return None, Plan(state, next_at, at), next_at
        if is_late and schedule.catch_up == "none":
            return None, Plan(state, next_at, at, count), next_at
        reason = f"due {schedule.times.shown(at)}"
        if is_late:
            reason += f", {duration((now - at) / 1000)} ago"
        job = self._config.scheduled_job(name, str(at // 1000))
        return Tick(name, at, next_at, job, count - 1, reason, last), None, next_at

    def _first_after(self, name: str, after: int) -> int:
        known_after, first_at = self._first.get(name, (-1, 0))
        if known_after != after:
            first_at = self._own[name].times.next_after(after)
            self._first[name] = after, first_at
        return first_at

    def _conclude(self, tick: Tick, result: TickResult, state: ScheduleState | None) -> list[Plan]:
        """Log the answer to a tick. Returns a plan that is done with it, if its job was refused."""
        match result:
            case "created":
                extra = {"schedule": tick.schedule, "job": tick.job.id, "reason": tick.reason}
                logger.info("scheduled job enqueued", extra=extra)
                self._log_missed(tick.schedule, tick.missed, tick.at)
            case "full":
                if self._full.get(tick.schedule) != tick.at:
                    self._full[tick.schedule] = tick.at
                    logger.warning(
                        "scheduled job waits: the queue is full",
                        extra={"schedule": tick.schedule, "job": tick.job.id},
                    )
            case "exists" | "past" | "paused" | "changed":
                pass
            case error:
                seen = state or ScheduleState(tick.schedule)
                return [Plan(seen, tick.next_at, tick.at, tick.missed + 1, str(error))]
        return []

    def _log_missed(self, name: str, missed: int, until: int, error: str = "") -> None:
        if not missed:
            return
        extra = {"schedule": name, "missed": missed, "until": _iso(until)}
        if error:
            logger.error("scheduled job refused", extra={**extra, "error": error})
        else:
            logger.warning("times of a schedule missed", extra=extra)

    def _log_failure(self, error: AragoraQError) -> None:
        """Log why a step failed; that Redis is unreachable, other parts of a worker log."""
        if isinstance(error, RedisUnreachable):
            return
        if time.monotonic() - self._failure_logged_at >= REPEAT_LOG_SECONDS:
            self._failure_logged_at = time.monotonic()
            logger.warning("schedules not followed, trying again", extra={"error": str(error)})


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds")
