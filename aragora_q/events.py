"""The queue's events as `tail` and the event streams of the console show them: one JSON object per job.

Used by `cli/tail.py` and `web/feed.py`. Knows the fields of an event, not how events are read.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from aragora_q import codec
from aragora_q.errors import InvalidPayload

ENDINGS = frozenset({"completed", "failed", "cancelled"})
"""Events after which a job has ended."""

MAX_NUMBER = 2**64 - 1
"""Largest number in an id of a Redis stream."""


class EventId(NamedTuple):
    """Id of an event, in its order."""

    at: int
    """Time of the event, Unix ms."""
    number: int

    def __str__(self) -> str:
        return f"{self.at}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Return the id that `text` is, such as 1700000000000-0; a number alone stands for its `-0`.

        Raises:
            InvalidPayload: `text` is not an event id.
        """
        match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", text)
        found = cls(int(match[1]), int(match[2] or 0)) if match else None
        if found is None or max(found) > MAX_NUMBER:
            raise InvalidPayload(f"{text!r:.100} is not an event id, for example 1700000000000-0")
        return found

    @property
    def before(self) -> EventId:
        """The largest smaller id; of the smallest, itself."""
        if self.number:
            return EventId(self.at, self.number - 1)
        return EventId(self.at - 1, MAX_NUMBER) if self.at else self


def job_ids(event: Mapping[str, str], wanted: Container[str] | None = None) -> Sequence[str | None]:
    """Return the jobs of an event that are wanted; None for an event of the queue itself."""
    found: list[str | None] = [*event.get("ids", "").split()]
    return [job_id for job_id in found or [None] if not wanted or job_id in wanted]


def job_event(
    event: Mapping[str, str], job_id: str | None, labels: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an event of one job, or of the queue itself, as JSON.

    `event_id` (for --after), `at` (Unix ms), `event`, `id`, `worker_id`, `by` (who changed it, if
    an operator did) and `reason`, `progress`; `group`, `tenant` and `tags` as of now. Null where they do not
    apply; `tags` is an object.
    """
    return {
        "event_id": event["id"],
        "at": EventId.parse(event["id"]).at,
        "event": event.get("event"),
        "id": job_id,
        "worker_id": event.get("worker"),
        "by": event.get("by") or None,
        "reason": event.get("reason") or None,
        "progress": _progress(event),
        "group": labels.get("group") or event.get("group"),
        "tenant": labels.get("tenant"),
        "tags": labels.get("tags", {}),
    }


def _progress(event: Mapping[str, str]) -> Any:
    try:
        return codec.decode(event["data"].encode()) if "data" in event else None
    except ValueError:  # written by another program
        return None
