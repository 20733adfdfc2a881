"""The page of changes: what operators did, and why, as `changes` shows it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.changes import read_changes
from aragora_q.redis.keys import MAX_CHANGES_LISTED
from aragora_q.web.access import Viewer
from aragora_q.web.pages.forms import query_number
from aragora_q.web.pages.rendering import render

router = APIRouter()

MAX_SHOWN = 100
"""Changes on the page; on that of all, MAX_CHANGES_LISTED."""


@router.get("/changes")
async def list_changes(request: Request, access: Viewer) -> Response:
    """Return the page of the newest changes, of the queue and of the budgets and providers."""
    limit = query_number(request, "limit", MAX_SHOWN, MAX_CHANGES_LISTED)
    found = await read_changes(access.queue.connection, access.gates, limit + 1)
    return render(
        request,
        "changes.html",
        now=await access.queue.tracker.server_time(),
        changes=found[:limit],
        has_more=len(found) > limit and limit < MAX_CHANGES_LISTED,
        most=MAX_CHANGES_LISTED,
        limit=limit,
    )
