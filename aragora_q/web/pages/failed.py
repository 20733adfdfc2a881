"""The page of failed jobs: the newest of them, those with the same error together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.base import JobStatus
from aragora_q.formats import truncate
from aragora_q.labels import JobFilter
from aragora_q.loose import text, whole
from aragora_q.web.access import Viewer
from aragora_q.web.pages.rendering import render

router = APIRouter()

MAX_JOBS = 500
"""Failed jobs whose errors are read: the newest."""

MAX_SHOWN = 5
"""Jobs of an error that are shown by id."""

MAX_CHARS = 300

FAILED = JobFilter(statuses=frozenset({JobStatus.FAILED}))

_VARIABLE = re.compile(
    r"\b(?:[0-9a-f]{4,}-)*[0-9a-f]*\d[0-9a-f]{7,}\b|\d+(?:[.,:]\d+)*", re.IGNORECASE
)
"""What differs between errors with the same cause: ids in hexadecimal, numbers, times."""


@dataclass
class ErrorGroup:
    """Jobs that failed with the same error, newest first."""

    error: str
    """The error of the newest one, in full."""
    newest_at: float
    """In Unix seconds."""
    ids: list[str] = field(default_factory=list)
    oldest_at: float = 0.0


def group_by_error(lines: Mapping[str, Mapping[str, object]]) -> list[ErrorGroup]:
    """Return the jobs of `lines` by error; `lines` are lines of histories by job id, newest job first."""
    groups: dict[str, ErrorGroup] = {}
    for job_id, line in lines.items():
        error, at = text(line.get("error")) or "no error is kept", whole(line.get("at")) / 1000
        group = groups.setdefault(normalized(error, job_id), ErrorGroup(error, at))
        group.ids.append(job_id)
        group.oldest_at = at
    return sorted(groups.values(), key=lambda group: -group.newest_at)


def normalized(error: str, job_id: str) -> str:
    """Return an error without what differs from job to job: ids, numbers, times, blanks."""
    return truncate(_VARIABLE.sub("#", error.replace(job_id, "#")), MAX_CHARS)


@router.get("/failed")
async def list_failed(request: Request, access: Viewer) -> Response:
    """Return the page of failed jobs."""
    queue = access.queue
    ids = await queue.find_newest(FAILED, MAX_JOBS + 1)  # one more, to know if that is all
    groups = group_by_error(await queue.tracker.last_errors(ids[:MAX_JOBS]))
    return render(
        request,
        "failed.html",
        now=await queue.tracker.server_time(),
        groups=groups,
        number=min(len(ids), MAX_JOBS),
        has_more=len(ids) > MAX_JOBS,
        max_shown=MAX_SHOWN,
    )
