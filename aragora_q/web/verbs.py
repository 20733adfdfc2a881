"""What operators do with jobs: which jobs a verb may mean, how it is sent, and what its answers say.

Used by the actions of pages, of the API and of `aragora-q top`. Must not know requests or pages, and must work
without the packages of the extra `web`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from aragora_q.base import LIVE, TERMINAL, JobStatus
from aragora_q.streams.queue import RedisStreamsQueue

Send = Callable[[RedisStreamsQueue, Sequence[str], str, str], Awaitable[list[str]]]
"""Sends a verb for jobs, `by` someone, with a `reason`; returns the queue's answer for each."""


@dataclass(frozen=True)
class Verb:
    """One thing to do with jobs."""

    name: str
    """Imperative, as the command line has it."""
    done: str
    """Participle, such as `cancelled`."""
    statuses: frozenset[JobStatus]
    """What a filter means that names no status."""
    send: Send
    changed: frozenset[str]
    """Answers that mean that a job was changed."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What other answers say of a job, if that is not `had already ended`."""
    refused: frozenset[str] = frozenset()
    """Answers of jobs in a state in which it makes no sense; other jobs that do not change are so already."""
    repeats: bool = False
    """True: a job may move while others are found, and be missed; so jobs are found until none is changed."""

    def text(self, answer: str) -> str:
        """Return what the queue's answer says of a job: `is cancelled`, `had already ended: completed`."""
        if answer in self.texts:
            return self.texts[answer]
        return f"had already ended: {answer.removeprefix('was-')}"


async def _cancel(queue: RedisStreamsQueue, ids: Sequence[str], by: str, reason: str) -> list[str]:
    return await queue.cancel_many(ids, by=by, reason=reason)


async def _requeue(
    queue: RedisStreamsQueue, ids: Sequence[str], by: str, reason: str, from_phase: str = ""
) -> list[str]:
    return await queue.requeue(ids, by=by, reason=reason, from_phase=from_phase)


def requeue_from(phase: str) -> Verb:
    """Return the verb that requeues debates which make their calls again from `phase` on."""
    return replace(VERBS["requeue"], send=partial(_requeue, from_phase=phase))


async def _hold(queue: RedisStreamsQueue, ids: Sequence[str], by: str, reason: str) -> list[str]:
    return await queue.hold_many(ids, by=by, reason=reason)


async def _unhold(queue: RedisStreamsQueue, ids: Sequence[str], by: str, reason: str) -> list[str]:
    return await queue.unhold_many(ids, by=by, reason=reason)


async def _purge(queue: RedisStreamsQueue, ids: Sequence[str], by: str, reason: str) -> list[str]:
    return await queue.purge_many(ids, by=by, reason=reason)


_LIVE = {status.value: f"has not ended: it is {status}" for status in LIVE}
_NOT_REQUEUED = {
    **{status.value: f"is already {status}" for status in LIVE},
    "held": "is held: to let it run, unhold it",
    "completed": "was not requeued: it has completed; enqueue it again under another id, and a debate from it",
    "malformed": "was not requeued: it is the dead letter of a malformed entry",
    "not-reached": "was not requeued: its debate did not reach that phase",
}

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "cancel", "cancelled", LIVE, _cancel, frozenset({"cancelled"}),
            {"cancelled": "is cancelled"},
            repeats=True,
        ),
        Verb(
            "requeue", "requeued", frozenset({JobStatus.FAILED, JobStatus.CANCELLED}), _requeue,
            frozenset({"requeued"}),
            {"requeued": "is requeued", **_NOT_REQUEUED},
            refused=frozenset({"held", "completed", "malformed", "not-reached"}),
        ),
        Verb(
            "hold", "held", LIVE, _hold, frozenset({"held", "asked"}),
            {
                "held": "is held",
                "asked": "is running: it will be held when its attempt ends",
                "was-asked": "is running: it will be held when its attempt ends",
                "was-held": "was already held",
            },
            repeats=True,
        ),
        Verb(
            "unhold", "unheld", frozenset({JobStatus.HELD}), _unhold, frozenset({"unheld"}),
            {"unheld": "is unheld", "not-held": "was not held"},
        ),
        Verb(
            "purge", "deleted", TERMINAL, _purge, frozenset({"purged"}),
            {"purged": "is deleted", **_LIVE},
        ),
    )
}  # fmt: skip
"""By name."""
