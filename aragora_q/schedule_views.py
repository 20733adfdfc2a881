"""Schedules as people and programs see them: what the configuration says, with the state that Redis keeps.

Used by the command line, the API and the console. Times of rows are Unix seconds, those of JSON Unix ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, get_args
from zoneinfo import ZoneInfo

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from aragora_q.contracts import ScheduleState
from aragora_q.errors import InvalidPayload, ScheduleNotFound
from aragora_q.shapes import OverrideJson
from aragora_q.views import paused_json

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.config.tables import ScheduleConfig
    from aragora_q.contracts import Paused, Schedules, SchedulesRead
    from aragora_q.work_queue import WorkQueue

ScheduleCondition = Literal[
    "overdue", "refused", "not loaded", "paused", "not configured here", "active"
]
"""What an operator sees of a schedule first. `refused`: the job of its last time was not taken. `not loaded`:
no worker or `reap` has read it in its configuration yet, so its times pass without jobs."""

ORDER = get_args(ScheduleCondition)
PROBLEMS = frozenset({"overdue", "refused", "not loaded"})


@dataclass(frozen=True)
class ScheduleRow:
    """A schedule. `declared` None: this process' configuration does not have it."""

    name: str
    condition: ScheduleCondition
    declared: ScheduleConfig | None
    next_at: float | None
    last_at: float | None
    last_job: str | None
    missed: int
    error: str | None
    paused: Paused | None
    overdue_seconds: float
    """0 if it is not overdue."""
    ahead_seconds: float
    """How long it enqueues nothing, because the server's clock was ahead; else 0."""


class ScheduleJson(TypedDict):
    """A schedule. `cron` null: the configuration of this process does not have it."""

    name: str
    state: str
    cron: str | None
    time_zone: str | None
    catch_up: str | None
    next_at: int | None
    last_at: int | None
    last_job: str | None
    missed: int
    error: str | None
    paused: OverrideJson | None


def schedule_rows(config: QueueConfig, read: SchedulesRead) -> list[ScheduleRow]:
    """Return all schedules that are configured here or have a state, those with a problem first."""
    declared = config.schedules_of(config.queue)
    names = sorted({*declared, *read.states})
    rows = [
        _row(name, declared.get(name), read.states.get(name) or ScheduleState(name), read.now)
        for name in names
    ]
    return sorted(rows, key=lambda row: ORDER.index(row.condition))


async def read_schedule(
    schedules: Schedules, config: QueueConfig, name: str
) -> tuple[ScheduleRow, float]:
    """Return a schedule, and the time. Raises ScheduleNotFound: it is not configured here, and has no state."""
    read = await schedules.read()
    found = next((row for row in schedule_rows(config, read) if row.name == name), None)
    if found is None:
        raise ScheduleNotFound(name, config.schedules_of(config.queue))
    return found, read.now


def zoned(at: float, time_zone: str) -> str:
    """Return a time, in Unix seconds, as clocks in a zone show it: `Mon 2026-11-30 06:00 CET`."""
    zone = UTC if time_zone == "UTC" else ZoneInfo(time_zone)
    return f"{datetime.fromtimestamp(at, zone):%a %Y-%m-%d %H:%M %Z}"


def _row(
    name: str, declared: ScheduleConfig | None, state: ScheduleState, now: float
) -> ScheduleRow:
    next_at = state.next_at
    if next_at is None and declared is not None:
        next_at = declared.times.next_after(round(now * 1000)) / 1000
    condition: ScheduleCondition = "active"
    if state.paused is not None:
        condition = "paused"
    elif declared is None:
        condition = "not configured here"
    elif state.is_overdue(now):
        condition = "overdue"
    elif state.error is not None:
        condition = "refused"
    elif not state.is_planned:
        condition = "not loaded"
    return ScheduleRow(
        name=name,
        condition=condition,
        declared=declared,
        next_at=next_at,
        last_at=state.last_at,
        last_job=state.last_job,
        missed=state.missed,
        error=state.error,
        paused=state.paused,
        overdue_seconds=state.overdue_seconds(now) if state.is_overdue(now) else 0.0,
        ahead_seconds=(state.last_at or 0.0) - now if state.is_ahead(now) else 0.0,
    )


def schedule_json(row: ScheduleRow) -> ScheduleJson:
    """Return a schedule."""
    declared = row.declared
    return {
        "name": row.name,
        "state": row.condition,
        "cron": declared.cron if declared else None,
        "time_zone": declared.time_zone if declared else None,
        "catch_up": declared.catch_up if declared else None,
        "next_at": _ms(row.next_at),
        "last_at": _ms(row.last_at),
        "last_job": row.last_job,
        "missed": row.missed,
        "error": row.error,
        "paused": paused_json(row.paused),
    }


async def run_schedule(
    queue: WorkQueue, name: str, now: float, *, by: str, reason: str
) -> tuple[str, bool]:
    """Enqueue the job of a schedule now; return its id, and False if that was done in this second already.

    Raises:
        ScheduleNotFound: it is not configured here, so its job is not known.
        InvalidPayload, QueueFull: the job is refused.
    """
    declared = queue.config.schedules_of(queue.config.queue)
    if name not in declared:
        raise ScheduleNotFound(name, declared)
    job = queue.config.scheduled_job(name, f"{int(now)}-run")
    return job.id, await queue.schedules.run(name, job, by=by, reason=reason)


async def resume_schedule(
    queue: WorkQueue, row: ScheduleRow, now: float, *, by: str, reason: str
) -> bool:
    """End the pause of a schedule. Returns False if it was not paused."""
    next_at = None
    if row.declared is not None:
        next_at = row.declared.times.next_after(round(now * 1000)) / 1000
    return await queue.schedules.resume(row.name, next_at=next_at, by=by, reason=reason)


async def forget_schedule(queue: WorkQueue, row: ScheduleRow, *, by: str, reason: str) -> bool:
    """Delete the state of a schedule. Returns False if there was none.

    Raises:
        InvalidPayload: it is configured here, and would begin again.
    """
    if row.declared is not None:
        raise InvalidPayload(
            f"schedule {row.name} is configured here: nothing is forgotten",
            hint="remove it from the configuration of all workers first, or pause it",
        )
    return await queue.schedules.forget(row.name, by=by, reason=reason)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
