"""The pages of schedules: when each enqueues its job, what became of the last ones, and what operators do.

A schedule that this process does not know is shown as far as Redis does; it cannot be run from here.
"""

from __future__ import annotations

from itertools import islice
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from aragora_q.config.tables import SCHEDULE_TAG
from aragora_q.labels import JobFilter
from aragora_q.schedule_views import ScheduleRow, require_schedule, schedule_rows
from aragora_q.web.access import Access, Operator, Viewer
from aragora_q.web.pages.confirming import Confirmation, Question
from aragora_q.web.pages.forms import Form
from aragora_q.web.pages.jobs import read_page, read_rows
from aragora_q.web.pages.rendering import redirect, render

router = APIRouter()

TIMES_SHOWN = 10
JOBS_SHOWN = 10


@router.get("/schedules")
async def list_schedules(request: Request, access: Viewer) -> Response:
    """Return the page of all schedules, those with a problem first."""
    read = await access.queue.schedules.read()
    rows = schedule_rows(access.console.config, read)
    jobs, _ = await read_rows(access.queue, [row.last_job for row in rows if row.last_job])
    return render(
        request,
        "schedules.html",
        now=read.now,
        rows=rows,
        jobs={job.id: job for job in jobs},
        wrong=sum(row.is_wrong for row in rows),
        has_unknown=not all(row.is_configured for row in rows),
    )


@router.get("/schedules/{name}")
async def show_schedule(request: Request, access: Viewer, name: str) -> Response:
    """Return the page of one schedule: its state, its next times, its last jobs."""
    config = access.console.config
    read = await access.queue.schedules.read()
    row = require_schedule(config, read, name)
    wanted = JobFilter(tags={SCHEDULE_TAG: row.name})
    jobs, cursor, _ = await read_page(access.queue, wanted, limit=JOBS_SHOWN)
    declared = config.schedules[row.name] if row.is_configured else None
    return render(
        request,
        "schedule.html",
        now=read.now,
        row=row,
        times=_next_times(declared, row.next_at or read.now) if declared else [],
        jobs=jobs,
        has_more=bool(cursor),
        tag=f"{SCHEDULE_TAG}={row.name}",
        fields=declared.job if declared else None,
    )


@router.post("/schedules/{name}/run")
async def run_schedule(request: Request, access: Operator, name: str) -> Response:
    """Enqueue the job of a schedule now."""
    form = await Form.of(request)
    access.log_action("schedule run", [name], form.reason)
    job_id, is_new = await run_now(access.queue, name, by=access.actor.by, reason=form.reason)
    said = "is enqueued" if is_new else "was enqueued before"
    return redirect(form.back(_page(name)), f"Job {job_id} of schedule {name} {said}.")


@router.post("/schedules/{name}/pause")
async def pause_schedule(request: Request, access: Operator, name: str) -> Response:
    """Let a schedule enqueue nothing until it is resumed."""
    form, schedules = await Form.of(request), access.queue.schedules
    require_schedule(access.console.config, await schedules.read(), name)
    access.log_action("schedule pause", [name], form.reason)
    is_new = await schedules.pause(name, by=access.actor.by, reason=form.reason)
    state = "is paused" if is_new else "was already paused"
    return redirect(form.back(_page(name)), f"Schedule {name} {state}.")


@router.post("/schedules/{name}/resume")
async def resume_schedule(request: Request, access: Operator, name: str) -> Response:
    """Let a schedule enqueue again from its next time on."""
    form = await Form.of(request)
    access.log_action("schedule resume", [name], form.reason)
    was_paused = await resume(access.queue, name, by=access.actor.by, reason=form.reason)
    state = "is resumed" if was_paused else "was not paused"
    return redirect(form.back(_page(name)), f"Schedule {name} {state}.")


@router.post("/schedules/{name}/forget")
async def forget_schedule(request: Request, access: Operator, name: str) -> Response:
    """Delete what Redis keeps of a schedule that is not configured here, once that is confirmed."""
    form, schedules = await Form.of(request), access.queue.schedules
    back = form.back(PAGE)
    row = require_schedule(access.console.config, await schedules.read(), name)
    check_forgettable(row)
    if form.number("confirmed") is None:
        return Confirmation(request, access, form, back).ask(_about(name))
    access.log_action("schedule forget", [name], form.reason)
    await schedules.forget(name, by=access.actor.by, reason=form.reason)
    return redirect(back, f"What was kept of schedule {name} is deleted.")


def _about(name: str) -> Question:
    """Return the question whether the state of a schedule shall be deleted."""
    return Question(
        1,
        title=f"Forget schedule {name}",
        text=f"Delete what Redis keeps of schedule {name}?",
        label="Forget the schedule",
        address=f"{_page(name)}/forget",
        command=("schedule", "forget", name),
        warning="If the configuration of a worker still has it, the worker begins it again, without its pause. "
        "Its jobs are kept.",
    )


def _page(name: str) -> str:
    return f"{PAGE}/{quote(name, safe='')}"
