"""The state of the gates at one moment, in a bounded number of reads: for `stats` and the exporter."""

from __future__ import annotations

from dataclasses import dataclass

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
class Overview:
    """The gates, as the operators of a queue see them."""

    spent_today: Spent
    """By the queue, since midnight UTC."""
    accounts: list[AccountState]


async def read_overview(connection: Connection) -> Overview:
    """Read the state of the gates over a connection to them.

    Raises:
        RedisUnreachable, TryAgain, AccessDenied: Redis does not answer.
        ValueError: data in Redis is corrupted.
    """
    spending = Spending(connection)
    today = (await spending.now()).date()
    spent = await spending.of_queue(connection.config.queue, today)
    return Overview(spent, await _accounts(connection))


async def _accounts(connection: Connection) -> list[AccountState]:
    """Return the accounts used last, sorted by name."""
    latest = await connection.execute("ZRANGE", connection.gate_keys.named["accounts"], 0, MAX_ACCOUNTS - 1, "REV")
    names = sorted(map(replies.text, latest))
    if not names:
        return []
    states = await connection.run("gate_states", [(None, (name,)) for name in names])
    return [
        AccountState(
            account=name,
            provider=replies.text(provider),
            closed_by=replies.text(why) if ms else "",
            seconds=None if ms < 0 else ms / 1000,
            limit=limit if limit >= 0 else None,
            under_way=under_way,
            waiting=waiting,
        )
        for name, (ms, why, provider, limit, under_way, waiting, *_) in zip(
            names, states, strict=True
        )
    ]
