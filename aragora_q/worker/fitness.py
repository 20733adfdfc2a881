"""Whether this worker can run jobs: while its machine or process cannot, it tries one at a time.

The runner reports what attempts ran into and asks for slots. Knows neither jobs nor the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aragora_q.backoff import Backoff
from aragora_q.errors import WorkerUnable
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
"""Pauses between two jobs that are tried; half of it at least, because of the jitter."""

TRIAL_SECONDS = 1.0
"""A job that meets no trouble for this long ends the trouble."""

REPEAT_LOG_SECONDS = 60.0
"""Interval at which a trouble that lasts, or returns, is logged again."""

BURST_PATIENCE_SECONDS = 30.0
"""How long a worker in burst mode bears with a trouble."""

MAX_TROUBLES = 3
"""Troubles of one job, each after a success of another one, that count as the worker's."""

MAX_SUSPECTS = 1_000
"""Jobs whose troubles are remembered."""


class Fitness:
    """The worker's ability to run jobs. `trouble` says why it has none; None while it has."""

    def __init__(self, worker_id: str) -> None:
        self.trouble: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called when there may be slots again."""
        self._worker_id = worker_id
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._timer: asyncio.TimerHandle | None = None
        self._is_pausing = False
        self._since = self._ended_at = -REPEAT_LOG_SECONDS
        self._logged: tuple[str, float] = ("", 0.0)
        self._successes = 0
        self._suspects: dict[str, tuple[int, int]] = {}
        """By job id, its troubles, and the successes of all jobs when it had the latest one."""

    def succeeded(self, job_id: str) -> None:
        """Note that a job was completed: what others ran into may be their own doing."""
        self._successes += 1
        self._suspects.pop(job_id, None)

    def failed(self, job_id: str, trouble: str) -> bool:
        """Note that a job could not run, and pause; jobs that were started together count once.

        Returns False, and does not pause, if it is the only job with troubles, again and again: uncharged,
        it would keep worker after worker from all other jobs.
        """
        if self._count_trouble(job_id) > MAX_TROUBLES:
            return False
        now = time.monotonic()
        if self.trouble is None:
            self._since = now
            if now - self._ended_at > REPEAT_LOG_SECONDS:
                self._backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self.trouble = trouble
        if not self._is_pausing:
            self._is_pausing = True
            self._call_later(self._backoff.next_seconds(), self._end_pause)
        text, logged_at = self._logged
        if trouble != text or now - logged_at > REPEAT_LOG_SECONDS:
            self._logged = (trouble, now)
            logger.error(
                "worker cannot run jobs, they are released; trying one at a time",
                extra={"worker": self._worker_id, "error": trouble},
            )
        return True

    def _count_trouble(self, job_id: str) -> int:
        """Return how many troubles a job has had, counting those between two successes of others as one."""
        troubles, successes = self._suspects.pop(job_id, (0, -1))
        if self._successes > successes:
            troubles += 1
        self._suspects[job_id] = (troubles, self._successes)
        if len(self._suspects) > MAX_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        return troubles

    def trial_slots(self) -> int:
        """Return how many jobs may start during a trouble: one, if none is on trial."""
        return int(self._timer is None)

    def started(self) -> None:
        """Note that jobs start: during a trouble, this is the trial."""
        if self.trouble is not None and self._timer is None:
            self._call_later(TRIAL_SECONDS, self._end_trouble)

    def raise_if_lasting(self) -> None:
        """Raise WorkerUnable if the trouble lasts longer than BURST_PATIENCE_SECONDS."""
        if self.trouble is not None and time.monotonic() - self._since > BURST_PATIENCE_SECONDS:
            raise WorkerUnable(f"this worker cannot run jobs: {self.trouble}")

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, function)

    def _end_pause(self) -> None:
        self._is_pausing, self._timer = False, None
        self.on_change()

    def _end_trouble(self) -> None:
        self.trouble, self._timer = None, None
        self._ended_at = time.monotonic()
        logger.info("worker can run jobs again", extra={"worker": self._worker_id})
        self.on_change()
