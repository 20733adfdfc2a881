"""What a running executor may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from aragora_q.base import Job


class AttemptContext(Protocol):
    """What a running executor may tell the queue, from `current_attempt()`.

    All writes are fenced: they raise LeaseLost when the job is no longer this attempt's. While Redis
    is away, checkpoints wait for it; progress raises RedisUnreachable, and nothing is lost by going on.
    """

    @property
    def is_last_attempt(self) -> bool:
        """Whether a charged retry after this attempt would fail the job."""

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        """Show `progress` in `status` and to everyone who follows the job's events."""

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under `name` for this and later attempts (JSON, size-bounded).

        What is kept under `life/…` is forgotten when an operator requeues the job.
        """

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        """All checkpoints of the job so far, by name."""


class DetachedAttempt:
    """Stands in where no worker runs the executor: keeps everything in memory."""

    is_last_attempt = False

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        """Nobody listens."""

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        self._kept[name] = dict(value)

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        return dict(self._kept)


attempt_context: ContextVar[AttemptContext] = ContextVar("attempt_context")


def current_attempt() -> AttemptContext:
    """The attempt in whose task the caller runs; outside a worker, one that keeps things in memory."""
    return attempt_context.get(None) or DetachedAttempt()


Executor = Callable[[Job], Awaitable[Mapping[str, Any]]]
"""Does a job's work: takes the job, returns its result as a JSON object, or raises.

PermanentError fails the job, RetryLater postpones it uncharged; `retry.is_retryable_error` judges
the rest. An alias rather than a protocol, so that any async function is one.
"""
