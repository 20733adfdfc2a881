"""Schedules: their state and times, and what operators do with them."""

from __future__ import annotations

from fastapi import Response
from typing_extensions import TypedDict

from aragora_q import schedule_views
from aragora_q.web.access import Access, Operator, Viewer
from aragora_q.web.api.routing import Reason, answer, described, new_router, takes_reason

router = new_router("schedules")


class Schedules(TypedDict):
    """Schedules that are configured here or known to the queue, those with a problem first."""

    schedules: list[schedule_views.ScheduleJson]


class RunSchedule(TypedDict):
    """The job of a schedule that was to be enqueued. `created` false: it was in this second already."""

    name: str
    id: str
    created: bool


class PausedSchedule(TypedDict):
    """Whether a schedule is paused now. `changed` false: it was so before."""

    name: str
    paused: bool
    changed: bool


class ForgottenSchedule(TypedDict):
    """A schedule whose state was to be deleted. `forgotten` false: there was none any more."""

    name: str
    forgotten: bool


@router.get("/schedules", response_model=Schedules, responses=described())
async def list_schedules(access: Viewer) -> Response:
    """List schedules, as `schedule list`."""
    read = await access.queue.schedules.read()
    rows = schedule_views.schedule_rows(access.console.config, read)
    return answer({"schedules": [schedule_views.schedule_json(row) for row in rows]})


@router.get("/schedules/{name}", response_model=schedule_views.ScheduleJson, responses=described())
async def get_schedule(access: Viewer, name: str) -> Response:
    """Return a schedule, as `schedule show`."""
    row, _ = await _read(access, name)
    return answer(schedule_views.schedule_json(row))


@router.post("/schedules/{name}/run", response_model=RunSchedule, **takes_reason())
async def run_schedule(access: Operator, name: str, because: Reason) -> Response:
    """Enqueue the job of a schedule now, also while it is paused; its times stay as they are."""
    _, now = await _read(access, name)
    access.log_action("schedule run", [name], because.reason)
    by, reason = access.actor.by, because.reason
    job_id, is_new = await schedule_views.run_schedule(
        access.queue, name, now, by=by, reason=reason
    )
    return answer({"name": name, "id": job_id, "created": is_new})


@router.post("/schedules/{name}/pause", response_model=PausedSchedule, **takes_reason())
async def pause_schedule(access: Operator, name: str, because: Reason) -> Response:
    """Let a schedule enqueue nothing until it is resumed."""
    await _read(access, name)
    access.log_action("schedule pause", [name], because.reason)
    by, reason = access.actor.by, because.reason
    changed = await access.queue.schedules.pause(name, by=by, reason=reason)
    return answer({"name": name, "paused": True, "changed": changed})


@router.post("/schedules/{name}/resume", response_model=PausedSchedule, **takes_reason())
async def resume_schedule(access: Operator, name: str, because: Reason) -> Response:
    """Let a schedule enqueue again, from its next time on; times that passed meanwhile are skipped."""
    row, now = await _read(access, name)
    access.log_action("schedule resume", [name], because.reason)
    by, reason = access.actor.by, because.reason
    changed = await schedule_views.resume_schedule(access.queue, row, now, by=by, reason=reason)
    return answer({"name": name, "paused": False, "changed": changed})


@router.post("/schedules/{name}/forget", response_model=ForgottenSchedule, **takes_reason())
async def forget_schedule(access: Operator, name: str, because: Reason) -> Response:
    """Delete the state of a schedule that no configuration has any more; 422 if the console's has it."""
    row, _ = await _read(access, name)
    access.log_action("schedule forget", [name], because.reason)
    by, reason = access.actor.by, because.reason
    return answer(
        {
            "name": name,
            "forgotten": await schedule_views.forget_schedule(
                access.queue, row, by=by, reason=reason
            ),
        }
    )


async def _read(access: Access, name: str) -> tuple[schedule_views.ScheduleRow, float]:
    return await schedule_views.read_schedule(access.queue.schedules, access.console.config, name)
