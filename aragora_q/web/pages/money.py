"""The page of money: what was spent, budgets with what is spent and reserved, providers and their state.

The numbers are those of `spend`, `budget list` and `providers list`.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from markupsafe import Markup

from aragora_q.errors import AragoraQError
from aragora_q.gates.accounts import Accounts
from aragora_q.gates.book import NEARLY_USED, Book, Budget, ScopeSpending
from aragora_q.gates.spending import Report, Spending, Spent
from aragora_q.money import SPENT_BY, SPENT_DAYS
from aragora_q.views import read_providers, spend_rows
from aragora_q.web.access import Access, Viewer
from aragora_q.web.pages.forms import query_number
from aragora_q.web.pages.rendering import render, server_options

router = APIRouter()

SPANS = (1, 7, 30, 90, 400)
"""Days that can be shown."""

MAX_ROWS = 200
"""Rows of spending that are shown."""

MAX_SCOPES = 20
"""Values of a budget's scope that are shown."""

BAR_WIDTH = 160

Row = TypeVar("Row")


@dataclass(frozen=True)
class BudgetRow:
    """A budget, and what was spent of it for one value of its scope."""

    budget: Budget
    spending: ScopeSpending
    window_ends_at: float | None
    """In Unix seconds."""

    @property
    def used(self) -> float:
        """The share of the limit that is spent or reserved."""
        return self.budget.share(self.spending)

    @property
    def bar(self) -> Markup:
        """What is spent, and after it what is reserved, as parts of the limit: a drawing."""
        name = f"{self.budget.name}, {self.spending.scope}"
        return share_bar(
            f"Budget {name}: {self.used:.0%} used",
            self.spending.spent_usd / self.budget.limit_usd,
            self.spending.reserved_usd / self.budget.limit_usd,
        )


@router.get("/money")
async def show_money(request: Request, access: Viewer) -> Response:
    """Return the page of money. What cannot be read is named, and all else is shown."""
    by = request.query_params.get("by", "")
    by = by if by in SPENT_BY else "day"
    days = query_number(request, "days", SPENT_DAYS, SPANS[-1])
    all_queues = request.query_params.get("all_queues") == "true"
    faults: list[str] = []
    spending = Spending(access.gates)
    today = (await spending.now()).date()
    first = today - timedelta(days=days - 1)
    only = {} if all_queues else {"queue": access.queue.config.queue}
    report = await spending.report(first, today, [by], only)
    faults += [f"data in Redis is corrupted: {fault}" for fault in report.faults]
    budgets = await _readable(_budgets(access), faults, "budgets")
    now = await access.queue.tracker.server_time()
    providers = await _readable(read_providers(Accounts(access.gates), now), faults, "providers")
    scope = () if all_queues else ("--queue", access.queue.config.queue)
    server = server_options(access.console.config)
    return render(
        request,
        "money.html",
        now=now,
        by=by,
        days=days,
        spans=[(str(each), str(each)) for each in SPANS],
        all_queues=all_queues,
        rows=_spend_rows(by, report),
        more=max(0, len(report.rows) - MAX_ROWS),
        total=report.total,
        left_out=report.left_out.calls,
        budgets=budgets,
        were_set=list(dict.fromkeys(row.budget.name for row in budgets if row.budget.override)),
        providers=providers,
        faults=faults,
        spend_command=shlex.join(
            ("aragora-q", "spend", "--by", by, "--since", first.isoformat(), *server, *scope)
        ),
    )


def share_bar(title: str, spent: float, reserved: float) -> Markup:
    """Return a bar with two parts, given as shares of its width; what does not fit is cut."""
    first = min(max(spent, 0.0), 1.0) * BAR_WIDTH
    second = min(max(reserved, 0.0) * BAR_WIDTH, BAR_WIDTH - first)
    tone = "bad" if spent + reserved >= 1 else "caution" if spent + reserved >= NEARLY_USED else ""
    return Markup(
        '<svg class="share-bar {}" role="img" viewBox="0 0 {} 10" preserveAspectRatio="none"><title>{}</title>'
        '<rect class="limit" width="{}" height="10"/><rect class="spent" width="{:.1f}" height="10"/>'
        '<rect class="reserved" x="{:.1f}" width="{:.1f}" height="10"/></svg>'
    ).format(tone, BAR_WIDTH, title, BAR_WIDTH, first, first, second)


async def _readable(reading: Awaitable[list[Row]], faults: list[str], what: str) -> list[Row]:
    """Return what can be read; else nothing, and add why to `faults`."""
    try:
        return await reading
    except (AragoraQError, ValueError) as error:
        faults.append(f"{what} cannot be read: {error}")
        return []


@dataclass(frozen=True)
class SpendRow:
    """A row of spending. `share` is that of the dearest row, for its bar."""

    name: str
    spent: Spent
    share: float


def _spend_rows(by: str, report: Report) -> list[SpendRow]:
    dearest = max((spent.micro_usd for spent in report.rows.values()), default=0)
    rows = list(spend_rows([by], report))
    if by == "day":
        rows.reverse()  # the newest first
    return [
        SpendRow(
            "other" if key[0] is None else key[0] or "none",
            spent,
            spent.micro_usd / dearest if dearest else 0.0,
        )
        for key, spent in rows[:MAX_ROWS]
    ]


async def _budgets(access: Access) -> list[BudgetRow]:
    book, rows = Book(access.gates), []
    for budget in await book.budgets():
        ends_at, spendings = await book.spending(budget.name)
        ends = None if ends_at is None else ends_at / 1000
        found = []
        async for each in spendings:
            found.append(each)
            if len(found) == MAX_SCOPES:
                break
        nothing = ScopeSpending(budget.scope, 0.0, 0.0, 0.0, 0.0)
        rows += [BudgetRow(budget, each, ends) for each in found or [nothing]]
    return rows
