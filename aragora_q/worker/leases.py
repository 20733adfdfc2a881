"""The lease keeper: heartbeats and lease renewals from a dedicated thread.

A job that blocks the event loop must not cost the worker its leases, so renewals run in a thread with
a dedicated event loop and connection. The keeper decides nothing: `results` passes what the queue
answered to the worker's event loop, which acts on it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from aragora_q.backoff import jittered
from aragora_q.contracts import RENEWALS_PER_LEASE, LeaseRenewer, PermitRenewer, RenewalResult
from aragora_q.errors import AragoraQError
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

RETRY_SECONDS = 1.0
"""Shortest time between the beginnings of two tries that fail."""

STOP_SECONDS = 2.0
"""How long `stop` waits for a renewal under way; a server that hangs must not delay the end."""


class LostLease(NamedTuple):
    """A lease that this worker no longer owns."""

    job_id: str
    fence: int
    reason: Literal["lost", "cancelled"]


class Renewal(NamedTuple):
    """The queue's answer to one renewal; `error` is set if there was none."""

    state: str
    lost: list[LostLease]
    error: AragoraQError | None = None


class LeaseKeeper:
    """Sends the worker's heartbeat and renews its leases every quarter lease.

    `open_renewer` and `open_permit_renewer` are called in the keeper's thread.
    """

    def __init__(
        self,
        open_renewer: Callable[[], LeaseRenewer],
        lease_seconds: float,
        open_permit_renewer: Callable[[], PermitRenewer] | None = None,
    ) -> None:
        self._open_renewer = open_renewer
        self._open_permit_renewer = open_permit_renewer
        self._interval_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._leases: dict[str, int] = {}
        self._results: asyncio.Queue[Renewal] = asyncio.Queue()
        self._has_ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._start_sent_at: float | None = None
        self.last_answer_at = time.monotonic()
        """When the queue last answered a renewal, on the monotonic clock."""
        self._pinged_at: float | None = None
        self._last_lag_seconds = 0.0

    def start(self) -> None:
        """Start the thread; results go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._own_loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_thread, name="lease-keeper", daemon=True).start()

    def add(self, job_id: str, fence: int) -> None:
        """Renew this lease from now on."""
        self._leases[job_id] = fence

    def remove(self, job_id: str) -> None:
        """Stop renewing the lease of this job."""
        self._leases.pop(job_id, None)

    def begin_start(self) -> None:
        """Also renew leases taken from now on that the worker does not know of.

        A start may have happened in Redis while its reply waits for a blocked event loop.
        """
        if self._start_sent_at is None:
            self._start_sent_at = time.monotonic()

    def end_start(self) -> None:
        """Stop that: the worker knows, or has released, every job that was started for it."""
        self._start_sent_at = None

    async def results(self) -> AsyncIterator[Renewal]:
        """Yield the result of every renewal, without end."""
        while True:
            yield await self._results.get()

    async def stop(self) -> None:
        """End the thread and close its connection."""
        if self._own_loop is None or self._has_ended.is_set():
            return
        with suppress(RuntimeError):  # the thread closed its loop meanwhile
            self._own_loop.call_soon_threadsafe(self._stopping.set)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_ended.wait(), STOP_SECONDS)

    @property
    def loop_lag_seconds(self) -> float:
        """The event loop's latest response time; longer while it does not respond."""
        pinged_at = self._pinged_at
        if pinged_at is not None:
            return max(self._last_lag_seconds, time.monotonic() - pinged_at)
        return self._last_lag_seconds

    def _run_thread(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._own_loop) as runner:  # type: ignore[arg-type,return-value]
            runner.run(self._run())
        self._call(self._has_ended.set)

    async def _run(self) -> None:
        permits = asyncio.create_task(self._keep_permits(), name="permits")
        try:
            await self._keep_leases()
        finally:
            permits.cancel()
            with suppress(asyncio.CancelledError):
                await permits

    async def _keep_leases(self) -> None:
        renewer: LeaseRenewer | None = None
        while not self._stopping.is_set():
            wait_seconds, began_at = self._interval_seconds, time.monotonic()
            try:
                renewer = renewer or self._open_renewer()
                await self._renew(renewer)
            except Exception as error:  # whatever it is: leases must be renewed
                if isinstance(error, AragoraQError):
                    self._call(self._results.put_nowait, Renewal("unavailable", [], error))
                else:
                    logger.exception("lease renewal failed")
                await _close(renewer)
                renewer = None
                # After a try that hung, at once: when the server resumes, a renewal must be waiting there.
                tried_seconds = time.monotonic() - began_at
                wait_seconds = max(0.0, jittered(min(wait_seconds, RETRY_SECONDS)) - tried_seconds)
            self._ping_loop()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_seconds)
        await _close(renewer)

    async def _renew(self, renewer: LeaseRenewer) -> None:
        leases, sent_at = dict(self._leases), self._start_sent_at
        result: RenewalResult = await renewer.renew(
            list(leases.items()),
            starting_seconds=None if sent_at is None else time.monotonic() - sent_at,
            loop_lag_seconds=self.loop_lag_seconds,
        )
        self.last_answer_at = time.monotonic()
        lost = [LostLease(job_id, leases[job_id], reason) for job_id, reason in result.lost.items()]
        self._call(self._results.put_nowait, Renewal(result.state, lost))

    async def _keep_permits(self) -> None:
        """Renew the permits of paid calls. Leases do not wait for that: the gates may be on another server."""
        if self._open_permit_renewer is None:
            return
        renewer: PermitRenewer | None = None
        try:
            while True:
                try:
                    renewer = renewer or self._open_permit_renewer()
                    await renewer.renew()
                except Exception as error:  # noqa: BLE001 - whatever it is: the next one may succeed
                    logger.debug("permits not renewed", extra={"error": str(error)})
                    await _close(renewer)
                    renewer = None
                await asyncio.sleep(self._interval_seconds)
        finally:
            await _close(renewer)

    def _ping_loop(self) -> None:
        if self._pinged_at is None:
            self._pinged_at = time.monotonic()
            self._call(self._answer_ping)

    def _answer_ping(self) -> None:
        if self._pinged_at is not None:
            self._last_lag_seconds = time.monotonic() - self._pinged_at
            self._pinged_at = None

    def _call(self, function: Callable[..., Any], *args: object) -> None:
        with suppress(RuntimeError):  # the worker's loop is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *args)


async def _close(renewer: LeaseRenewer | PermitRenewer | None) -> None:
    if renewer is not None:
        with suppress(Exception):  # it may be what failed; the thread must go on
            await renewer.close()
