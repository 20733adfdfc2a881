"""Read what the hashes of schedules and webhooks hold; what another program wrote there counts as missing.

Used by `schedules.py` and `outbox.py`.
"""

from __future__ import annotations

from typing import Any

from aragora_q.contracts import Paused
from aragora_q.loose import json_object, text, whole
from aragora_q.redis import replies
from aragora_q.redis.keys import END_OF_TIME_MS


def seconds(value: Any) -> float | None:
    """Return a time, kept in ms, in seconds; None for anything else."""
    ms = replies.whole(value)
    return ms / 1000 if ms is not None and ms < END_OF_TIME_MS else None


def paused(value: Any) -> Paused | None:
    """Return who paused something, kept as JSON, and when; None if it is not paused."""
    if not value:
        return None
    found = json_object(value if isinstance(value, bytes) else str(value).encode())
    at = seconds(whole(found.get("at"))) or 0.0
    return Paused(at, text(found.get("by")), text(found.get("reason")))
