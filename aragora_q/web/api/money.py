"""Money: what was spent, providers, budgets, and what a debate will cost."""

from __future__ import annotations

from datetime import UTC, date, timedelta
from typing import Annotated, Any, Literal, NotRequired

from fastapi import Depends, Query, Request, Response
from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from aragora_q import shapes, views
from aragora_q.errors import InvalidPayload
from aragora_q.gates.accounts import Accounts, check_provider
from aragora_q.gates.book import Book, changed_budget
from aragora_q.gates.spending import Spending
from aragora_q.intake.bulk import BulkSummary
from aragora_q.intake.checks import held_fields
from aragora_q.labels import check_labels
from aragora_q.money import SPENT_BY, SPENT_DAYS
from aragora_q.web.access import Operator, Producer, Viewer
from aragora_q.web.api.jobs import NewJob, new_checker
from aragora_q.web.api.routing import (
    Because,
    Reason,
    Strict,
    answer,
    body_of,
    described,
    new_router,
    read_object,
    takes,
    takes_reason,
)

router = new_router("money")

Day = Annotated[date, BeforeValidator(date.fromisoformat)]
"""A date as 2026-11-28; nothing else that pydantic takes for one."""

By = Literal["day", "queue", "tenant", "group", "agent", "provider", "model"]


class SpendQuery(Strict):
    """The query of spending. Days are in UTC; `until` is the last one."""

    by: list[By] = Field(["day"], max_length=len(SPENT_BY))
    since: Day | None = None
    until: Day | None = None
    tenant: str | None = None
    group: str | None = None
    agent: str | None = None
    provider: str | None = None
    model: str | None = None


class SpendRow(shapes.SpentJson):
    """What calls took: of a day, tenant and so on, as far as `by` names it."""

    day: NotRequired[str | None]
    queue: NotRequired[str | None]
    tenant: NotRequired[str | None]
    group: NotRequired[str | None]
    agent: NotRequired[str | None]
    provider: NotRequired[str | None]
    model: NotRequired[str | None]
    is_other: bool


class SpendReport(TypedDict):
    """Rows as of `spend`. `left_out` are calls of which it is not kept whether they match."""

    rows: list[SpendRow]
    left_out: int
    errors: list[str]


class Providers(TypedDict):
    """Accounts that jobs have needed, and paused providers."""

    providers: list[shapes.ProviderJson]


class PausedProvider(TypedDict):
    """Whether a provider is paused now. `changed` false: it was so before."""

    name: str
    paused: bool
    changed: bool


class Budgets(TypedDict):
    """The budgets that apply."""

    budgets: list[shapes.BudgetJson]


class ResetBudget(TypedDict):
    """`reset` false: nothing was set. `budget` is what applies now, or null."""

    name: str
    reset: bool
    budget: shapes.BudgetJson | None


class SetBudget(Because):
    """A budget. What is not given stays as it is; a new one needs a window."""

    limit_usd: float = Field(allow_inf_nan=False)
    window: Literal["hour", "day", "month", "total"] | None = None
    scope: str | None = None
    on_full: Literal["hold", "fail", "warn"] | None = None


class EstimateJson(TypedDict):
    """What a debate takes. Null: a price, or a duration, is not known."""

    calls: float
    input_tokens: int
    output_tokens: int
    usd: float | None
    seconds: float | None


class QuoteJson(TypedDict):
    """A quote, as of `enqueue --quote`."""

    least: EstimateJson
    expected: EstimateJson
    most: EstimateJson
    lines: list[dict[str, Any]]
    debates: int
    agents_without_history: list[str]
    unpriced_agents: list[str]
    held: NotRequired[bool]
    most_usd: NotRequired[float | None]


@router.get("/spend", response_model=SpendReport, responses=described())
async def get_spend(access: Viewer, query: Annotated[SpendQuery, Query()]) -> Response:
    """Return what paid calls of the queue took: by default by day, of the last 7 days."""
    if len({*query.by}) < len(query.by):
        raise InvalidPayload("query by: a name is given twice")
    check_labels(query.group, query.tenant, {})
    only = query.model_dump(exclude={"by", "since", "until"}, exclude_none=True)
    spending = Spending(access.gates)
    last = query.until or (await spending.now()).astimezone(UTC).date()
    first = query.since or _days_before(last)
    if first > last:
        raise InvalidPayload("query until: it is before since, no days match")
    queue = access.console.config.queue
    report = await spending.report(first, last, query.by, {**only, "queue": queue})
    rows = [views.spend_json(query.by, *row) for row in views.spend_rows(query.by, report)]
    return answer({"rows": rows, "left_out": report.left_out.calls, "errors": report.faults})


