"""The pages of groups: all of them with progress and cost, and one with its arms, and its jobs by status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.base import Group, JobStatus
from aragora_q.errors import AragoraQError
from aragora_q.experiments.notes import ARM_TAG
from aragora_q.gates.spending import Spending, Spent
from aragora_q.labels import JobFilter
from aragora_q.loose import mapping
from aragora_q.web.access import Access, Viewer
from aragora_q.web.lookup import require_group
from aragora_q.web.pages.experiments import Shown, arms_of, read_results
from aragora_q.web.pages.forms import query_number
from aragora_q.web.pages.rendering import render

if TYPE_CHECKING:
    from aragora_q.experiments.counts import ArmJson
    from aragora_q.streams.queue import RedisStreamsQueue

router = APIRouter()

PAGE = 50
"""Groups that are listed first."""

MAX_GROUPS = 1_000


@router.get("/groups")
async def list_groups(request: Request, access: Viewer) -> Response:
    """Return the page of all groups, newest first."""
    limit = query_number(request, "limit", PAGE, MAX_GROUPS)
    groups = await access.queue.tracker.groups(limit + 1)  # one more, to know if that is all
    found = [each for each in groups[:limit] if isinstance(each, Group)]
    spent = await _spent(access, found)
    return render(
        request,
        "groups.html",
        now=await access.queue.tracker.server_time(),
        rows=[{"group": each, **_progress(each), "spent": spent.get(each.name)} for each in found],
        faults=[str(each) for each in groups[:limit] if not isinstance(each, Group)],
        more=min(4 * limit, MAX_GROUPS) if len(groups) > limit < MAX_GROUPS else None,
    )


@router.get("/groups/{name}")
async def show_group(request: Request, access: Viewer, name: str) -> Response:
    """Return the page of one group."""
    group = await require_group(access.queue, name)
    shown = Shown(group)
    arms: list[ArmJson] = []
    if await _has_arms(access.queue, name):
        shown = await read_results(access, group)
        arms = arms_of(await shown.results.comparison()) if shown.results else []
    return render(
        request,
        "group.html",
        now=await access.queue.tracker.server_time(),
        **shown.context(""),
        **_progress(group),
        arms=arms,
        counts=[(status, number) for status, number in group.counts.items() if number],
        spent=(await _spent(access, [group])).get(name),
    )


async def _has_arms(queue: RedisStreamsQueue, name: str) -> bool:
    """Return True if a group is an experiment, as far as its newest jobs show: other groups are not read."""
    newest = await queue.find_page(JobFilter(group=name), "", PAGE)
    labels = await queue.tracker.labels(newest.ids)
    return any(ARM_TAG in mapping(each.get("tags")) for each in labels.values())


def _progress(group: Group) -> dict[str, Any]:
    """Return how many jobs have ended, and the share of all."""
    ended = group.total - group.live
    return {
        "ended": ended,
        "share": ended / group.total if group.total else 0.0,
        "failed": group.counts[JobStatus.FAILED],
    }


async def _spent(access: Access, groups: list[Group]) -> dict[str, Spent]:
    """Return what groups spent, by name; without those whose spending cannot be read."""
    spending = Spending(access.gates)
    try:
        return await spending.of_groups(access.queue.config.queue, [each.name for each in groups])
    except AragoraQError:
        return {}  # all else is shown
