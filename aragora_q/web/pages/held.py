"""The page of held jobs: by what holds them, with what each waits for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.base import HOLD_CAUSES, Job
from aragora_q.contracts import HeldJob
from aragora_q.errors import AragoraQError
from aragora_q.gates.accounts import Account, read_accounts
from aragora_q.gates.book import Book, Budget, ScopeSpending
from aragora_q.gates.policy import holder_name
from aragora_q.web.access import Access, Viewer
from aragora_q.web.pages.jobs import read_shown
from aragora_q.web.pages.rendering import render

router = APIRouter()

PAGE = 50
"""Held jobs on a page."""

MAX_SCOPES = 1_000
"""Values of a budget's scope among which the one that holds a job is looked for."""

_CURSOR = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,9})? \S{1,64}")
"""Where a page begins, as the page before says: the time of a hold, and a job id."""

TITLES = {
    "approval": "Wait for an approval",
    "person": "Held by a person",
    "budget": "Wait for budget",
    "provider": "Wait for provider",
    "executor": "Held by their executor",
}

WAYS_OUT = {
    "approval": "They can cost more than was allowed without an approval. They run once they are approved.",
    "person": "They run once they are unheld.",
    "budget": "They are freed when twice what they need is left of the budget, or in a new window.",
    "provider": "They are freed when the account takes calls again.",
    "executor": "They run once they are unheld, or when the hold is over.",
}


@dataclass
class HeldGroup:
    """Held jobs with the same cause, in the order of their holds."""

    cause: str
    by: str
    """The budget with the value of its scope, or the account; blank for other causes."""
    jobs: list[tuple[HeldJob, Job | None]] = field(default_factory=list)
    budget: Budget | None = None
    spending: ScopeSpending | None = None
    window_ends_at: float | None = None
    """In Unix seconds."""
    account: Account | None = None

    @property
    def title(self) -> str:
        """What the jobs wait for."""
        return f"{TITLES[self.cause]} {self.by}" if self.by else TITLES[self.cause]

    @property
    def way_out(self) -> str:
        """When the jobs are freed."""
        return WAYS_OUT[self.cause]

    @property
    def used(self) -> float:
        """The share of the budget that is spent or reserved."""
        if self.budget is None or self.spending is None:
            return 0.0
        return self.budget.share(self.spending)


@router.get("/held")
async def list_held(request: Request, access: Viewer, after: str = "") -> Response:
    """Return the page of held jobs, in the order of their holds, those of one cause together."""
    queue = access.queue
    after = after if _CURSOR.fullmatch(after) else ""
    page = await queue.list_held(HOLD_CAUSES, after, limit=PAGE)
    jobs, _ = await read_shown(queue, [each.id for each in page.jobs])
    groups = group_by_cause(page.jobs, jobs)
    try:
        for group in groups:
            await _add_gate(access, group)
        fault = ""
    except (AragoraQError, ValueError) as error:  # all else is shown
        fault = f"budgets and providers cannot be read: {error}"
    return render(
        request,
        "held.html",
        now=await queue.tracker.server_time(),
        groups=groups,
        fault=fault,
        after=after,
        next_after=page.after,
    )


def group_by_cause(held: Sequence[HeldJob], jobs: Sequence[object]) -> list[HeldGroup]:
    """Return held jobs by what holds them; `jobs` are their data, as far as it can be read."""
    groups: dict[tuple[str, str], HeldGroup] = {}
    for each, job in zip(held, jobs, strict=True):
        cause = each.cause if each.cause in TITLES else "person"
        by = each.by if cause in ("budget", "provider") else ""
        group = groups.setdefault((cause, by), HeldGroup(cause, by))
        group.jobs.append((each, job if isinstance(job, Job) else None))
    order = list(TITLES)
    return sorted(groups.values(), key=lambda group: order.index(group.cause))


async def _add_gate(access: Access, group: HeldGroup) -> None:
    """Add what is left of the budget that holds jobs, or the state of the account."""
    if group.cause == "provider":
        [group.account] = await read_accounts(access.gates, [group.by])
    if group.cause != "budget":
        return
    book, name = Book(access.gates), group.by.partition("/")[0]
    group.budget = await book.budget(name)
    if group.budget is None:
        return
    ends_at, spendings = await book.spending(name)
    group.window_ends_at = None if ends_at is None else ends_at / 1000
    seen = 0
    async for each in spendings:
        if group.by in (name, holder_name(f"{name}/{each.scope}")):
            group.spending = each
            return
        seen += 1
        if seen == MAX_SCOPES:
            return
