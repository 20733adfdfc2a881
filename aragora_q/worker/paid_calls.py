"""Paid calls of one attempt: wait for the gates to grant each, and book it afterwards.

Used by the attempt, on behalf of its executor. Knows the contract of the gates, not Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import Any, TypeVar

from aragora_q import tracing
from aragora_q.backoff import jittered
from aragora_q.base import Job
from aragora_q.context import Call, Settlement, WaitClock, call_prefix
from aragora_q.contracts import (
    HOLD_CLOSED_SECONDS,
    MAX_CLOSED_SECONDS,
    MAX_PUT_OFF_SECONDS,
    Closed,
    GateAnswer,
    Gates,
    Granted,
    OverBudget,
    WaitTurn,
)
from aragora_q.errors import (
    SERVER_ERRORS,
    TRANSIENT_ERRORS,
    AragoraQError,
    GateClosed,
    HoldJob,
    JobLimitReached,
    PermanentError,
)
from aragora_q.history import CallHistory
from aragora_q.observability.logs import get_logger
from aragora_q.observability.worker_metrics import CallMetrics

logger = get_logger(__name__)

T = TypeVar("T")

MAX_WAIT_SECONDS = 60.0
"""How long one call waits for its turn; then the job makes room for others."""

MAX_SLEEP_SECONDS = 5.0
"""How often a call that waits asks at least, so that it keeps its place in line."""

RETRY_SECONDS = 0.5

HISTORY_SECONDS = 1.0
"""How long a job waits for statistics, which it can do without."""


class PaidCalls:
    """The paid calls of `job`. Without `gates`, every call is granted and nothing is booked or counted."""

    def __init__(
        self, gates: Gates | None, job: Job, waits: WaitClock, metrics: CallMetrics | None = None
    ) -> None:
        self._gates = gates
        self._job = job
        self._waits = waits
        self._metrics = metrics

    def id_of(self, key: str) -> str:
        """Return the id of a call, unique among all attempts of the job."""
        return f"{call_prefix(self._job)}{key}"

    def end(self) -> None:
        """Note that no call is under way any more: the attempt has ended."""
        if self._gates is not None:
            self._gates.end(self._job)

    async def acquire(self, call: Call) -> None:
        """As `AttemptContext.acquire`."""
        gates = self._gates
        if gates is None:
            return
        answer = None
        asked_at = time.monotonic()
        deadline = asked_at + MAX_WAIT_SECONDS
        try:
            answer = await self._ask(gates, call)
            if not isinstance(answer, Granted):
                with self._waits.waiting(), _wait_span(call, answer) as span:
                    while not isinstance(answer, Granted):
                        seconds = _seconds_to_wait(
                            answer, deadline - time.monotonic(), call.account
                        )
                        await gates.wait(call, min(seconds, MAX_SLEEP_SECONDS))
                        answer = None
                        answer = await self._ask(gates, call)
                    span.set({_GRANTED: True})
        except BaseException as error:
            is_refused = isinstance(answer, Closed | OverBudget)
            if not (is_refused and isinstance(error, Exception)):
                # It may have a place in line, or a grant whose reply is lost.
                with suppress(*SERVER_ERRORS, asyncio.CancelledError):
                    await gates.settle(self._job, call, Settlement("not_sent"))
            raise
        if self._metrics is not None:
            self._metrics.granted(call, time.monotonic() - asked_at)

    async def check(self, call: Call) -> None:
        """As `AttemptContext.check`."""
        gates = self._gates
        if gates is not None:
            answer = await self._until_available(lambda: gates.ask(self._job, call))
            _seconds_to_wait(answer, MAX_WAIT_SECONDS, call.account)

    async def settle(self, call: Call, settlement: Settlement) -> None:
        """As `AttemptContext.settle`."""
        gates = self._gates
        if gates is None:
            return
        is_new = await self._until_available(lambda: gates.settle(self._job, call, settlement))
        if is_new and self._metrics is not None:
            self._metrics.settled(call, settlement)

    async def history(self) -> CallHistory:
        """As `AttemptContext.call_history`."""
        if self._gates is not None:
            async with self._dispensable("history of calls not read"):
                return await self._gates.call_history()
        return CallHistory()

    async def learn(self, debate: CallHistory) -> None:
        """As `AttemptContext.learn`."""
        if self._gates is not None:
            async with self._dispensable("history of calls not written"):
                await self._gates.learn(debate)

    @asynccontextmanager
    async def _dispensable(self, failure: str) -> AsyncIterator[None]:
        """Run the body for a short time, which no time limit of the job counts; it may fail."""
        try:
            with self._waits.waiting():
                async with asyncio.timeout(HISTORY_SECONDS):
                    yield
        except (AragoraQError, TimeoutError) as error:
            logger.debug(failure, extra=self._log_fields(error))

    def _log_fields(self, error: Exception) -> dict[str, Any]:
        return {"job": self._job.id, "attempt": self._job.attempts, "error": str(error)}

    async def _ask(self, gates: Gates, call: Call) -> GateAnswer:
        return await self._until_available(lambda: gates.acquire(self._job, call))

    async def _until_available(self, send: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `send`, repeated as long as Redis is unavailable."""
        is_logged = False
        while True:
            try:
                return await send()
            except TRANSIENT_ERRORS as error:
                if not is_logged:
                    fields = self._log_fields(error)
                    logger.warning("gates not reached, retrying", extra=fields)
                    is_logged = True
                await asyncio.sleep(RETRY_SECONDS)


_GRANTED = "aragora_q.wait.granted"


def _wait_span(call: Call, answer: GateAnswer) -> AbstractContextManager[tracing.Span]:
    """Return the span of a wait that begins with this answer; it has failed if the call is not granted."""
    attributes: dict[str, str | bool] = {
        "aragora_q.wait.reason": _wait_reason(answer),
        _GRANTED: False,
    }
    return tracing.span(f"wait {call.account}", attributes=attributes)


def _wait_reason(answer: GateAnswer) -> str:
    match answer:
        case WaitTurn(is_closed=False):
            return "limit"
        case Closed(is_waited_out=True):
            return "capacity"
        case OverBudget():
            return "budget"
    return "closed"


def _seconds_to_wait(answer: GateAnswer, seconds_left: float, account: str) -> float:
    """Return how long to wait before the call asks again; raise if it is not worth waiting."""
    match answer:
        case WaitTurn(seconds, why, is_closed):
            if seconds > seconds_left:
                raise GateClosed(why, delay_seconds=seconds, by=account if is_closed else "")
            return jittered(seconds)
        case Closed(seconds, why, is_waited_out):
            if seconds is None or (seconds > HOLD_CLOSED_SECONDS and not is_waited_out):
                raise HoldJob(why, cause="provider", by=account, until_seconds=seconds)
            if seconds > min(MAX_CLOSED_SECONDS, seconds_left):
                by = "" if is_waited_out else account
                raise GateClosed(why, delay_seconds=min(seconds, MAX_PUT_OFF_SECONDS), by=by)
            return jittered(seconds)
        case OverBudget():
            raise _refused(answer)
    return 0.0


def _refused(answer: OverBudget) -> HoldJob | JobLimitReached | PermanentError:
    if answer.on_full == "job":
        return JobLimitReached(answer.why, limit=answer.budget)
    if answer.on_full == "fail" or not answer.can_ever_fit:
        return PermanentError(answer.why)
    return HoldJob(answer.why, cause="budget", by=answer.budget, usd=answer.usd)
