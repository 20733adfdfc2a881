"""Spans of a worker's attempts: `run {queue}`, one for each.

The first attempt is a child of the span that enqueued the job; a later one begins a new trace, linked to the
one before, whose context the job has. Used by the runner. Without tracing, an attempt costs one call.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress

from aragora_q import tracing
from aragora_q.base import Job
from aragora_q.contracts import (
    Completed,
    Failed,
    Held,
    Outcome,
    Released,
    Retry,
    WorkerSession,
)
from aragora_q.errors import AragoraQError
from aragora_q.tracing import NO_SPAN, Span
from aragora_q.worker.attempt import Attempt

NOTE_SECONDS = 1.0
"""How long a worker that stops waits for the queue to take the contexts of its last attempts."""


class AttemptSpans:
    """Makes the spans of the attempts on one queue, and tells the queue their contexts."""

    def __init__(self, session: WorkerSession, queue: str) -> None:
        self._session = session
        self._name = f"run {queue}"
        # Attributes that a span has from its start may be used by a sampler.
        self._attributes = {
            "messaging.system": "aragora_q",
            "messaging.operation.name": "run",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
        }
        self._notes: set[asyncio.Task[None]] = set()

    def span(self, job: Job) -> AbstractContextManager[Span]:
        """Return the span of an attempt, as `tracing.span`."""
        parent, link = ("", job.trace) if job.is_restart else (job.trace, "")
        return tracing.span(self._name, "consumer", self._attributes, parent=parent, link=link)

    def began(self, job: Job, span: Span) -> None:
        """Describe the attempt, and note its context with the job, so that the next one is linked to it."""
        if span is NO_SPAN:
            return
        span.set(_attributes(job))
        # A job without a trace gets that of an attempt that is not sampled, too: else the sampler would decide
        # again about the next attempt.
        if span.is_sampled or not job.trace:
            note = asyncio.create_task(self._note(job, span.context), name="note trace")
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)

    async def _note(self, job: Job, trace: str) -> None:
        with suppress(AragoraQError):  # the next attempt is linked to an earlier one then
            await self._session.note_trace(job, trace)

    def ended(self, attempt: Attempt, outcome: Outcome | None, span: Span) -> None:
        """Note the outcome as far as the worker knows it. A retry and a failure are errors."""
        if span is NO_SPAN:
            return
        span.set({"aragora_q.outcome": _outcome(attempt, outcome)})
        if isinstance(outcome, Retry | Failed):
            span.fail(attempt.error_type)

    def abandon(self, attempt: Attempt, span: Span) -> None:
        """End the span of an attempt that does not stop: its job is released, or it has lost it."""
        span.set({"aragora_q.outcome": attempt.cancel_reason or "released"})
        span.fail("does_not_stop")
        span.end()

    async def finish(self) -> None:
        """Wait up to NOTE_SECONDS for the notes; cancel those that are not taken by then."""
        if self._notes:
            _, late = await asyncio.wait(self._notes, timeout=NOTE_SECONDS)
            for note in late:
                note.cancel()


def _attributes(job: Job) -> dict[str, str | int | float]:
    attributes: dict[str, str | int | float] = {
        "messaging.message.id": job.id,
        "aragora_q.attempt": job.attempts,
        "aragora_q.fence": job.fence,
        "aragora_q.waited_seconds": job.waited_seconds,
    }
    optional = {"worker_id": job.worker_id, "group": job.group, "tenant": job.tenant}
    attributes |= {f"aragora_q.{name}": value for name, value in optional.items() if value}
    return attributes


def _outcome(attempt: Attempt, outcome: Outcome | None) -> str:
    match outcome:
        case None:
            return attempt.cancel_reason or "lost"
        case Completed():
            return "completed"
        case Released():
            return "released"
        case Held():
            return "held"
        case Retry(charged=charged):
            return "failed" if charged and attempt.is_last_attempt else "retrying"
        case Failed():
            return "failed"
