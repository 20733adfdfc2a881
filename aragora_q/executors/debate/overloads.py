"""How long a debate waits for overloaded providers, before seats of their agents drop out.

Used by the participants. A wait for a closed gate is not one of these: it has no limit. Must not know agents.
"""

from __future__ import annotations

from collections.abc import Mapping

from aragora_q.contracts import MAX_PUT_OFF_SECONDS
from aragora_q.errors import RetryLater
from aragora_q.executors.debate.journal import Journal

FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS = 5.0, 60.0
"""Delays for which the provider names no time. They double, as do those that it names."""

MAX_OVERLOAD_SECONDS = 1_800.0
"""How long one call waits."""

MAX_OVERLOADS = 40
"""How often a debate waits: less often than a job may be retried uncharged."""

NOTE = "life/overloads"


async def delay_after(overloads: Mapping[str, RetryLater], journal: Journal) -> float | None:
    """Return for how many seconds the attempt waits for overloaded providers; None if it has waited enough.

    `overloads` are the errors by call. A wait is noted in the journal.
    """
    note = journal.find_note(NOTE) or {"count": 0, "calls": {}}
    if note["count"] >= MAX_OVERLOADS:
        return None
    now, calls = journal.now(), dict(note["calls"])
    delays: list[float] = []
    for call, error in overloads.items():
        since, count = calls.get(call, (now, 0))
        if now - since <= MAX_OVERLOAD_SECONDS:
            calls[call] = since, count + 1
            first = error.delay_seconds or FIRST_DELAY_SECONDS
            first = min(first, MAX_PUT_OFF_SECONDS)  # then its gate says how long it is closed
            delays.append(max(first, min(first * 2.0**count, MAX_DELAY_SECONDS)))
    if not delays:
        return None
    await journal.note(NOTE, {"count": note["count"] + 1, "calls": calls})
    return max(delays)
