"""When the lease keeper tries again after a renewal failed."""

import asyncio
import time

from support.wait import wait_until

from aragora_q.contracts import RenewalResult
from aragora_q.errors import RedisUnreachable
from aragora_q.worker import leases
from aragora_q.worker.leases import LeaseKeeper


class _Clock:
    """A monotonic clock that can be put forward."""

    def __init__(self):
        self.ahead_seconds = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead_seconds


async def test_a_renewal_that_hung_is_tried_again_at_once(monkeypatch):
    """It must be waiting when the server resumes: else two pauses that are a moment apart cost a lease."""
    clock, tries = _Clock(), []
    monkeypatch.setattr(leases, "time", clock)
    monkeypatch.setattr(leases, "RETRY_SECONDS", 60.0)

    class _Renewer:
        async def renew(self, owned, **details):
            tries.append(clock.monotonic())
            clock.ahead_seconds += leases.RETRY_SECONDS
            raise RedisUnreachable("no answer")

        async def close(self):
            pass

    keeper = LeaseKeeper(_Renewer, lease_seconds=400)
    keeper.start()
    try:
        await wait_until(
            lambda: len(tries) >= 3, what="three tries, though 60 seconds lie between two"
        )
    finally:
        await keeper.stop()


async def test_leases_do_not_wait_for_permits():
    """The gates may be on another server: while that hangs, leases are renewed; a failure is tried again."""
    renewed, hangs = [], asyncio.Event()

    class _Renewer:
        async def renew(self, owned, **details):
            renewed.append("leases")
            return RenewalResult("ok", {})

        async def close(self):
            renewed.append("closed")

    class _PermitRenewer(_Renewer):
        async def renew(self):
            renewed.append("permits")
            if renewed.count("permits") == 1:
                raise RedisUnreachable("no answer")
            hangs.set()
            await asyncio.sleep(600)

    keeper = LeaseKeeper(_Renewer, 0.04, _PermitRenewer)
    keeper.start()
    try:
        await wait_until(hangs.is_set, what="a renewal of permits to hang")
        before = renewed.count("leases")
        await wait_until(lambda: renewed.count("leases") >= before + 5, what="leases to be renewed")
    finally:
        await keeper.stop()
    assert renewed.count("closed") == 3, "both connections, and the one that failed"
