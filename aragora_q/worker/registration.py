"""Register a worker under its id, and again when Redis has lost the record.

An id whose other instance is alive is refused; that of a process known to be dead is taken over at once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aragora_q.contracts import WorkerSession
from aragora_q.errors import ConfigError
from aragora_q.observability.logs import get_logger
from aragora_q.worker import liveness
from aragora_q.worker.outages import OutageTracker

logger = get_logger(__name__)

RECHECK_SECONDS = 1.0


class Registration:
    """The worker's record in Redis. `is_needed` while there is none."""

    def __init__(self, session: WorkerSession, outages: OutageTracker) -> None:
        self._session = session
        self._outages = outages
        self.is_needed = True
        self.is_id_in_use = False
        """True while another instance's lease is waited for."""

    def request(self) -> None:
        """Note that Redis has no record of this worker."""
        self.is_needed = True

    async def register(
        self, info: Mapping[str, str], sleep: Callable[[float], Awaitable[object]]
    ) -> None:
        """Register, waiting for at most one lease while another instance uses the id.

        Raises:
            ConfigError: a live worker uses the id.

        """
        retry = self._outages.retry_until_available
        deadline: float | None = None
        while True:
            other = await retry("read registration", self._session.registered_instance, sleep)
            is_dead = liveness.is_known_dead(other)
            dead_instance_id = other.get("instance_id", "") if is_dead else ""
            register = partial(self._session.register, info, dead_instance_id=dead_instance_id)
            lease_left_seconds = await retry("register", register, sleep)
            self.is_id_in_use = bool(lease_left_seconds)
            if not lease_left_seconds:
                self.is_needed = False
                return
            deadline = deadline or time.monotonic() + lease_left_seconds
            worker_id = self._session.identity.worker_id
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"worker id {worker_id} is in use by pid {other.get('pid')} on {other.get('host')}",
                    hint="give every worker a different id, or leave --worker-id out",
                )
            logger.warning("worker id in use, waiting", extra={"worker": worker_id})
            await sleep(min(lease_left_seconds, RECHECK_SECONDS))
