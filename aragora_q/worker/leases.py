"""The lease keeper: renews the leases of running jobs from a thread of its own.

Started by the worker. In a thread with its own connection, because a job that blocks the event loop
must not cost all jobs of the worker their leases; it also tells how late the loop answers. It decides
nothing: what the queue says of each lease goes to the worker, on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from aragora_q.contracts import LeaseRenewer
from aragora_q.errors import AragoraQError

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 4
RETRY_SECONDS = 1.0

STOP_SECONDS = 2.0
"""How long stopping waits for a renewal under way; a server that hangs must not hold up the end."""

LostLease = tuple[str, int, Literal["lost", "cancelled"]]
"""A lease that is no more: job id, fence, and why."""


class LeaseKeeper:
    """Renews every lease four times in its length, and beats the worker's heart by the way.

    `on_answer` and `on_outage` are called on the event loop: with the queue's state and the leases
    that are gone, or with the reason why nothing was renewed.
    """

    def __init__(
        self,
        open_renewer: Callable[[], LeaseRenewer],
        lease_seconds: float,
        on_answer: Callable[[str, list[LostLease]], None],
        on_outage: Callable[[AragoraQError], None],
    ) -> None:
        self._open_renewer = open_renewer
        self._interval_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._on_answer = on_answer
        self._on_outage = on_outage
        self._held: dict[str, int] = {}
        self._wake = threading.Event()
        self._is_stopping = False
        self._has_ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self.last_answer_at = time.monotonic()
        """When the queue last answered a renewal, on the monotonic clock."""
        self._pinged_at: float | None = None
        self._last_lag_seconds = 0.0

    def start(self) -> None:
        """Begin, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def hold(self, job_id: str, fence: int) -> None:
        """Keep this job's lease from now on."""
        self._held[job_id] = fence

    def drop(self, job_id: str, fence: int) -> None:
        """Let go of a lease; a newer one of the same job is kept."""
        if self._held.get(job_id) == fence:
            del self._held[job_id]

    async def stop(self) -> None:
        """End the thread and its connection. Waits without a thread of the loop's: jobs may hold them all."""
        self._is_stopping = True
        self._wake.set()
        if self._loop is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_ended.wait(), STOP_SECONDS)

    @property
    def loop_lag_seconds(self) -> float:
        """How late the event loop answered last, or is already."""
        pinged_at = self._pinged_at
        if pinged_at is not None:
            return max(self._last_lag_seconds, time.monotonic() - pinged_at)
        return self._last_lag_seconds

    def _run(self) -> None:
        renewer: LeaseRenewer | None = None
        while not self._is_stopping:
            wait_seconds = self._interval_seconds
            try:
                renewer = renewer or self._open_renewer()
                self._renew(renewer)
            except Exception as error:  # whatever it was: leases must be renewed
                if isinstance(error, AragoraQError):
                    self._call(self._on_outage, error)
                else:
                    logger.exception("lease renewal failed")
                self._hang_up(renewer)
                renewer = None
                wait_seconds = min(wait_seconds, RETRY_SECONDS) * random.uniform(0.5, 1)  # noqa: S311
            self._ping_loop()
            self._wake.wait(wait_seconds)
        self._hang_up(renewer)
        self._call(self._has_ended.set)

    def _renew(self, renewer: LeaseRenewer) -> None:
        held = dict(self._held)
        renewal = renewer.renew(list(held.items()))
        self.last_answer_at = time.monotonic()
        gone: list[LostLease] = [
            (job_id, held[job_id], why) for job_id, why in renewal.gone.items()
        ]
        self._call(self._on_answer, renewal.state, gone)

    def _hang_up(self, renewer: LeaseRenewer | None) -> None:
        if renewer is not None:
            renewer.close()

    def _ping_loop(self) -> None:
        if self._pinged_at is None:
            self._pinged_at = time.monotonic()
            self._call(self._answer_ping)

    def _answer_ping(self) -> None:
        if self._pinged_at is not None:
            self._last_lag_seconds = time.monotonic() - self._pinged_at
            self._pinged_at = None

    def _call(self, function: Callable[..., None], *args: object) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(function, *args)
