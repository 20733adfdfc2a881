"""What a running executor may use: progress, checkpoints, the attempt it belongs to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from aragora_q.base import Job


class AttemptContext(Protocol):
    """The attempt that an executor runs in, from `current_attempt()`.

    All writes are fenced: they raise LeaseLost when the job no longer belongs to this attempt. While
    Redis is unavailable, checkpoints wait for it; progress raises RedisUnreachable, which may be ignored.
    """

    @property
    def is_last_attempt(self) -> bool:
        """True if the job fails when this attempt does: it has no attempts left."""

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        """Show `progress`, a JSON object of at most 4 KiB, in `status` and in the queue's events."""

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under `name` for this and later attempts of the job.

        A JSON object; a job has at most 10,000 checkpoints of 4 MiB together, else PermanentError. Those
        named `life/…` are deleted when an operator requeues the job.
        """

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        """Return all checkpoints of the job so far, by name."""


class DetachedAttempt:
    """Used where no worker runs the executor, as in tests: keeps checkpoints in memory."""

    is_last_attempt = False

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        """Discard the report: a detached attempt has no queue."""

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        self._kept[name] = dict(value)

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        return dict(self._kept)


attempt_context: ContextVar[AttemptContext] = ContextVar("attempt_context")


def current_attempt() -> AttemptContext:
    """Return the attempt in whose task the caller runs; outside a worker, a new one that keeps data in memory.

    Example:
        async def summarize(job: Job) -> dict[str, str]:
            attempt = current_attempt()
            done = await attempt.checkpoints()
            draft = done.get("draft") or {"text": await write(job.payload["topic"])}
            await attempt.checkpoint("draft", draft)  # a retry does not write it again
            return {"summary": await shorten(draft["text"])}
    """
    return attempt_context.get(None) or DetachedAttempt()


Executor = Callable[[Job], Awaitable[Mapping[str, Any]]]
"""Does a job's work: takes the job and returns its result as a JSON object, or raises.

PermanentError fails the job, RetryLater postpones it uncharged; `retry.is_retryable_error` decides
about other errors. Any async function with this signature is an executor.
"""
