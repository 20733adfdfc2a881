"""`aragora-q budget`: list, show, set and reset the budgets of all workers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import SETTINGS, options, output
from aragora_q.cli.options import CODES, AsJson, LoadConfig, Reason, with_config, with_queue
from aragora_q.errors import BudgetNotFound
from aragora_q.formats import dollars
from aragora_q.views import budget_json

if TYPE_CHECKING:
    from aragora_q.config.tables import BudgetConfig
    from aragora_q.gates.book import Book, Budget, ScopeSpending
    from aragora_q.streams.queue import RedisStreamsQueue

OWN = "in your configuration; it applies while a worker runs with it"

MAX_LISTED = 10
"""Values of a scope that `list` shows; `show` has all."""

budget = typer.Typer(no_args_is_help=True, add_completion=False, **SETTINGS)


@budget.callback()
def _budget() -> None:
    """List, show, set and reset budgets: what all workers may spend in a window of time.

    Budgets are declared in the configuration of workers; the lowest limit counts. `set` replaces it for
    all workers at once, until `reset`.
    """


Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Name of a budget.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only names.")]


@budget.command(
    "list",
    epilog="\b\nExamples:\n  aragora-q budget list\n  aragora-q budget list --jsonl | jq -r .name\n\n\b\n"
    f"Exit codes:\n  0 ok   {CODES}",
)
@with_queue
async def list_(queue: RedisStreamsQueue, *, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the budgets that apply, and what is spent.

    Amounts are those of the current window. USED is the part of the limit that is spent or reserved.
    """
    async with _open_book(queue) as book:
        budgets = await book.budgets()
        if quiet:
            output.lines(each.name for each in budgets)
            return
        if as_json:
            for each in budgets:
                output.json_line(await budget_json(book, each))
            return
        rows = [row for each in budgets for row in await _first_rows(book, each)]
    if not budgets:
        output.info(
            f"no budget applies at {queue.connection.address}: no live worker declares one, and none is set"
        )
        if own := queue.config.budgets:
            output.info(f"{', '.join(sorted(own))}: {OWN}")
        return
    _print_table(rows)


@budget.command(
    epilog="\b\nExamples:\n  aragora-q budget show tenants --json | jq .spending\n\n\b\n"
    f"Exit codes:\n  0 ok   3 no such budget\n  {CODES}",
)
@with_queue
async def show(queue: RedisStreamsQueue, *, name: Name, as_json: AsJson = False) -> None:
    """Show a budget: limit, spending, and who set it."""
    async with _open_book(queue) as book:
        found = await _require(queue, book, name)
        if as_json:
            output.json_line(await budget_json(book, found))
            return
        ends_at, spendings = await book.spending(name)
        spent = [each async for each in spendings]
        _print_table(_rows(found, ends_at, spent))
        output.line()
        output.line(f"when full: {found.on_full}")
        for line in _uncertain(spent):
            output.line(line)
        if found.override is not None:
            now = await queue.tracker.server_time()
            output.line(found.override.text("set", now))
        if found.declared_by:
            workers = ", ".join(found.declared_by)
            output.line(f"declared by {output.truncate(workers, 200)}")


