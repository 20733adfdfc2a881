"""The queue as a whole: its state, its workers, its events, pause and resume."""

from __future__ import annotations

from datetime import UTC
from functools import partial
from typing import Annotated, Any

from fastapi import Header, Query, Response
from pydantic import Field
from typing_extensions import TypedDict

from aragora_q import shapes, views
from aragora_q.changes import read_changes
from aragora_q.moments import parse_moment
from aragora_q.redis.keys import MAX_CHANGES_LISTED
from aragora_q.web.access import Operator, Viewer
from aragora_q.web.api.routing import (
    Reason,
    Strict,
    answer,
    described,
    new_router,
    takes_reason,
)
from aragora_q.web.feed import EventStream
from aragora_q.web.media import EVENTS

router = new_router("queue")


class Workers(TypedDict):
    """Registered workers, the oldest heartbeat first, at most 100; and the jobs that they run."""

    counts: dict[str, int]
    workers: list[dict[str, Any]]
    running_jobs: list[shapes.RunningJob]


class Paused(TypedDict):
    """Whether the queue is paused now. `changed` false: it was so before."""

    paused: bool
    changed: bool


class Changes(TypedDict):
    """What operators did, newest first."""

    changes: list[shapes.ChangeJson]


class ChangesQuery(Strict):
    """The query of changes."""

    since: str | None = Field(None, description="A time before now such as 2h or 7d, or a date")
    limit: int = Field(100, ge=1, le=MAX_CHANGES_LISTED)


class EventsQuery(Strict):
    """The query of events."""

    after: str | None = None
    job: str | None = None


async def _stats(access: Viewer) -> shapes.StatsJson:
    """Return the state of the queue, which is read once for all who ask within a second without news."""
    return await access.console.shared.get(
        "stats", partial(views.stats_json, access.queue, access.gates)
    )


@router.get("/stats", response_model=shapes.StatsJson, responses=described())
async def get_stats(access: Viewer) -> Response:
    """Return backlog, running jobs, workers, throughput, spending and warnings, as `stats`."""
    return answer(await _stats(access))


@router.get("/workers", response_model=Workers, responses=described())
async def get_workers(access: Viewer) -> Response:
    """Return the workers and what they run: those fields of `stats`."""
    stats = await _stats(access)
    return answer(
        {
            "counts": stats["worker_counts"],
            "workers": stats["workers"],
            "running_jobs": stats["running_jobs"],
        }
    )


@router.post(
    "/pause",
    response_model=Paused,
    **takes_reason(),
)
async def pause(access: Operator, because: Reason) -> Response:
    """Start no more jobs until `resume`; running jobs continue."""
    access.log_action("pause", reason=because.reason)
    changed = await access.queue.pause(by=access.actor.by, reason=because.reason)
    return answer({"paused": True, "changed": changed})


@router.post(
    "/resume",
    response_model=Paused,
    **takes_reason(),
)
async def resume(access: Operator, because: Reason) -> Response:
    """Start jobs again."""
    access.log_action("resume", reason=because.reason)
    changed = await access.queue.pause(paused=False, by=access.actor.by, reason=because.reason)
    return answer({"paused": False, "changed": changed})


@router.get("/changes", response_model=Changes, responses=described())
async def list_changes(access: Viewer, query: Annotated[ChangesQuery, Query()]) -> Response:
    """List what operators did with the queue, its jobs, budgets and providers, as `changes`.

    About the last 1,000 changes of the queue are kept, and as many of budgets and providers.
    """
    since_ms = 0
    if query.since is not None:
        now = await access.console.clock.now(access.queue)
        since_ms = round(parse_moment(query.since, UTC).at(now) * 1000)
    found = await read_changes(
        access.queue.connection, access.gates, query.limit, since_ms=since_ms
    )
    return answer({"changes": [views.change_json(each) for each in found]})


@router.get(
    "/events",
    responses={
        200: {
            "description": "Events as they happen",
            "content": {EVENTS: {"schema": {"type": "string"}}},
        },
        **described(),
    },
    response_class=Response,
)
async def events(
    access: Viewer,
    query: Annotated[EventsQuery, Query()],
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Send the events of the queue, or of one job, as server-sent events with the JSON of `tail`.

    They go on after `Last-Event-ID`, or `after`; without, from now on. An event `gap` says that some are not
    kept any more.
    """
    after = last_event_id or query.after
    return EventStream(access.console.feed, after, job_id=query.job, address=access.actor.address)
