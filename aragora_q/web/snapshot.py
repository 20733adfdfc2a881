"""Reads that many viewers share: what all pages show is read once a second, however many are open.

Kept by the console; used by routes that show the same to everyone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from aragora_q.streams.queue import RedisStreamsQueue

MAX_AGE_SECONDS = 1.0
"""Oldest answer that is given to another viewer."""

MAX_READS = 100
"""Answers that are kept."""

CLOCK_SECONDS = 60.0

READING = ("GET", "HEAD")

T = TypeVar("T")


class _Read(NamedTuple):
    started_at: float
    task: asyncio.Task[Any]

    def serves(self, now: float, max_age: float) -> bool:
        """Return True if its answer may be given, or waited for; an error only to those who wait for it."""
        if self.task.done():
            is_good = not self.task.cancelled() and self.task.exception() is None
            return is_good and now - self.started_at < max_age
        return True


class ClearAfterChanges:
    """The ASGI application around another one that clears `shared` before each answer to a change."""

    def __init__(self, app: ASGIApp, shared: SharedReads) -> None:
        self._app, self._shared = app, shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        if scope["type"] != "http" or scope["method"] in READING:
            await self._app(scope, receive, send)
            return

        async def clear_and_send(message: Message) -> None:
            self._shared.clear()
            await send(message)

        await self._app(scope, receive, clear_and_send)


class ServerClock:
    """The server's time, near enough for lists such as of `since 2h`: asked again after CLOCK_SECONDS."""

    def __init__(self) -> None:
        self._ahead = 0.0
        """Its time, less the monotonic clock of this process."""
        self._asked_at = -math.inf

    async def now(self, queue: RedisStreamsQueue) -> float:
        """Return it in Unix seconds."""
        if time.monotonic() - self._asked_at > CLOCK_SECONDS:
            found = await queue.tracker.server_time()
            self._asked_at = time.monotonic()
            self._ahead = found - self._asked_at
        return time.monotonic() + self._ahead


class SharedReads:
    """The latest answer of each read, by a name; of the `most` names that were asked for last."""

    def __init__(self, max_age_seconds: float = MAX_AGE_SECONDS, most: int = MAX_READS) -> None:
        self._max_age, self._most = max_age_seconds, most
        self._reads: dict[str, _Read] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def get(self, name: str, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `read` returned a moment ago, to this caller or another; else call it.

        All who ask while it runs wait for the same call, which goes on when one of them leaves. Raises
        what `read` raises.
        """
        now = time.monotonic()
        latest = self._reads.pop(name, None)
        if latest is None or not latest.serves(now, self._max_age):
            latest = _Read(now, asyncio.create_task(read()))
            self._tasks.add(latest.task)
            latest.task.add_done_callback(self._end)
        self._reads[name] = latest
        if len(self._reads) > self._most:
            del self._reads[next(iter(self._reads))]
        found: T = await asyncio.shield(latest.task)
        return found

    def clear(self) -> None:
        """Give no answer any more that began before: something was changed, and its author looks at it now."""
        self._reads.clear()

    async def close(self) -> None:
        """Stop the reads that run."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # no caller may be waiting for it any more; then it is not logged as lost
