"""How a worker's loops learn that they are to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The worker is stopping."""


class StopSignal(asyncio.Event):
    """Set once, when the worker is to stop. Waits through it end with `Stopped` from then on."""

    async def guard(self, awaitable: Awaitable[T]) -> T:
        """Return the result of `awaitable`; once the signal is set, cancel it and raise Stopped."""
        work = asyncio.ensure_future(awaitable)
        stop = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if self.is_set():
                raise Stopped
            return work.result()
        finally:
            stop.cancel()
            # If the work is done, which is usual, this costs no turn of the loop.
            if not work.done() or self.is_set():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def sleep(self, seconds: float) -> None:
        """Sleep; raise Stopped once the signal is set."""
        await self.guard(asyncio.sleep(seconds))
