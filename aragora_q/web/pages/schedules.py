"""The pages of schedules: when each enqueues its job, what became of the last ones, and what operators do.

A schedule that this process does not know is shown as far as Redis does; it cannot be run from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.config.values import SCHEDULE_TAG
from aragora_q.labels import JobFilter
from aragora_q.schedule_views import (
    PROBLEMS,
    ScheduleRow,
    forget_schedule,
    read_schedule,
    resume_schedule,
    run_schedule,
    schedule_rows,
)
from aragora_q.web.access import Access, Operator, Viewer
from aragora_q.web.pages.confirming import Confirmation, Question
from aragora_q.web.pages.forms import Form
from aragora_q.web.pages.jobs import read_page, read_rows
from aragora_q.web.pages.rendering import redirect, render

router = APIRouter()

PAGE = "/schedules"
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
        wrong=sum(row.condition in PROBLEMS for row in rows),
        has_unknown=any(row.declared is None for row in rows),
    )


@router.get("/schedules/{name}")
async def show_schedule(request: Request, access: Viewer, name: str) -> Response:
    """Return the page of one schedule: its state, its next times, its last jobs."""
    row, now = await _read(access, name)
    wanted = JobFilter(tags={SCHEDULE_TAG: name})
    jobs, cursor, _ = await read_page(access.queue, wanted, limit=JOBS_SHOWN)
    return render(
        request,
        "schedule.html",
        now=now,
        row=row,
        times=_next_times(row, now),
        jobs=jobs,
        has_more=bool(cursor),
        tag=f"{SCHEDULE_TAG}={name}",
    )


def _next_times(row: ScheduleRow, now: float) -> Sequence[float]:
    """Return the next times, in Unix seconds; none if they are not known here."""
    if row.declared is None:
        return []
    times = row.declared.times.after(round(now * 1000))
    return [at / 1000 for at in islice(times, TIMES_SHOWN)]


@router.post("/schedules/{name}/run")
async def run(request: Request, access: Operator, name: str) -> Response:
    """Enqueue the job of a schedule now."""
    form = await Form.of(request)
    _, now = await _read(access, name)
    access.log_action("schedule run", [name], form.reason)
    by, reason = access.actor.by, form.reason
    job_id, is_new = await run_schedule(access.queue, name, now, by=by, reason=reason)
    said = "is enqueued" if is_new else "was enqueued before"
    return redirect(form.back(_page(name)), f"Job {job_id} {said}.")


@router.post("/schedules/{name}/pause")
async def pause(request: Request, access: Operator, name: str) -> Response:
    """Let a schedule enqueue nothing until it is resumed."""
    form = await Form.of(request)
    await _read(access, name)
    access.log_action("schedule pause", [name], form.reason)
    is_new = await access.queue.schedules.pause(name, by=access.actor.by, reason=form.reason)
    state = "is paused" if is_new else "was already paused"
    return redirect(form.back(_page(name)), f"Schedule {name} {state}.")


@router.post("/schedules/{name}/resume")
async def resume(request: Request, access: Operator, name: str) -> Response:
    """Let a schedule enqueue again, from its next time on."""
    form = await Form.of(request)
    row, now = await _read(access, name)
    access.log_action("schedule resume", [name], form.reason)
    by, reason = access.actor.by, form.reason
    was_paused = await resume_schedule(access.queue, row, now, by=by, reason=reason)
    state = "is resumed" if was_paused else "was not paused"
    return redirect(form.back(_page(name)), f"Schedule {name} {state}.")


@router.post("/schedules/{name}/forget")
async def forget(request: Request, access: Operator, name: str) -> Response:
    """Delete what Redis keeps of a schedule that is not configured here, once that is confirmed."""
    form = await Form.of(request)
    row, _ = await _read(access, name)
    if row.declared is None and form.number("confirmed") is None:
        return Confirmation(request, access, form, PAGE).ask(_about(name))
    access.log_action("schedule forget", [name], form.reason)
    await forget_schedule(access.queue, row, by=access.actor.by, reason=form.reason)
    return redirect(PAGE, f"Schedule {name} is forgotten.")


def _about(name: str) -> Question:
    """Return the question whether the state of a schedule shall be deleted."""
    return Question(
        1,
        title=f"Forget schedule {name}",
        text=f"Delete what Redis keeps of schedule {name}?",
        label="Forget the schedule",
        address=f"{_page(name)}/forget",
        command=("schedule", "forget", name),
        warning="Its jobs are kept. If the configuration of a worker still has it, it begins again.",
    )


async def _read(access: Access, name: str) -> tuple[ScheduleRow, float]:
    return await read_schedule(access.queue.schedules, access.console.config, name)


def _page(name: str) -> str:
    return f"{PAGE}/{quote(name, safe='')}"
