"""`/events`: what happens in the queue, for `live.js`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header

from aragora_q.web.access import Viewer
from aragora_q.web.feed import EventStream

router = APIRouter()


@router.get("/events")
async def events(
    access: Viewer,
    after: str | None = None,
    job: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventStream:
    """Send the events of the queue, or of one job, after the latest that the page has."""
    return EventStream(
        access.console.feed, last_event_id or after, job_id=job, address=access.actor.address
    )
