"""What keys do to jobs: one entry for each key. The queue decides; a result says what became of each job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aragora_q.base import LIVE, JobStatus
from aragora_q.errors import AccessDenied, AragoraQError

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

Run = Callable[["RedisStreamsQueue", list[str], str, str], Awaitable[list[str]]]
"""Changes jobs by id; takes who does it, and why. Returns the queue's result for each."""


@dataclass(frozen=True)
class Action:
    """A change of jobs that a key asks for."""

    key: str
    verb: str
    statuses: frozenset[JobStatus]
    """Of jobs that it can change; of others it is not asked."""
    run: Run
    note: str = ""
    """What an operator should know before."""


async def _cancel(queue: RedisStreamsQueue, ids: list[str], by: str, reason: str) -> list[str]:
    return await queue.cancel_many(ids, by=by, reason=reason)


async def _requeue(queue: RedisStreamsQueue, ids: list[str], by: str, reason: str) -> list[str]:
    return await queue.requeue(ids, by=by, reason=reason)


async def _hold(queue: RedisStreamsQueue, ids: list[str], by: str, reason: str) -> list[str]:
    return await queue.hold_many(ids, by=by, reason=reason)


async def _unhold(queue: RedisStreamsQueue, ids: list[str], by: str, reason: str) -> list[str]:
    return await queue.unhold_many(ids, by=by, reason=reason)


ACTIONS = (
    Action("c", "cancel", LIVE, _cancel, "What running debates have paid for is kept."),
    Action(
        "r",
        "requeue",
        frozenset({JobStatus.FAILED, JobStatus.CANCELLED}),
        _requeue,
        "They run again; finished calls are not paid for twice.",
    ),
    Action("h", "hold", LIVE, _hold, "Running ones are held when their attempts end."),
    Action("u", "unhold", frozenset({JobStatus.HELD, JobStatus.PROCESSING}), _unhold),
)

RESULTS = {
    "asked": "to be held when the attempt ends",
    "was-asked": "to be held when the attempt ends",
    "was-held": "already held",
    "unknown": "not found",
    "malformed": "cannot run: the entry was malformed",
}
"""Words for the queue's results; others are words already, or the status of a job that does not change."""

CHANGES = ("cancelled", "requeued", "held", "unheld")


def results_text(results: Sequence[str]) -> str:
    """Return, for example, `2 cancelled, 1 not changed: completed`."""
    return ", ".join(
        f"{number:,} {_result_text(result)}" for result, number in Counter(results).items()
    )


def _result_text(result: str) -> str:
    if result in CHANGES:
        return result
    return RESULTS.get(result, f"not changed: {result.removeprefix('was-')}")


def refusal_text(verb: str, error: AragoraQError) -> str:
    """Return why nothing was done, or that this is not known."""
    hint = f": {error.hint}" if error.hint else ""
    if isinstance(error, AccessDenied):
        return f"cannot {verb}: this Redis user may only read, see aragora-q acl operator ({error})"
    return f"{verb}: {error}{hint}"