def _days_before(last: date) -> date:
    return max(last, date.min + timedelta(SPENT_DAYS)) - timedelta(SPENT_DAYS - 1)


@router.get("/providers", response_model=Providers, responses=described())
async def list_providers(access: Viewer) -> Response:
    """List accounts that jobs have needed, and paused providers, as `providers list`."""
    now = await access.queue.tracker.server_time()
    return answer({"providers": await views.read_providers(Accounts(access.gates), now)})


@router.post(
    "/providers/{name}/pause",
    response_model=PausedProvider,
    **takes_reason(),
)
async def pause_provider(access: Operator, name: str, because: Reason) -> Response:
    """Begin no more calls to a provider, or to one account, until it is resumed."""
    access.log_action("providers pause", [check_provider(name)], because.reason)
    is_new = await Accounts(access.gates).pause(name, by=access.actor.by, reason=because.reason)
    return answer({"name": name, "paused": True, "changed": is_new})


@router.post(
    "/providers/{name}/resume",
    response_model=PausedProvider,
    **takes_reason(),
)
async def resume_provider(access: Operator, name: str, because: Reason) -> Response:
    """Let calls to a provider begin again, whatever stopped them.

    `paused` true: one of its accounts stays paused by another name.
    """
    access.log_action("providers resume", [check_provider(name)], because.reason)
    resumed = await Accounts(access.gates).resume(name, by=access.actor.by, reason=because.reason)
    return answer({"name": name, "paused": bool(resumed.account), "changed": resumed.changed})


@router.get("/budgets", response_model=Budgets, responses=described())
async def list_budgets(access: Viewer) -> Response:
    """List the budgets that apply, with what is spent of them."""
    book = Book(access.gates)
    found = [await views.budget_json(book, each) for each in await book.budgets()]
    return answer({"budgets": found})


@router.get("/budgets/{name}", response_model=shapes.BudgetJson, responses=described())
async def get_budget(access: Viewer, name: str) -> Response:
    """Return a budget, as `budget show`."""
    book = Book(access.gates)
    return answer(await views.budget_json(book, await book.require(name)))


@router.put(
    "/budgets/{name}",
    response_model=shapes.BudgetJson,
    responses=described(body=True),
    openapi_extra=takes(SetBudget),
)
async def set_budget(
    access: Operator, name: str, body: Annotated[SetBudget, Depends(body_of(SetBudget))]
) -> Response:
    """Set a budget for all workers, at once, until it is reset."""
    book = Book(access.gates)
    given = body.model_dump(exclude={"reason"}, exclude_none=True)
    wanted = changed_budget(name, await book.budget(name), given)
    access.log_action("budget set", [name], body.reason)
    await book.set_budget(name, wanted, by=access.actor.by, reason=body.reason)
    return answer(await views.budget_json(book, await book.require(name)))


@router.post(
    "/budgets/{name}/reset",
    response_model=ResetBudget,
    **takes_reason(),
)
async def reset_budget(access: Operator, name: str, because: Reason) -> Response:
    """Let what workers declare apply again. What was spent stays."""
    access.log_action("budget reset", [name], because.reason)
    book = Book(access.gates)
    await book.require(name)
    is_reset = await book.reset_budget(name, by=access.actor.by, reason=because.reason)
    found = await book.budget(name)
    after = None if found is None else await views.budget_json(book, found)
    return answer({"name": name, "reset": is_reset, "budget": after})


@router.post(
    "/quotes",
    response_model=QuoteJson,
    responses=described(body=True),
    openapi_extra=takes(NewJob),
)
async def quote(access: Producer, request: Request) -> Response:
    """Return what a debate will take and cost, as `enqueue --quote`; nothing is enqueued.

    `held` is true if it would wait for an approval; above `max_quote_usd` it is refused, as if enqueued.
    """
    checker = new_checker(access, BulkSummary())
    found = await checker.check(1, await read_object(request))
    quoted = await checker.quoter.quote(found.job.payload)
    return answer({**quoted.to_dict(), **held_fields(found.approval)})
