"""Cancel, requeue, hold and unhold jobs: one, several by id, or all that match a filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Response
from pydantic import Field
from typing_extensions import TypedDict

from aragora_q import shapes, views
from aragora_q.base import is_job_id
from aragora_q.errors import InvalidPayload, JobNotFound
from aragora_q.formats import any_of
from aragora_q.job_rules import check_phase
from aragora_q.web.access import Access, Operator
from aragora_q.web.api.jobs import Filter, filter_of
from aragora_q.web.api.routing import (
    Because,
    answer,
    body_of,
    described,
    new_router,
    takes,
    takes_reason,
)
from aragora_q.web.filters import status_names
from aragora_q.web.lookup import require_job_id
from aragora_q.web.problems import Conflict, CountDiffers
from aragora_q.web.selection import Selection
from aragora_q.web.verbs import VERBS, Verb, requeue_from

router = new_router("actions")

MAX_IDS = 1_000


class NotRequeued(Conflict):
    """The job is in a state in which it cannot be requeued."""


class Selected(Because):
    """The jobs of an action: `ids`, or those that match a `filter`, if they are as many as expected."""

    ids: list[str] | None = Field(None, min_length=1, max_length=MAX_IDS)
    filter: Filter | None = None
    expected_count: int | None = Field(None, ge=0, le=2**53)
    dry_run: bool = False


FromPhase = Annotated[
    str | None,
    Field(
        alias="from",
        description="Make the calls of debates again from that phase on: `propose`, `r1`, `r1.review`, "
        "`r1.revise`, `r1.discuss`, `vote`, `judge` or `synthesize`",
    ),
]


class Again(Because):
    """Why a job runs again, and from which phase its debate makes its calls again."""

    from_phase: FromPhase = None


class SelectedAgain(Selected):
    """The jobs that run again, as those of another action; and from which phase on."""

    from_phase: FromPhase = None


class Counted(TypedDict):
    """How many jobs match a filter; nothing is changed."""

    dry_run: bool
    jobs: int


class Many(TypedDict):
    """What became of many jobs. Not `complete`: send it again."""

    changed: int
    complete: bool


class ManyCancelled(Many):
    """Jobs that were to be cancelled: a result for each id. Not `complete`: send it again."""

    results: list[shapes.Cancelled]


class ManyRequeued(Many):
    """Jobs that were to be requeued: a result for each id. Not `complete`: send it again."""

    results: list[shapes.Requeued]


class ManyHeld(Many):
    """Jobs that were to be held: a result for each id. Not `complete`: send it again."""

    results: list[shapes.Held]


class ManyUnheld(Many):
    """Jobs that were to be freed: a result for each id. Not `complete`: send it again."""

    results: list[shapes.Unheld]


@dataclass(frozen=True)
class Action:
    """What is done to jobs."""

    verb: Verb
    describe: Callable[[str, str, str | None], Any]
    """Return the JSON of a job by its id, the queue's answer, and its status after that."""
    shape: Any
    """The type of that JSON."""
    results: Any
    """The type of that JSON for several jobs."""
    body: type[Because] = Because
    """What is sent for one job."""
    selected: type[Selected] = Selected
    """What is sent for many."""

    def asked_by(self, body: Because) -> Action:
        """Return the action as `body` asks for it. Raises InvalidPayload if it names no phase."""
        phase = getattr(body, "from_phase", None)
        if phase is None:
            return self
        check_phase(phase)
        return replace(self, verb=requeue_from(phase))

    async def run(self, access: Access, ids: Sequence[str], reason: str) -> list[str]:
        """Do it to jobs, for a reason; return the queue's answer for each."""
        return await self.verb.send(access.queue, ids, access.actor.by, reason)


ACTIONS = (
    Action(
        VERBS["cancel"],
        lambda job_id, result, _: views.cancelled_json(job_id, result),
        shapes.Cancelled,
        ManyCancelled,
    ),
    Action(
        VERBS["requeue"],
        lambda job_id, result, _: views.requeued_json(job_id, result),
        shapes.Requeued,
        ManyRequeued,
        Again,
        SelectedAgain,
    ),
    Action(
        VERBS["hold"],
        lambda job_id, result, _: views.held_json(job_id, result),
        shapes.Held,
        ManyHeld,
    ),
    Action(VERBS["unhold"], views.unheld_json, shapes.Unheld, ManyUnheld),
)


