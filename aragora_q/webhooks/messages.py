"""What a webhook's target receives: the JSON of one end of a job or a group, or of a test.

Called by the deliverer and by `webhook test`. Must not know who sends it.
"""

from __future__ import annotations

import time
from typing import Any

from aragora_q import codec
from aragora_q.base import Group, Job
from aragora_q.contracts import Delivery
from aragora_q.formats import shortened
from aragora_q.loose import mapping, number_or_none
from aragora_q.moments import iso_time

MAX_CONTENT_BYTES = 1024 * 1024
"""Longest payload or result in a message."""

MAX_TEXT_CHARS = 1000
"""To which errors and verdicts are shortened."""

DECISION = ("consensus_reached", "confidence", "verdict", "decided_by", "ended_by", "degraded")
"""What a message has of the result of a debate."""


def job_message(queue: str, delivery: Delivery, job: Job | None, *, with_result: bool) -> bytes:
    """Return the message of a job's end.

    `job` is the job as it is now; None: it is deleted. If it has been requeued since, the message has only what
    is known of the end that it reports. `with_result`: with payload and result, which are null if they are too
    large.
    """
    data: dict[str, Any] = {
        "queue": queue,
        "id": delivery.subject,
        "status": delivery.event,
        "ended_at": iso_time(delivery.at),
    }
    if job is not None and _is_same(job.completed_at, delivery.at):
        data |= _facts(job, delivery.event)
        if with_result:
            data |= {"payload": job.payload or None, "result": job.result}
    return _message(f"job.{delivery.event}", delivery.at, data)


def group_message(queue: str, delivery: Delivery, group: Group | None) -> bytes:
    """Return the message of a group's end; `group` as it is now, None: it is deleted."""
    data: dict[str, Any] = {
        "queue": queue,
        "name": delivery.subject,
        "ended_at": iso_time(delivery.at),
    }
    if group is not None and _is_same(group.ended_at, delivery.at):
        data |= {"created_at": iso_time(group.created_at), "counts": dict(group.counts)}
    return _message("group.ended", delivery.at, data)


def trial_message(queue: str, webhook: str) -> bytes:
    """Return the message that shows an operator whether a target receives."""
    return _message("test", time.time(), {"queue": queue, "webhook": webhook})


def _facts(job: Job, event: str) -> dict[str, Any]:
    result = mapping(job.result)
    facts = {
        "attempts": job.attempts,
        "created_at": iso_time(job.created_at),
        "started_at": iso_time(job.started_at),
        "group": job.group,
        "tenant": job.tenant,
        "tags": dict(job.tags),
        "error": shortened(job.error, MAX_TEXT_CHARS) if job.error and event == "failed" else None,
        "cost_usd": number_or_none(result.get("cost_usd")),
    }
    if "consensus_reached" in result:
        facts["decision"] = {name: _short(result.get(name)) for name in DECISION}
    return facts


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(value, MAX_TEXT_CHARS)
    is_short = value is None or len(codec.encode(value, spare_levels=0)) <= MAX_TEXT_CHARS
    return value if is_short else None


def _is_same(moment: float | None, at: float) -> bool:
    return moment is not None and round(moment * 1000) == round(at * 1000)


def _message(kind: str, at: float, data: dict[str, Any]) -> bytes:
    return codec.encode({"type": kind, "timestamp": iso_time(at), "data": data}, spare_levels=0)
