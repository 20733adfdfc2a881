"""What operators set for all workers at run time: budgets, and pauses of providers and accounts.

Used by `book.py` and `accounts.py`, over a connection to the gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aragora_q import codec, loose
from aragora_q.changes import actor
from aragora_q.formats import ago
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection

Kind = Literal["budget", "pause"]


@dataclass(frozen=True, slots=True)
class Override:
    """Who set something, when and why. `at` is in Unix ms of the server's clock."""

    by: str
    at: int
    reason: str

    def text(self, verb: str, now: float) -> str:
        """Return it in words, such as `set by ann@desk 3 min ago: launch week`. `now` is in Unix seconds."""
        by = f" by {self.by}" if self.by else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{verb}{by} {ago(self.at / 1000, now)}{reason}"


async def read_overrides(connection: Connection, kind: Kind) -> dict[str, Override]:
    """Return what operators have set of a kind, sorted by name, as far as it can be read."""
    reply = await connection.execute("HGETALL", connection.gate_keys.named["overrides"])
    fields = {replies.text(field): loose.json_object(text) for field, text in replies.pairs(reply)}
    return {
        field.removeprefix(f"{kind}:"): Override(
            loose.text(value.get("by")), loose.whole(value.get("at")), loose.text(value.get("reason"))
        )
        for field, value in sorted(fields.items())
        if field.startswith(f"{kind}:") and value
    }  # fmt: skip


async def write_override(
    connection: Connection,
    kind: Kind,
    name: str,
    value: Mapping[str, Any] | None,
    *,
    by: str,
    reason: str,
    detail: str = "",
) -> bool:
    """Set `name`, for a budget with its `rule`; None ends that. `detail` is the budget in words.

    Returns False if there was nothing to end.
    """
    text = b"" if value is None else codec.encode(value)
    result = await connection.run(
        "gate_override",
        kind=kind,
        name=name,
        value=text,
        detail=detail,
        **actor(by, reason),
    )
    return bool(result != b"unchanged")
