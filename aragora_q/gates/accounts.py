"""Accounts of providers as operators see them: which take no calls and why, their limits, their calls.

Used by `aragora-q providers`, over a connection to the gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aragora_q import codec
from aragora_q.gates.client import CLOSED_FOREVER, REASONS
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.scripts import batched

State = Literal["open", "probing", "closed", "paused"]
"""`probing`: it was closed, and the next call tries whether it answers again."""

AGENT_FIELD = "agent:"


@dataclass(frozen=True, slots=True)
class Account:
    """The gate of one account. `seconds` until it opens: None if it is open, or closed until someone acts."""

    name: str
    provider: str
    state: State
    why: str
    seconds: float | None
    is_endless: bool
    limit: int | None
    """Calls at once that the provider is known to take; None: not known."""
    under_way: int
    waiting: int
    faults: int
    """Transient faults in a row."""
    agents: tuple[str, ...]
    """Agents that have used it, sorted; at most about 40."""


@dataclass(frozen=True, slots=True)
class Pause:
    """What an operator paused: an account, or all accounts of a provider. `at` is in Unix ms."""

    name: str
    by: str
    reason: str
    at: int


class Accounts:
    """Reads the accounts of a prefix, and pauses and resumes them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys = connection.gate_keys

    async def accounts(self) -> list[Account]:
        """Return the accounts that calls have used, by name."""
        members = await self._connection.execute("ZRANGE", self._keys.named["accounts"], 0, -1)
        found = []
        for names in batched(sorted(replies.text(each) for each in members)):
            states = await self._connection.run("gate_states", [(None, (name,)) for name in names])
            hashes = await self._connection.execute_all(
                [("HGETALL", self._keys.account(name)) for name in names]
            )
            found += [
                _account(name, state, fields)
                for name, state, fields in zip(names, states, hashes, strict=True)
            ]
        return found

    async def pauses(self) -> list[Pause]:
        """Return what operators have paused, by name."""
        reply = await self._connection.execute("HGETALL", self._keys.named["overrides"])
        fields = {replies.text(name): text for name, text in replies.pairs(reply)}
        return [
            _pause(field.removeprefix("pause:"), fields[field])
            for field in sorted(fields)
            if field.startswith("pause:")
        ]

    async def pause(self, name: str, *, by: str, reason: str = "") -> None:
        """Let no call to an account, or to any account of a provider, begin. Calls under way go on."""
        await self._override(name, codec.encode({"by": by, "reason": reason}))

    async def resume(self, name: str) -> bool:
        """End a pause, and open what is closed for other reasons. Returns False if nothing was closed."""
        return await self._override(name, b"") == b"reset"

    async def _override(self, name: str, value: bytes) -> bytes:
        result: bytes = await self._connection.run(
            "gate_override", kind="pause", name=name, value=value
        )
        return result


def _account(name: str, state: list[Any], reply: Any) -> Account:
    ms, why, provider, limit, under_way, waiting, faults = state
    fields = [] if isinstance(reply, Exception) else replies.pairs(reply)  # a key of another type
    names = (replies.text(field) for field, _ in fields)
    word: State = "open"
    if why:
        word = "paused" if why == b"paused" else "closed" if ms else "probing"
    return Account(
        name=name,
        provider=replies.text(provider),
        state=word,
        why=REASONS.get(replies.text(why), replies.text(why)),
        seconds=ms / 1000 if ms > 0 and word == "closed" else None,
        is_endless=ms == CLOSED_FOREVER or word == "paused",
        limit=limit if limit >= 0 else None,
        under_way=under_way,
        waiting=waiting,
        faults=faults,
        agents=tuple(
            sorted(each.removeprefix(AGENT_FIELD) for each in names if each.startswith(AGENT_FIELD))
        ),
    )


def _pause(name: str, text: bytes) -> Pause:
    try:
        value = codec.decode(text)
    except ValueError:
        value = None
    value = value if isinstance(value, dict) else {}  # another program may have written it
    at = value.get("at", 0)
    return Pause(
        name,
        str(value.get("by", "")),
        str(value.get("reason", "")),
        int(at) if isinstance(at, int | float) else 0,
    )