def _add_routes(action: Action) -> None:
    async def one(
        access: Operator,
        job_id: str,
        because: Because = Depends(body_of(action.body, is_optional=True)),  # noqa: B008 - of this action
    ) -> Response:
        asked = action.asked_by(because)
        require_job_id(access.queue, job_id)
        access.log_action(action.verb.name, [job_id], because.reason)
        [result] = await asked.run(access, [job_id], because.reason)
        if result == "unknown":
            raise JobNotFound(job_id, access.console.config.queue)
        if result in action.verb.refused:
            raise NotRequeued(f"job {job_id} {action.verb.text(result)}")
        [found] = await _described(access, action, [job_id], [result])
        return answer(found)

    async def many(
        access: Operator,
        selected: Selected = Depends(body_of(action.selected)),  # noqa: B008 - likewise
    ) -> Response:
        asked = action.asked_by(selected)
        if (selected.ids is None) == (selected.filter is None):
            raise InvalidPayload("give either ids or a filter")
        if selected.ids is not None:
            return answer(await _of_ids(access, asked, selected.ids, selected.reason))
        return answer(await _of_filter(access, asked, selected))

    conflicts = (HTTPStatus.CONFLICT,) if action.verb.refused else ()
    router.add_api_route(
        f"/jobs/{{job_id}}/{action.verb.name}",
        one,
        methods=["POST"],
        name=f"{action.verb.name}_job",
        description=f"As `{action.verb.name} ID`. A job that is already so does not change.",
        response_model=action.shape,
        **takes_reason(*conflicts, body=action.body),
    )
    router.add_api_route(
        f"/jobs/{action.verb.name}",
        many,
        methods=["POST"],
        name=f"{action.verb.name}_jobs",
        description="Jobs by id, with a result for each; or all that match a filter, if they are "
        "`expected_count`: 409 if not. `dry_run` counts them. A request works for some seconds: if it is not "
        "`complete`, count the rest and go on.",
        response_model=action.results | Counted,
        responses=described(HTTPStatus.CONFLICT, body=True),
        openapi_extra=takes(action.selected),
    )


async def _of_ids(
    access: Access, action: Action, ids: Sequence[str], reason: str
) -> dict[str, Any]:
    valid = [*dict.fromkeys(each for each in ids if is_job_id(each))]
    access.log_action(action.verb.name, valid, reason)
    found = dict(zip(valid, await action.run(access, valid, reason), strict=True))
    results = [found.get(job_id, "unknown") for job_id in ids]
    changed = sum(result in action.verb.changed for result in found.values())
    access.log_changed(changed)
    described_results = await _described(access, action, ids, results)
    return {"results": described_results, "changed": changed, "complete": True}


async def _of_filter(access: Access, action: Action, selected: Selected) -> dict[str, Any]:
    now = await access.queue.tracker.server_time()
    selection = _selection(action, selected.filter or Filter(), now)
    count = await selection.count(access.queue)
    if selected.dry_run:
        return {"dry_run": True, "jobs": count}
    if selected.expected_count is None:
        raise InvalidPayload(
            f"expected_count is missing: the number of jobs that match is {count:,}",
            hint="count them with dry_run, and send their number",
        )
    if count != selected.expected_count:
        raise CountDiffers(
            f"the number of jobs that match is {count:,}, not {selected.expected_count:,}: nothing is changed",
            hint="count them again with dry_run",
        )
    access.log_action(action.verb.name, [selection.words], selected.reason)
    done = await selection.run(access.queue, access.actor.by, selected.reason, most=count)
    access.log_changed(done.changed)
    if done.error is not None and not done.changed:
        raise done.error
    return {"results": [], "changed": done.changed, "complete": done.is_over}


async def _described(
    access: Access, action: Action, ids: Sequence[str], results: Sequence[str]
) -> list[Any]:
    statuses: Mapping[str, str | None] = {}
    if action.verb.name == "unhold":
        known = [each for each in ids if is_job_id(each)]
        statuses = await access.queue.tracker.get_statuses(known)
    return [
        action.describe(job_id, result, statuses.get(job_id))
        for job_id, result in zip(ids, results, strict=True)
    ]


def _selection(action: Action, given: Filter, now: float) -> Selection:
    """Return the jobs that an action means by a filter. Raises InvalidPayload, also for other statuses."""
    wanted = filter_of(given, now)
    if other := wanted.statuses - action.verb.statuses:
        raise InvalidPayload(
            f"{action.verb.name} takes only jobs whose status is {any_of(status_names(action.verb.statuses))}, "
            f"not {any_of(status_names(other))}"
        )
    return Selection.matching(action.verb, wanted)


for _action in ACTIONS:
    _add_routes(_action)
