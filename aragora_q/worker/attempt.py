"""One attempt of one job: decode the payload, execute, encode the result; or what went wrong instead.

The runner makes one for every started job. Knows the executor and the retry policy, not Redis, slots
or other jobs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypeVar

from aragora_q import codec
from aragora_q.base import HOLD_CAUSES, MAX_USD, HoldCause, Job
from aragora_q.context import Call, Executor, PaidCall, Settlement, WaitClock, attempt_context
from aragora_q.contracts import (
    MAX_PUT_OFF_SECONDS,
    CheckpointStore,
    Completed,
    Failed,
    Gates,
    Held,
    Outcome,
    Released,
    Retry,
)
from aragora_q.errors import (
    TRANSIENT_ERRORS,
    GateClosed,
    HoldJob,
    LeaseLost,
    PermanentError,
    RetryLater,
    WorkerUnable,
)
from aragora_q.history import CallHistory
from aragora_q.job_rules import MAX_TIMEOUT_SECONDS, is_timeout
from aragora_q.ledger import CallLedger
from aragora_q.observability.logs import get_logger
from aragora_q.observability.worker_metrics import CallMetrics
from aragora_q.retry import RetryPolicy, describe, is_machine_limit, is_retryable_error, leaves
from aragora_q.worker.paid_calls import PaidCalls

logger = get_logger(__name__)

T = TypeVar("T")

CancelReason = Literal["released", "lost", "cancelled"]
"""Why an attempt is stopped: the worker stops, the lease is lost, or the job was cancelled."""

MAX_RETRY_LATER_SECONDS = 6 * 3600.0
MAX_HOLD_SECONDS = 366 * 86400.0
CHECKPOINT_RETRY_SECONDS = 0.5


class Attempt:
    """Runs `job` once.

    Inside the executor `current_attempt()` returns this object: progress and checkpoints go through it.
    """

    def __init__(
        self,
        job: Job,
        executor: Executor,
        policy: RetryPolicy,
        store: CheckpointStore,
        max_result_bytes: int,
        is_ending: Callable[[], bool] = lambda: False,
        gates: Gates | None = None,
        call_metrics: CallMetrics | None = None,
    ) -> None:
        self.job = job
        self.waits = WaitClock()
        self._calls = PaidCalls(gates, job, self.waits, call_metrics)
        self._created_at = time.monotonic()
        self._ledger: CallLedger | None = None
        self._executor = executor
        self._policy = policy
        self._store = store
        self._max_result_bytes = max_result_bytes
        self._is_ending = is_ending
        self._task: asyncio.Task[Any] | None = None
        self._cancel_reason: CancelReason | None = None
        self.trouble: str | None = None
        """Why the attempt could not run, if the worker is to blame: for the next job, too."""
        self.error_type = ""
        """The type of the error that ended the attempt; the first one of a group."""

    async def run(self) -> Outcome | None:
        """Return the outcome to report; None if the job no longer belongs to this attempt."""
        if self._cancel_reason is not None:
            return self._interrupted()
        attempt_context.set(self)
        self._task = asyncio.current_task()
        try:
            self._decode()
            result = await self._execute()
            return None if self.is_abandoned else Completed(self._encode(result))
        except asyncio.CancelledError:
            self._note_teardown()
            return self._interrupted()
        except BaseException as error:  # noqa: BLE001 - an executor may raise anything; the worker goes on
            if any(isinstance(each, LeaseLost) for each in leaves(error)):
                return None
            if isinstance(error, KeyboardInterrupt):  # a second Ctrl-C, or the job's own doing
                self._note_teardown()
            # An error that is raised during a cancellation is not the job's fault.
            if self._cancel_reason is not None:
                return self._interrupted()
            return self._raised(error)
        finally:
            self._task = None
            self._calls.end()

    def _note_teardown(self) -> None:
        """If a cancellation has no reason and the worker's task is cancelled, too, set the reason: release.

        `asyncio.run` cancels all tasks at once when its main task ends.
        """
        if self._cancel_reason is None and self._is_ending():
            self._cancel_reason = "released"

    @property
    def is_abandoned(self) -> bool:
        """True if the job was cancelled or belongs to another worker now: no outcome is reported."""
        return self._cancel_reason in ("lost", "cancelled")

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why the attempt was stopped, if it was."""
        return self._cancel_reason

    def cancel(self, reason: CancelReason) -> None:
        """Stop the attempt. `released`: its job is released, uncharged; otherwise nothing is reported.

        The executor gets one CancelledError, however often this is called.
        """
        is_first = self._cancel_reason is None
        if not self.is_abandoned:
            self._cancel_reason = reason
        if is_first and self._task is not None:
            self._task.cancel()

    def _decode(self) -> None:
        try:
            payload = codec.decode(self.job.raw_payload)
        except ValueError as error:
            raise PermanentError(f"payload is not JSON: {error}") from None
        if not isinstance(payload, dict):
            raise PermanentError(f"payload is a JSON {type(payload).__name__}, not an object")
        self.job.payload = payload

    async def _execute(self) -> Mapping[str, Any]:
        timeout_seconds = self.job.payload.get("timeout_seconds")
        if timeout_seconds is None:
            return await self._executor(self.job)
        if not is_timeout(timeout_seconds):
            raise PermanentError(
                f"timeout_seconds is {timeout_seconds!r:.100}, must be above 0 and at most "
                f"{MAX_TIMEOUT_SECONDS}"
            )
        try:
            async with self.waits.timeout(timeout_seconds) as deadline:
                return await self._executor(self.job)
        except TimeoutError:
            if deadline.expired():
                raise TimeoutError(
                    f"no result within timeout_seconds ({timeout_seconds})"
                ) from None
            raise

    def _encode(self, result: object) -> bytes:
        """Return a result, whole or partial, as JSON. Raises PermanentError if it cannot be kept."""
        if not isinstance(result, dict):  # most are, and other mappings take ten times as long
            if not isinstance(result, Mapping):
                raise PermanentError(f"result is a {type(result).__name__}, not a JSON object")
            result = dict(result)
        try:
            encoded = codec.encode(result)
        except ValueError as error:
            raise PermanentError(f"result is not JSON: {error}") from None
        if len(encoded) > self._max_result_bytes:
            raise PermanentError(
                f"result has {len(encoded)} bytes, max_result_bytes is {self._max_result_bytes}"
            )
        return encoded

    def _interrupted(self) -> Outcome | None:
        if self.is_abandoned:
            return None
        if self._cancel_reason == "released":
            return Released()
        self.error_type = asyncio.CancelledError.__name__
        return self._retry("the executor cancelled its own task")

    def _raised(self, error: BaseException) -> Outcome:
        self.error_type = type(error).__qualname__
        try:
            return self._outcome_of(error)
        except Exception:  # noqa: BLE001 - the attributes of an error may be anything, too
            return self._retry(type(error).__name__)

    def _outcome_of(self, error: BaseException) -> Outcome:
        text, errors = describe(error), list(leaves(error))
        self.error_type = type(errors[0]).__qualname__
        if troubles := [str(each) for each in errors if isinstance(each, WorkerUnable)]:
            self.trouble = troubles[0]
            return Released()
        if holds := [each for each in errors if isinstance(each, HoldJob)]:
            return _held(holds[0])
        delays = [each for each in errors if isinstance(each, RetryLater)]
        if delays:
            seconds = self._policy.spread_seconds(max(map(_delay_of, delays)))
            is_gated = all(isinstance(each, GateClosed) for each in delays)
            seconds = max(seconds, self._backoff_seconds())
            return Retry(text, seconds, charged=False, is_gated=is_gated)
        is_final = any(isinstance(each, PermanentError) for each in errors)
        if not is_final and is_machine_limit(error):  # perhaps the job's own use: as RetryLater
            self.trouble = text
            return Retry(text, self._backoff_seconds(), charged=False)
        return self._retry(text) if is_retryable_error(error) else self._failed(text, errors)

    def _failed(self, text: str, errors: Sequence[BaseException]) -> Failed:
        """Return the failure with the partial result that an error carries, if it can be kept."""
        results = (getattr(each, "partial_result", None) for each in errors)
        partial = next((result for result in results if result is not None), None)
        if partial is None:
            return Failed(text)
        try:
            return Failed(text, self._encode(partial))
        except Exception as error:  # noqa: BLE001 - reading an executor's mapping may raise anything
            reason = str(error) if isinstance(error, PermanentError) else describe(error)
            return Failed(f"partial result left out ({reason}); {text}")  # first, as errors are cut

    def _retry(self, text: str) -> Retry:
        return Retry(text, self._backoff_seconds())

    def _backoff_seconds(self) -> float:
        return self._policy.delay_seconds(self.job.attempts - 1)

    # What a running executor may use: `context.AttemptContext`.

    @property
    def is_last_attempt(self) -> bool:
        return self.job.max_attempts is not None and self.job.attempts >= self.job.max_attempts

    def call_id(self, key: str) -> str:
        return self._calls.id_of(key)

    async def acquire(self, call: Call) -> None:
        await self._calls.acquire(call)

    async def check(self, call: Call) -> None:
        await self._calls.check(call)

    def call(
        self, provider: str, *, key: str, **options: Any
    ) -> AbstractAsyncContextManager[PaidCall]:
        if self._ledger is None:  # it refers to the attempt: payloads would wait for the collector
            elapsed, started_at = time.monotonic() - self._created_at, self.job.started_at
            self._ledger = CallLedger(self, None if started_at is None else started_at + elapsed)
        return self._ledger.call(provider, key=key, **options)

    async def settle(self, call: Call, settlement: Settlement) -> None:
        await self._calls.settle(call, settlement)

    async def call_history(self) -> CallHistory:
        return await self._calls.history()

    async def learn(self, debate: CallHistory) -> None:
        await self._calls.learn(debate)

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        await self._store.report_progress(self.job, progress)

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        await self._retry_until_saved(lambda: self._store.checkpoint(self.job, name, value))

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        return await self._retry_until_saved(lambda: self._store.checkpoints(self.job))

    async def _retry_until_saved(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `call`, retried as long as Redis is unavailable.

        A lost lease or the job's own time limit ends the attempt by cancelling its task.
        """
        is_logged = False
        while True:
            try:
                return await call()
            except TRANSIENT_ERRORS as error:
                if not is_logged:
                    fields = {"job": self.job.id, "attempt": self.job.attempts, "error": str(error)}
                    logger.warning("checkpoint not saved, retrying", extra=fields)
                    is_logged = True
                await asyncio.sleep(CHECKPOINT_RETRY_SECONDS)


def _delay_of(error: RetryLater) -> float:
    most = MAX_PUT_OFF_SECONDS if isinstance(error, GateClosed) else MAX_RETRY_LATER_SECONDS
    return _bounded(getattr(error, "delay_seconds", 0.0), most)


def _held(error: HoldJob) -> Held:
    """Return the hold that an executor asks for. Only operators hold as a person, whatever the error says."""
    cause: HoldCause = next((each for each in HOLD_CAUSES[1:] if each == error.cause), "executor")
    return Held(
        cause,
        describe(error).removeprefix(f"{type(error).__name__}: "),
        error.by if isinstance(error.by, str) else "",
        None if error.until_seconds is None else _bounded(error.until_seconds, MAX_HOLD_SECONDS),
        None if error.usd is None else _bounded(error.usd, MAX_USD),
    )


def _bounded(value: object, maximum: float) -> float:
    """Return a number that an executor gave, at most `maximum`; 0 if it is not a number above 0."""
    if not isinstance(value, int | float) or not value > 0:  # NaN is not above 0 either
        return 0.0
    return min(value, maximum)
