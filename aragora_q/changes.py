"""What operators did with a queue, and with the budgets and providers of its prefix: who, what, when and why.

The scripts that carry it out note it themselves, in the streams `changes` of the queue and of the gates.
`actor` is what a change is sent with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aragora_q.base import MAX_ERROR_CHARS, MAX_HOLD_BY_BYTES
from aragora_q.formats import count
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import MAX_CHANGES

_OTHER_TYPE = re.compile("WRONGTYPE")  # what a key of another type is read as: nothing

MAX_WHAT_CHARS = 44
"""Up to which ids are added to what was done: a line of `changes` with a short reason fits 80 columns."""


@dataclass(frozen=True, slots=True)
class Change:
    """One command of an operator that changed something. Times are in Unix ms of the server's clock.

    Calls of one operator that say the same and follow one another within 10 seconds are one change: a command
    that changes many jobs sends many calls.
    """

    id: str
    """Of its entry: time and number."""
    at: int
    """Of its last call."""
    since: int
    """Of its first call."""
    verb: str
    """Imperative: cancel, requeue, hold, unhold, purge, pause, resume, seal, set, reset and so on."""
    subject: str
    """What was changed, such as `group:nightly` or `budget:total`; empty: the queue or its jobs."""
    by: str
    reason: str
    detail: str
    """What it was changed to, in words; empty where that is plain."""
    count: int
    """Number of jobs, or of messages of a webhook; 0 where there are none."""
    ids: tuple[str, ...]
    """The first of them, at most 10."""

    @property
    def summary(self) -> str:
        """Return what was done, such as `cancel 3 jobs` or `set budget total, $50/day`."""
        thing = "message" if self.subject.startswith("webhook:") else "job"
        counted = count(self.count, thing) if self.count else ""
        subject = self.subject.replace(":", " ", 1) or ("" if self.count else "the queue")
        return f"{self.verb} {', '.join(filter(None, (subject, counted, self.detail)))}"

    @property
    def has_more(self) -> bool:
        """True if there are more jobs or messages than are named."""
        return self.count > len(self.ids)

    @property
    def what(self) -> str:
        """Return the summary and the first ids, as many as fit a narrow column: `cancel 3 jobs: a, b, …`."""
        for n in range(len(self.ids), 0, -1):
            ids = [*self.ids[:n], *(["…"] if self.count > n else [])]
            text = f"{self.summary}: {', '.join(ids)}"
            if len(text) <= MAX_WHAT_CHARS or self.count == 1:
                return text
        return self.summary


async def read_changes(
    connection: Connection, gates: Connection, limit: int = MAX_CHANGES, *, since_ms: int = 0
) -> list[Change]:
    """Return the latest changes of a queue and of its gates, newest first, at most `limit`, from a time on.

    About the last MAX_CHANGES of each are kept.

    Raises:
        AccessDenied: the Redis user may not read them; those of the gates need the rights of `stats` or more.
    """
    found = [
        *await _read(connection, connection.keys.changes, limit, since_ms),
        *await _read(gates, connection.gate_keys.named["changes"], limit, since_ms),
    ]
    return sorted(found, key=lambda change: change.at, reverse=True)[:limit]


async def _read(connection: Connection, key: str, limit: int, since_ms: int) -> Iterable[Change]:
    [rows] = await connection.read_all(
        [("XREVRANGE", key, "+", since_ms, "COUNT", limit)], absent=_OTHER_TYPE
    )
    return [
        _change(replies.text(entry_id), replies.text_map(fields)) for entry_id, fields in rows or ()
    ]


def _change(entry_id: str, fields: Mapping[str, Any]) -> Change:
    at = int(entry_id.partition("-")[0])
    return Change(
        entry_id,
        at,
        min(replies.whole(fields.get("since")) or at, at),
        fields.get("verb", ""),
        fields.get("subject", ""),
        fields.get("by", ""),
        fields.get("reason", ""),
        fields.get("detail", ""),
        replies.whole(fields.get("count")) or 0,
        tuple(fields.get("ids", "").split()),
    )


def actor_name(name: str) -> bytes:
    """Return who or what changes a job as Redis keeps it: at most MAX_HOLD_BY_BYTES of UTF-8."""
    return name.encode(errors="replace")[:MAX_HOLD_BY_BYTES].decode(errors="ignore").encode()


def actor(by: str, reason: str) -> dict[str, Any]:
    """Return who changes something and why, as scripts take them: each is cut if it is too long."""
    return {
        "by": actor_name(by),
        "reason": reason[:MAX_ERROR_CHARS].encode(errors="replace"),
    }