@budget.command(
    "set",
    epilog="\b\nExamples:\n  aragora-q budget set month 500 --reason 'launch week'\n"
    "  aragora-q budget set tenants 5/day --scope tenant\n\n\b\n"
    f"Exit codes:\n  0 ok   2 usage: not an amount, window or scope\n  {CODES}",
)
@with_config
def set_(
    load: LoadConfig,
    *,
    name: Name,
    amount: Annotated[
        str,
        typer.Argument(
            metavar="AMOUNT",
            show_default=False,
            help="US dollars: 50, or 50/hour, /day, /month, /total.",
        ),
    ],
    scope: Annotated[
        str | None,
        typer.Option(
            "--scope",
            metavar="S",
            help="all, or queue, tenant, group, provider, agent; or one of them: tenant:acme.",
        ),
    ] = None,
    on_full: Annotated[
        str | None,
        typer.Option("--on-full", metavar="ACTION", help="hold, fail or warn."),
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Set a budget for all workers, at once, until `budget reset`.

    What is not given stays as it is; a new budget needs a window, and is for all calls and holds if
    not said otherwise. A lower limit stops calls from now on; a higher one frees held jobs within
    seconds.
    """
    given = {**_parse_amount(amount), "scope": scope, "on_full": on_full}
    given = {key: value for key, value in given.items() if value is not None}
    _check(name, {"window": "total", **given})
    options.run(_set(load, name, given, reason, as_json=as_json))


async def _set(
    load: LoadConfig, name: str, given: dict[str, Any], reason: str, *, as_json: bool
) -> None:
    async with options.open_queue(load()) as queue, _open_book(queue) as book:
        before = await book.budget(name)
        if before is not None:
            given = {**before.config().model_dump(), **given}
        elif "window" not in given:
            raise typer.BadParameter(
                f"{name:.100} is a new budget: give its window, such as 50/day", param_hint="AMOUNT"
            )
        wanted = _check(name, given)
        await book.set_budget(name, wanted, by=options.operator(), reason=reason)
        found = await book.require(name)
        if as_json:
            output.json_line(await budget_json(book, found))
        else:
            was = f" (was {_limit(before)})" if before is not None else ""
            output.line(
                f"{name} set to {_limit(found)}, scope {found.scope}, when full: {found.on_full}{was}"
            )


@budget.command(
    epilog="\b\nExamples:\n  aragora-q budget reset month\n\n\b\n"
    f"Exit codes:\n  0 ok   3 no such budget\n  {CODES}",
)
@with_queue
async def reset(
    queue: RedisStreamsQueue, *, name: Name, reason: Reason = "", as_json: AsJson = False
) -> None:
    """Let what workers declare apply again. What was spent stays."""
    async with _open_book(queue) as book:
        before = await _require(queue, book, name)
        is_reset = await book.reset_budget(name, by=options.operator(), reason=reason)
        found = await book.budget(name)
        if as_json:
            # JSON: `name`, `reset` (false: nothing was set), `budget` (as of show; null: none applies now).
            after = None if found is None else await budget_json(book, found)
            output.json_line({"name": name, "reset": is_reset, "budget": after})
            return
    applies = f"{_limit(found)} applies" if found is not None else "no budget of this name applies"
    if is_reset:
        output.line(f"{name} reset (was {_limit(before)}): {applies}")
    else:
        output.line(f"{name} was not set: {applies}")


@asynccontextmanager
async def _open_book(queue: RedisStreamsQueue) -> AsyncIterator[Book]:
    from aragora_q.gates.book import Book

    async with queue.connection.open_gates() as gates:
        yield Book(gates)


async def _require(queue: RedisStreamsQueue, book: Book, name: str) -> Budget:
    """Return a budget. Raises BudgetNotFound; its hint names one that only this configuration has."""
    try:
        return await book.require(name)
    except BudgetNotFound as error:
        error.hint = OWN if name in queue.config.budgets else error.hint
        raise


def _parse_amount(text: str) -> dict[str, Any]:
    """Return limit and window of `50`, `$50` or `50/day`. Raises typer.BadParameter."""
    match = re.fullmatch(r"\$?([0-9]{1,12}(?:\.[0-9]{1,6})?)(?:/([a-z]+))?", text)
    if not match:
        raise typer.BadParameter(
            f"{text!r:.100} is not US dollars with at most 6 decimals, such as 50, 0.25 or 50/day",
            param_hint="AMOUNT",
        )
    return {"limit_usd": float(match[1]), "window": match[2]}


def _check(name: str, given: dict[str, Any]) -> BudgetConfig:
    """Return the budget, checked by the rules of the configuration. Raises typer.BadParameter."""
    from pydantic import ValidationError

    from aragora_q.config.tables import BudgetConfig
    from aragora_q.config.values import check_name
    from aragora_q.errors import validation_rule

    try:
        check_name(name)
        return BudgetConfig(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        option = {"scope": "--scope", "on_full": "--on-full"}.get(str(fault["loc"][0]), "AMOUNT")
        text = f"{fault['input']!r:.100} {validation_rule(fault['msg'])}"
        raise typer.BadParameter(text, param_hint=option) from None
    except ValueError as error:
        raise typer.BadParameter(f"{name!r:.100}: {error}", param_hint="NAME") from None


def _limit(found: Budget) -> str:
    return f"{dollars(found.limit_usd)}/{found.window}"


async def _first_rows(book: Book, found: Budget) -> list[tuple[str, ...]]:
    """Return the rows of a budget's table for the first MAX_LISTED values of its scope."""
    ends_at, spendings = await book.spending(found.name)
    spent: list[ScopeSpending] = []
    async for each in spendings:
        if len(spent) == MAX_LISTED:
            return [*_rows(found, ends_at, spent), (found.name, "…", *[""] * 6)]
        spent.append(each)
    return _rows(found, ends_at, spent)


def _rows(
    found: Budget, ends_at: int | None, spent: Sequence[ScopeSpending]
) -> list[tuple[str, ...]]:
    """Return the rows of a budget's table: one per value of its scope."""
    origin = "set" if found.override else output.count(len(found.declared_by), "worker")
    ends = "" if ends_at is None else _utc(ends_at)
    if not spent:
        return [(found.name, found.scope, _limit(found), *["$0"] * 2, "0%", ends, origin)]
    return [
        (found.name, each.scope, _limit(found), *_amounts(found, each), ends, origin)
        for each in spent
    ]


def _uncertain(spent: Sequence[ScopeSpending]) -> Iterator[str]:
    """Yield what of the spending was estimated, or was more than reserved, as lines of text."""
    if estimated := sum(each.estimated_usd for each in spent):
        yield f"estimated: {dollars(estimated)} of what is spent; the ends of these calls are not known"
    if overrun := sum(each.overrun_usd for each in spent):
        yield f"overrun: {dollars(overrun)} of what is spent; it was more than had been reserved"


def _amounts(found: Budget, spent: ScopeSpending) -> tuple[str, ...]:
    return dollars(spent.spent_usd), dollars(spent.reserved_usd), f"{found.share(spent):.0%}"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    output.table(
        ("BUDGET", "SCOPE", "LIMIT", "SPENT", "RESERVED", "USED", "ENDS (UTC)", "ORIGIN"), rows
    )


def _utc(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
