"""Groups: list, show, seal, cancel."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Response
from pydantic import Field
from typing_extensions import TypedDict

from aragora_q import views
from aragora_q.base import Group, Job
from aragora_q.errors import GroupNotFound, InvalidPayload
from aragora_q.intake import checks
from aragora_q.intake.jobs import create_job
from aragora_q.job import check_job
from aragora_q.labels import check_labels
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.access import Access, Operator, Producer, Viewer
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
)

router = new_router("groups")

MAX_GROUPS = 1_000


class GroupsQuery(Strict):
    """The query of a list."""

    limit: int = Field(20, ge=1, le=MAX_GROUPS)


class Groups(TypedDict):
    """Groups, newest first: by their first job. `errors` names those whose data is corrupted."""

    groups: list[views.GroupJson]
    errors: list[str]


class SealedGroup(views.GroupJson):
    """A group. `sealed` false: it was sealed before, and nothing changed."""

    sealed: bool


class CancelledGroup(TypedDict):
    """What became of a group that was cancelled as a whole."""

    name: str
    dry_run: bool
    cancelled: int
    then: views.FollowerJson | None


class Seal(Strict):
    """What follows a group: the fields of a job, without `group`."""

    then: dict[str, Any] | None = None


@router.get("/groups", response_model=Groups, responses=described())
async def list_groups(access: Viewer, query: Annotated[GroupsQuery, Query()]) -> Response:
    """List groups, newest first."""
    found = await access.queue.tracker.groups(query.limit)
    groups = [views.group_json(each) for each in found if isinstance(each, Group)]
    errors = [str(each) for each in found if not isinstance(each, Group)]
    return answer({"groups": groups, "errors": errors})


@router.get("/groups/{name}", response_model=views.GroupSpentJson, responses=described())
async def get_group(access: Viewer, name: str) -> Response:
    """Return a group with what its jobs spent, as `group show`."""
    group = await _require_group(access.queue, name)
    return answer(await views.group_spent_json(access.gates, group))


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
    _check_name(name)
    access.log_action("group seal", [name])
    then = None if body.then is None else _follower(access, name, body.then)
    is_new = await access.queue.seal_group(name, then)
    group = await _require_group(viewer_queue(access), name)
    return answer({**views.group_json(group), "sealed": is_new})


def _follower(access: Access, name: str, fields: dict[str, Any]) -> Job:
    """Return the job that follows a group, checked as a job that is enqueued."""
    config = access.console.config
    if fields.get("group") is not None:
        raise InvalidPayload("field group: a job that follows a group cannot be in a group")
    defaults = {"agents": list(config.default_agents)} if config.default_agents else {}
    job = create_job(fields, defaults, lambda *_: f"{name}.then")
    check_job(job)
    checks.check_seats(job.payload, config)
    checks.check_budget(job, config)
    return job


@router.post(
    "/groups/{name}/cancel",
    response_model=CancelledGroup,
    responses=described(body=True),
    openapi_extra=takes(Because, is_optional=True),
)
async def cancel_group(access: Operator, name: str, because: Reason) -> Response:
    """Cancel a group as a whole: its live jobs, and what would follow. It takes no more jobs."""
    _check_name(name)
    access.log_action("group cancel", [name], because.reason)
    cancelled = await access.queue.cancel_group(name, by=access.actor.by, reason=because.reason)
    access.log_changed(cancelled)
    then = views.group_json(await _require_group(access.queue, name))["then"]
    return answer({"name": name, "dry_run": False, "cancelled": cancelled, "then": then})


def _check_name(name: str) -> None:
    """Raise InvalidPayload if no group may have this name."""
    check_labels(name, None, {})


async def _require_group(queue: RedisStreamsQueue, name: str) -> Group:
    """Return a group. Raises GroupNotFound."""
    try:
        _check_name(name)
    except InvalidPayload:
        raise GroupNotFound(name, queue.config.queue) from None
    group = await queue.tracker.get_group(name)
    if group is None:
        raise GroupNotFound(name, queue.config.queue)
    return group
