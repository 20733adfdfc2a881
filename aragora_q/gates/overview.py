"""The state of the gates at one moment, in a bounded number of reads: for `stats` and the exporter.

Reads take as long as there are budgets and accounts, whatever was spent.
"""

from __future__ import annotations

from dataclasses import dataclass

from aragora_q.gates import book
from aragora_q.gates.book import PAGE, Book, Budget
from aragora_q.gates.client import REASONS
from aragora_q.gates.spending import Spending, Spent
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.scripts import BATCH_LIMIT

MAX_ACCOUNTS = BATCH_LIMIT
"""Accounts whose state is read: those used last, in one call."""


@dataclass(frozen=True, slots=True)
class AccountState:
    """What the gate of an account lets through."""

    account: str
    provider: str
    closed_by: str
    """Why it is closed, one of REASONS; empty if it is open."""
    seconds: float | None
    """Until it opens; 0 if it is open, None: until someone acts."""
    limit: int | None
    """Most calls under way that rate limits have left; None: no limit."""
    under_way: int
    waiting: int

    @property
    def reason(self) -> str:
        """Why it is closed, in words."""
        return REASONS.get(self.closed_by, self.closed_by)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget, and what was spent from it in its current window, for one value of its scope."""

    budget: Budget
    spending: book.Spending
    seconds_left: float | None
    """Until its window ends; None: it does not."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The gates, as the operators of a queue see them."""

    spent_today: Spent
    """By the queue, since midnight UTC."""
    accounts: list[AccountState]
    budgets: list[BudgetState]


async def read_overview(connection: Connection, *, with_budgets: bool = False) -> Overview:
    """Read the state of the gates over a connection to them.

    Raises:
        RedisUnreachable, TryAgain, AccessDenied: Redis does not answer.
        ValueError: data in Redis is corrupted.
    """
    spending = Spending(connection)
    now = await spending.now()
    spent = await spending.of_queue(connection.config.queue, now.date())
    budgets = await _budgets(Book(connection), now.timestamp()) if with_budgets else []
    return Overview(spent, await _accounts(connection), budgets)


async def _budgets(books: Book, now: float) -> list[BudgetState]:
    """Return all budgets, each for at most PAGE values of its scope."""
    found = []
    for budget in await books.budgets():
        ends_at, spendings = await books.spending(budget.name)
        left = None if ends_at is None else max(0.0, ends_at / 1000 - now)
        values = 0
        async for spending in spendings:
            found.append(BudgetState(budget, spending, left))
            values += 1
            if values == PAGE:  # before another page is read
                break
    return found


async def _accounts(connection: Connection) -> list[AccountState]:
    """Return the accounts used last, sorted by name."""
    key = connection.gate_keys.named["accounts"]
    latest = await connection.execute("ZRANGE", key, 0, MAX_ACCOUNTS - 1, "REV")
    names = sorted(map(replies.text, latest))
    if not names:
        return []
    states = await connection.run("gate_states", [(None, (name,)) for name in names])
    return [
        AccountState(
            account=name,
            provider=replies.text(provider),
            closed_by=replies.text(why) if ms else "",
            seconds=None if ms < 0 or why == b"paused" else ms / 1000,  # a pause ends by a person
            limit=limit if limit >= 0 else None,
            under_way=under_way,
            waiting=waiting,
        )
        for name, (ms, why, provider, limit, under_way, waiting, *_) in zip(
            names, states, strict=True
        )
    ]
