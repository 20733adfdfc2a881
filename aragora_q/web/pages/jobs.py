"""The list of jobs: a filter, one page of 50, and what an operator can do with several of them.

A page takes two round trips, whatever the size of the queue: one finds the jobs, one reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.base import Job, JobStatus, is_job_id
from aragora_q.errors import InvalidPayload
from aragora_q.job_text import summary
from aragora_q.labels import JobFilter
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.access import Viewer
from aragora_q.web.filters import read_filter
from aragora_q.web.pages.rendering import redirect, render
from aragora_q.web.verbs import VERBS

router = APIRouter()

FIELDS = ("status", "group", "tenant", "tag", "since", "until")
LABELS = {
    "requeue": "Requeue",
    "unhold": "Unhold",
    "hold": "Hold",
    "cancel": "Cancel",
    "purge": "Delete",
}
"""What buttons call the verbs, in their order."""

MAX_SUMMARY_CHARS = 300
MAX_BYTES = 16 * 1024
"""Longer payloads and results are not read for a list."""


@dataclass(frozen=True)
class JobRow:
    """A job in a list."""

    id: str
    status: str
    at: float | None
    """Its end, or else its latest start, or else its enqueue."""
    summary: str
    attempts: int = 0
    crashes: int = 0
    group: str | None = None
    tenant: str | None = None
    tags: Sequence[tuple[str, str]] = ()
    due_at: float | None = None


@router.get("/jobs")
async def jobs_page(request: Request, access: Viewer) -> Response:
    """Show the jobs that match a filter, or lead to the job whose id was looked up."""
    fields = request.query_params.multi_items()
    given = {
        name: [word for each, value in fields if each == name for word in value.split()]
        for name in FIELDS
    }
    problem = ""
    if job_id := request.query_params.get("id", "").strip():
        if is_job_id(job_id):
            return redirect(f"/jobs/{job_id}")
        problem = f"{job_id!r:.100} is not a job id"
    rows, cursor, now = list[JobRow](), "", 0.0
    wanted = JobFilter()
    try:
        clock = 0.0
        if given["since"] or given["until"]:
            clock = await access.console.clock.now(access.queue)
        wanted = read_filter(fields, clock)
        if not problem:
            rows, cursor, now = await read_page(
                access.queue, wanted, request.query_params.get("cursor", "")
            )
    except InvalidPayload as error:
        problem = str(error)
    own = [(name, value) for name, values in given.items() for value in values]
    return render(
        request,
        "jobs.html",
        now=now or await access.queue.tracker.server_time(),
        status_code=422 if problem else 200,
        rows=rows,
        given=given,
        fields=own,
        problem=problem,
        is_first=not request.query_params.get("cursor"),
        first=_address(own),
        older=_address([*own, ("cursor", cursor)]) if cursor else "",
        is_filtered=bool(own),
        verbs=_verbs(wanted),
        options=[word for name, value in own for word in (f"--{name}", value)],
    )


async def read_page(
    queue: RedisStreamsQueue, wanted: JobFilter, cursor: str = "", limit: int = 50
) -> tuple[list[JobRow], str, float]:
    """Return one page of jobs, the cursor of the next, and the server's time; 0 if there are no jobs.

    Raises:
        InvalidPayload: the filter or the cursor is not valid.
    """
    found = await queue.find_page(wanted, cursor, limit)
    rows, now = await read_rows(queue, found.ids)
    return rows, found.cursor, now


async def read_rows(queue: RedisStreamsQueue, ids: Sequence[str]) -> tuple[list[JobRow], float]:
    """Return jobs by their ids, without those that are gone, and the server's time; 0 without ids."""
    jobs, now = await read_shown(queue, ids)
    return [
        _row(job_id, job) for job_id, job in zip(ids, jobs, strict=True) if job is not None
    ], now


async def read_shown(
    queue: RedisStreamsQueue, ids: Sequence[str]
) -> tuple[list[Job | InvalidPayload | None], float]:
    """Return jobs by their ids as a list shows them, and the server's time; 0 without ids."""
    read = await queue.tracker.read_jobs(ids, max_bytes=MAX_BYTES)
    return read.jobs, read.now


def _row(job_id: str, job: Job | InvalidPayload) -> JobRow:
    if isinstance(job, InvalidPayload):
        return JobRow(job_id, "corrupted", None, str(job))
    return JobRow(
        job.id,
        job.status.value,
        job.completed_at or job.started_at or job.created_at,
        _summary(job),
        job.attempts,
        job.crashes,
        job.group,
        job.tenant,
        list(job.tags.items()),
        job.due_at,
    )


def _summary(job: Job) -> str:
    """Return a job's summary on one line; templates escape it."""
    text = " ".join(summary(job).split())
    return text if len(text) <= MAX_SUMMARY_CHARS else f"{text[: MAX_SUMMARY_CHARS - 1]}…"


def _verbs(wanted: JobFilter) -> list[tuple[str, str]]:
    """Return what can be done with jobs of the statuses of a filter, as verbs and labels."""
    statuses = wanted.statuses or frozenset(JobStatus)
    is_so = {"hold": {JobStatus.HELD}}
    return [
        (verb, label)
        for verb, label in LABELS.items()
        if statuses & VERBS[verb].statuses - is_so.get(verb, set())
    ]


def _address(fields: Sequence[tuple[str, str]]) -> str:
    query = urlencode(fields, errors="replace")
    return f"/jobs?{query}" if query else "/jobs"
