"""Groups: list, show, seal, cancel, and what came out: rows, comparison, evaluation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from pydantic_core import to_json
from typing_extensions import TypedDict

from aragora_q import shapes, views
from aragora_q.base import Group
from aragora_q.experiments.comparison import ComparisonJson
from aragora_q.experiments.evaluation import Evaluation
from aragora_q.experiments.reading import iterate_rows
from aragora_q.experiments.table import row_json
from aragora_q.intake.checks import create_follower
from aragora_q.job_fields import default_fields
from aragora_q.labels import check_labels
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.access import Operator, Producer, Viewer
from aragora_q.web.api.jobs import viewer_queue
from aragora_q.web.api.routing import (
    Because,
    Reason,
    Strict,
    answer,
    body_of,
    described,
    new_router,
    takes,
    takes_reason,
)
from aragora_q.web.lookup import require_group
from aragora_q.web.media import NDJSON
from aragora_q.web.problems import NO_STORE

router = new_router("groups")

MAX_GROUPS = 1_000


class GroupsQuery(Strict):
    """The query of a list."""

    limit: int = Field(20, ge=1, le=MAX_GROUPS)
    cursor: str = ""


class Groups(TypedDict):
    """Groups, newest first: by their first job. `errors` names those whose data is corrupted.

    `cursor` leads to the next page; null: this is the last.
    """

    groups: list[shapes.GroupJson]
    cursor: str | None
    errors: list[str]


class SealedGroup(shapes.GroupJson):
    """A group. `sealed` false: it was sealed before, and nothing changed."""

    sealed: bool


class CancelledGroup(TypedDict):
    """What became of a group that was cancelled as a whole."""

    name: str
    dry_run: bool
    cancelled: int
    then: shapes.FollowerJson | None


class Seal(Because):
    """Why a group is sealed; the fields of a job that follows it, without `group`; webhooks for its end."""

    then: dict[str, Any] | None = None
    notify: list[str] = Field(default_factory=list)


class TableQuery(Strict):
    """The query of a table."""

    arm: str | None = Field(None, description="The name of an arm")


@router.get("/groups", response_model=Groups, responses=described())
async def list_groups(access: Viewer, query: Annotated[GroupsQuery, Query()]) -> Response:
    """List groups, newest first."""
    page = await access.queue.tracker.groups_page(query.cursor, query.limit)
    groups = [views.group_json(each) for each in page.groups if isinstance(each, Group)]
    errors = [str(each) for each in page.groups if not isinstance(each, Group)]
    return answer({"groups": groups, "cursor": page.cursor or None, "errors": errors})


@router.get("/groups/{name}", response_model=shapes.GroupSpentJson, responses=described())
async def get_group(access: Viewer, name: str) -> Response:
    """Return a group with what its jobs spent, as `group show`."""
    group = await require_group(access.queue, name)
    return answer(await views.group_spent_json(access.gates, group))


@router.get(
    "/groups/{name}/table",
    response_class=StreamingResponse,
    responses={
        200: {"content": {NDJSON: {"schema": {"type": "string"}}}},
        **described(),
    },
)
async def get_table(
    access: Viewer, name: str, query: Annotated[TableQuery, Query()]
) -> StreamingResponse:
    """Return a line for each debate of a group, or of one arm, as `table --format jsonl`, but in any order."""
    await require_group(access.queue, name)
    return StreamingResponse(
        _lines(access.queue, name, query.arm), media_type=NDJSON, headers=NO_STORE
    )


async def _lines(queue: RedisStreamsQueue, name: str, arm: str | None) -> AsyncIterator[bytes]:
    async for row in iterate_rows(queue, name):
        if arm in (None, row.arm):
            yield to_json(row_json(row), inf_nan_mode="null") + b"\n"


@router.get("/groups/{name}/comparison", response_model=ComparisonJson, responses=described())
async def get_comparison(access: Viewer, name: str) -> Response:
    """Compare the arms of a group, as `compare --json`. The group has at most 2,000 jobs."""
    results, _ = await access.console.results.of(
        access.queue, await require_group(access.queue, name)
    )
    return answer((await results.comparison()).to_dict())


@router.get("/groups/{name}/evaluation", response_model=Evaluation, responses=described())
async def get_evaluation(access: Viewer, name: str) -> Response:
    """Evaluate the arms of a group, as `eval --json`. The group has at most 2,000 jobs."""
    results, _ = await access.console.results.of(
        access.queue, await require_group(access.queue, name)
    )
    return answer((await results.evaluation()).to_dict())


@router.post(
    "/groups/{name}/seal",
    response_model=SealedGroup,
    responses=described(body=True),
    openapi_extra=takes(Seal, is_optional=True),
)
async def seal_group(
    access: Producer, name: str, body: Annotated[Seal, Depends(body_of(Seal, is_optional=True))]
) -> Response:
    """Let a group take no more jobs. The job `then` is enqueued when it has ended; its id is NAME.then."""
    check_labels(name, None, {})
    access.log_action("group seal", [name], body.reason)
    config, then = access.console.config, None
    if body.then is not None:
        defaults = default_fields(config.default_agents, config.default_notify)
        then, _ = create_follower(name, body.then, defaults, config)
    is_new = await access.queue.seal_group(
        name, then, notify=body.notify, by=access.actor.by, reason=body.reason
    )
    group = await require_group(viewer_queue(access), name)
    return answer({**views.group_json(group), "sealed": is_new})


@router.post(
    "/groups/{name}/cancel",
    response_model=CancelledGroup,
    **takes_reason(),
)
async def cancel_group(access: Operator, name: str, because: Reason) -> Response:
    """Cancel a group as a whole: its live jobs, and what would follow. It takes no more jobs."""
    check_labels(name, None, {})
    access.log_action("group cancel", [name], because.reason)
    cancelled = await access.queue.cancel_group(name, by=access.actor.by, reason=because.reason)
    access.log_changed(cancelled)
    then = views.group_json(await require_group(access.queue, name))["then"]
    return answer({"name": name, "dry_run": False, "cancelled": cancelled, "then": then})
