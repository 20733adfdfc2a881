"""The page of a job: of a debate, its report and its course so far; of others, what went in and came out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from aragora_q import views
from aragora_q.base import LIVE, Job, JobStatus
from aragora_q.errors import InvalidPayload, JobNotFound
from aragora_q.job_rules import PHASE_PATTERN, is_debate
from aragora_q.job_text import progress_text
from aragora_q.loose import number_or_none, text, whole
from aragora_q.report import page
from aragora_q.report.calls import Calls, read_calls
from aragora_q.report.content import build_report
from aragora_q.report.document import Block
from aragora_q.report.grid import build_grid
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.access import Viewer
from aragora_q.web.lookup import require_job_id
from aragora_q.web.pages.rendering import render

router = APIRouter()


@dataclass(frozen=True)
class _Incident:
    """A line of a job's history."""

    at: float | None
    cause: str
    attempt: str
    worker: str
    by: str
    text: str


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
async def job_page(request: Request, access: Viewer, job_id: str) -> HTMLResponse:
    """Show a job."""
    require_job_id(access.queue, job_id)
    found, history, journal = await asyncio.gather(
        access.queue.tracker.read_jobs([job_id]),
        access.queue.tracker.history(job_id),
        _journal(access.queue, job_id),
    )
    [job] = found.jobs
    if isinstance(job, InvalidPayload):
        raise job
    if job is None:
        raise JobNotFound(job_id, access.queue.config.queue)
    is_waiting = job.status in (JobStatus.PENDING, JobStatus.RETRYING) and job.due_at is None
    return render(
        request,
        "job.html",
        now=found.now,
        job=job,
        incidents=[_incident(line) for line in history],
        debate=_debate(job, journal) if is_debate(job) else None,
        progress=progress_text(job.progress) if job.progress and job.status in LIVE else "",
        as_json=views.job_json(job),
        can=_can(job),
        obstacle=await _obstacle(access.queue) if is_waiting else "",
    )


async def _obstacle(queue: RedisStreamsQueue) -> str:
    """Return why no waiting job starts now; empty if nothing is in the way."""
    stats = await queue.get_queue_stats()
    if stats["paused"]:
        return "The queue is paused: no jobs start."
    return (
        ""
        if stats["worker_counts"]["alive"]
        else "No live worker: the job will not run until one starts."
    )


async def _journal(queue: RedisStreamsQueue, job_id: str) -> Mapping[str, Any] | None:
    """Return a job's checkpoints; None if they cannot be read: the result may still have everything."""
    try:
        return await queue.tracker.checkpoints(job_id)
    except InvalidPayload:
        return None


def _debate(job: Job, journal: Mapping[str, Any] | None) -> Mapping[str, Any]:
    calls = read_calls(journal, (job.result or {}).get("transcript"))
    found = build_report(job, calls)
    return {
        "title": found.title or job.id,
        "intro": _laid_out(found.intro),
        "outcome": [(each.title, _laid_out(each.blocks, each.title)) for each in found.outcome],
        "course": [(each.title, _laid_out(each.blocks, each.title)) for each in found.course],
        "grid": build_grid(job, calls),
        "phases": list(_phases(calls)),
    }


def _phases(calls: Calls) -> Iterator[tuple[str, str]]:
    """Yield from which phases on a requeue can make calls again, each with a text; blank: none."""
    paths = [each.path for each in calls.phases if calls.is_kept]
    paths = [each for each in paths if PHASE_PATTERN.fullmatch(each)]
    if paths:
        yield "", "only those that are missing"
        for each in paths:
            yield each, f"all from {each} on, again"


def _laid_out(blocks: Sequence[Block], title: str = "") -> Markup:
    """Return blocks of a report as elements: its layout escapes every text."""
    return Markup("\n".join(page.elements(blocks, title)))  # noqa: S704


def _incident(line: Mapping[str, Any]) -> _Incident:
    at = number_or_none(line.get("at"))
    return _Incident(
        at=None if at is None else at / 1000,
        cause=text(line.get("cause")),
        attempt=str(whole(line.get("attempt")) or ""),
        worker=text(line.get("worker")),
        by=text(line.get("by")),
        text=text(line.get("error")) or text(line.get("reason")),
    )


def _can(job: Job) -> frozenset[str]:
    """Return what an operator can do with a job in its state."""
    if job.status is JobStatus.HELD:
        return frozenset({"unhold", "cancel"})
    if not job.status.is_terminal:
        return frozenset({"cancel", "unhold" if job.hold else "hold"})
    return frozenset({"purge"} | ({"requeue"} if job.status is not JobStatus.COMPLETED else set()))
