"""`/events`: that something happened in the queue, for `live.js`, which reads the page again then."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header

from aragora_q.web.access import Viewer
from aragora_q.web.feed import EventStream

router = APIRouter()


@router.get("/events")
async def events(
    access: Viewer,
    job: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventStream:
    """Say that there were events, of the queue or of one job. They themselves are in the API."""
    feed, address = access.console.feed, access.actor.address
    return EventStream(feed, last_event_id, job_id=job, address=address, is_brief=True)
