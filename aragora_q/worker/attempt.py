"""One attempt of one job, as a chain of steps: decode, execute, encode; or what went wrong instead.

The worker makes one for every job it starts and reports the outcome. Knows the executor and the
retry policy; must not know Redis, slots or other jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aragora_q import codec as wire
from aragora_q.base import Job
from aragora_q.context import Executor, attempt_context
from aragora_q.contracts import Completed, Failed, Outcome, Released, Retry, WorkerSession
from aragora_q.errors import TRANSIENT_ERRORS, LeaseLost, PermanentError, RetryLater
from aragora_q.job import MAX_TIMEOUT_SECONDS, is_timeout
from aragora_q.retry import RetryPolicy, describe, is_retryable_error

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_RETRY_LATER_SECONDS = 6 * 3600.0
RETRY_SECONDS = 0.5


class Attempt:
    """Runs `job` once. Inside, `current_attempt()` is this object: progress and checkpoints go through it."""

    def __init__(
        self,
        job: Job,
        executor: Executor,
        policy: RetryPolicy,
        session: WorkerSession,
        max_result_bytes: int,
    ) -> None:
        self.job = job
        self._executor = executor
        self._policy = policy
        self._session = session
        self._max_result_bytes = max_result_bytes
        self._is_released = False
        self.is_abandoned = False

    async def run(self) -> Outcome | None:
        """The outcome to report; None if the job is no longer ours and nobody wants to hear."""
        attempt_context.set(self)
        try:
            self._decode()
            return self._completed(await self._execute())
        except asyncio.CancelledError:
            return self.interrupted()
        except LeaseLost:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever an executor raises, the job goes on
            if self._is_released or self.is_abandoned:  # an error of giving up is not the job's
                return self.interrupted()
            return self._raised(error)

    def release(self) -> None:
        """Say before cancelling the task: the worker is leaving, the job goes back uncharged."""
        self._is_released = True

    def abandon(self) -> None:
        """Say before cancelling the task: the job was cancelled, or is another worker's now."""
        self.is_abandoned = True

    def _decode(self) -> None:
        try:
            payload = wire.decode(self.job.raw_payload)
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
            async with asyncio.timeout(timeout_seconds) as deadline:
                return await self._executor(self.job)
        except TimeoutError:
            if deadline.expired():
                raise TimeoutError(
                    f"no result within timeout_seconds ({timeout_seconds})"
                ) from None
            raise

    def _completed(self, result: object) -> Outcome:
        if not isinstance(result, Mapping):
            raise PermanentError(f"executor returned {type(result).__name__}, not a JSON object")
        try:
            encoded = wire.encode(dict(result))
        except ValueError as error:
            raise PermanentError(f"executor's result is not JSON: {error}") from None
        if len(encoded) > self._max_result_bytes:
            raise PermanentError(
                f"result has {len(encoded)} bytes, max_result_bytes is {self._max_result_bytes}"
            )
        return Completed(encoded)

    def interrupted(self) -> Outcome | None:
        """The outcome of an attempt whose task was cancelled, even before its first step."""
        if self.is_abandoned:
            return None
        if self._is_released:
            return Released()
        return self._retry("the executor cancelled its own task")

    def _raised(self, error: BaseException) -> Outcome:
        text = describe(error)
        if isinstance(error, RetryLater):
            delay_seconds = max(_bounded_seconds(error.delay_seconds), self._backoff_seconds())
            return Retry(text, delay_seconds, charged=False)
        return self._retry(text) if is_retryable_error(error) else Failed(text)

    def _retry(self, text: str) -> Retry:
        return Retry(text, self._backoff_seconds())

    def _backoff_seconds(self) -> float:
        return self._policy.delay_seconds(self.job.attempts - 1)

    # What a running executor may use: `base.AttemptContext`.

    @property
    def is_last_attempt(self) -> bool:
        return self.job.max_attempts is not None and self.job.attempts >= self.job.max_attempts

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        await self._session.report_progress(self.job, progress)

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        await self._served(lambda: self._session.checkpoint(self.job, name, value))

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        return await self._served(lambda: self._session.checkpoints(self.job))

    async def _served(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to `call`, which must not be lost: asked for until Redis gives it.

        However long that takes: a lost lease or the job's own time limit ends the attempt by cancelling it.
        """
        is_told = False
        while True:
            try:
                return await call()
            except TRANSIENT_ERRORS as error:
                if not is_told:
                    facts = {"job": self.job.id, "attempt": self.job.attempts, "error": str(error)}
                    logger.warning("job waits until Redis takes its checkpoint", extra=facts)
                    is_told = True
                await asyncio.sleep(RETRY_SECONDS)


def _bounded_seconds(delay: object) -> float:
    """A provider's idea of later, as far as it is a number of seconds."""
    if not isinstance(delay, int | float) or not delay > 0:  # NaN is not above 0 either
        return 0.0
    return min(delay, MAX_RETRY_LATER_SECONDS)
