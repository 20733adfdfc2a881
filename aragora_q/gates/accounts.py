"""Accounts of providers: which take no calls and why, their limits, their calls, and pauses by operators.

Used by the client of a worker, by `aragora-q providers` and by the overview, over a connection to the gates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from aragora_q.context import FLEX_GATE
from aragora_q.errors import InvalidPayload, ProviderNotFound, did_you_mean
from aragora_q.gates.overrides import Override, read_overrides, write_override
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.scripts import batched

CLOSED_FOREVER = -1
"""Instead of a time: until someone acts."""

CLOSED_BY = {
    "rate_limited": "the provider's rate limit",
    "overloaded": "the provider is overloaded",
    "no_capacity": "the provider's flex tier has no capacity",
    "outage": "calls failed five times in a row",
    "credit": "the account's credit is used up",
    "paused": "paused by an operator",
}
"""Why an account takes no calls, by what scripts answer."""

REASONS = {
    **CLOSED_BY,
    "probe": "another call tries whether the provider answers again",
    "capacity": "another call tries whether the flex tier has capacity again",
    "concurrency": "as many calls as allowed are under way",
    "rate": "the rate of calls or tokens is used up",
}
"""The same, and why a call has to wait for its turn."""

State = Literal["open", "probing", "closed", "paused"]
"""`probing`: it was closed, and the next call tries whether it answers again."""

AGENT_FIELD = "agent:"
MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Account:
    """The gate of one account."""

    name: str
    provider: str
    state: State
    closed_by: str
    """Why it is closed, or was before it is tried again: one of CLOSED_BY; empty if it is open."""
    seconds: float | None
    """How long calls need not ask; 0: it takes some, None: until someone acts."""
    limit: int | None
    """Calls at once that the provider is known to take; None: not known."""
    under_way: int
    waiting: int
    faults: int
    """Transient faults in a row."""

    @property
    def reason(self) -> str:
        """Why it is closed, in words; empty if it is open."""
        return CLOSED_BY.get(self.closed_by, self.closed_by)

    @property
    def paused_by(self) -> Sequence[str]:
        """The names whose pause stops it: its own, its account's if it is for flex, and its provider's."""
        return list(dict.fromkeys((self.name, self.name.removesuffix(FLEX_GATE), self.provider)))

    @property
    def is_closed(self) -> bool:
        """True if it takes no calls."""
        return self.seconds != 0

    @property
    def opens_in_seconds(self) -> float | None:
        """Until it opens by itself; None: it takes calls, or none until someone acts."""
        return self.seconds or None if self.state == "closed" else None

    @property
    def free_calls(self) -> int | None:
        """How many more calls it takes; None: no limit is known. One that is open is never full for good."""
        match self.state:
            case "open":
                return (
                    None
                    if self.limit is None
                    else max(1, self.limit - self.under_way - self.waiting)
                )
            case "probing":
                return 1
        return 0


class Resumed(NamedTuple):
    """What became of a provider or account that was resumed."""

    changed: bool
    """False: it was neither paused nor closed."""
    account: str = ""
    """An account of it that stays paused; empty: none does."""
    paused_by: str = ""
    """Which pause stops that account: of it, or of its provider."""


def check_provider(name: str) -> str:
    """Return the name of a provider or account. Raises InvalidPayload if none can have it."""
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable() or " " in name:
        raise InvalidPayload(
            f"{name!r:.100} is not a provider or account: 1 to {MAX_NAME_CHARS} printable characters "
            "without blanks"
        )
    return name


class Accounts:
    """Reads the accounts of a prefix, and pauses and resumes them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys = connection.gate_keys

    async def accounts(self, *, most: int | None = None) -> list[Account]:
        """Return the accounts that calls have used, by name; the `most` that were used last, if given."""
        key, end = self._keys.named["accounts"], -1 if most is None else most - 1
        members = await self._connection.execute("ZRANGE", key, 0, end, "REV")
        return await read_accounts(self._connection, sorted(map(replies.text, members)))

    async def agents(self, names: Iterable[str]) -> Mapping[str, Sequence[str]]:
        """Return the agents that have used each account, sorted; at most about 40."""
        found = {}
        for batch in batched(names):
            reads = [("HGETALL", self._keys.account(name)) for name in batch]
            for name, reply in zip(batch, await self._connection.execute_all(reads), strict=True):
                pairs = [] if isinstance(reply, Exception) else replies.pairs(reply)
                fields = [replies.text(field) for field, _ in pairs]
                found[name] = sorted(
                    field.removeprefix(AGENT_FIELD)
                    for field in fields  # none, if the key has another type
                    if field.startswith(AGENT_FIELD)
                )
        return found

    async def pauses(self) -> dict[str, Override]:
        """Return what operators have paused, by name: accounts, and providers with all their accounts."""
        return await read_overrides(self._connection, "pause")

    async def pause(self, name: str, *, by: str, reason: str = "") -> bool:
        """Let no call to an account, or to any account of a provider, begin. Calls under way go on.

        Returns False if it was paused before; the reason that was given then stays until there is a new one.
        """
        is_new = name not in await self.pauses()
        if reason or is_new:
            await write_override(self._connection, "pause", name, {}, by=by, reason=reason)
        return is_new

    async def resume(self, name: str, *, by: str = "", reason: str = "") -> Resumed:
        """End a pause, and open what is closed for other reasons.

        Raises:
            ProviderNotFound: no calls to it are known, and it is not paused.
        """
        changed = await write_override(self._connection, "pause", name, None, by=by, reason=reason)
        found, pauses = await self.accounts(), await self.pauses()
        known = {each for account in found for each in account.paused_by}
        if not changed and name not in known:
            raise ProviderNotFound(
                f"no calls to {name!r:.100} are known, and it is not paused",
                hint=did_you_mean(name, known),
            )
        for account in found:
            pause = next((each for each in account.paused_by if each in pauses), None)
            if pause is not None and name in account.paused_by:
                return Resumed(changed, account.name, pause)
        return Resumed(changed)


async def read_accounts(connection: Connection, names: Iterable[str]) -> list[Account]:
    """Return the state of accounts, in the order of `names`, in few round trips."""
    found = []
    for batch in batched(names):
        states = await connection.run("gate_states", [(None, (name,)) for name in batch])
        found += [_account(name, *state) for name, state in zip(batch, states, strict=True)]
    return found


def _account(
    name: str,
    ms: int,
    why: bytes,
    provider: bytes,
    limit: int,
    under_way: int,
    waiting: int,
    faults: int,
) -> Account:
    closed_by = replies.text(why)
    state: State = "closed" if ms else "probing" if why else "open"
    return Account(
        name=name,
        provider=replies.text(provider),
        state="paused" if closed_by == "paused" else state,
        closed_by=closed_by,
        seconds=None if ms == CLOSED_FOREVER else ms / 1000,
        limit=limit if limit >= 0 else None,
        under_way=under_way,
        waiting=waiting,
        faults=faults,
    )
