"""Send commands to the primary that holds a queue; rediscover it after a failover.

All keys of a queue share a slot, so a queue needs one node at a time, not a cluster client: discovery
finds it, MOVED and ASK are followed, and after a failure it is looked up again. Used by `connection.py`.
Raises redis-py's errors; knows nothing of scripts and queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from weakref import WeakSet

from redis import exceptions

from aragora_q.config.redis_url import Address
from aragora_q.redis.dialing import connector
from aragora_q.redis.discovery import PrimaryDiscovery
from aragora_q.redis.errors import name_server, says_not_primary
from aragora_q.redis.pool import Command, ConnectionPool, closed_error

MAX_REDIRECTIONS = 8
"""How often one call follows MOVED and ASK."""

REDISCOVER_ON = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,  # by the pool, of a connection that it has just opened
    OSError,
)
"""After one of these, as after a reply of a server that is not the primary, another one may be."""


class PrimaryClient:
    """Sends commands to the primary, wherever it is. `path` names a unix socket instead of an address.

    A client may be used in one event loop after the other, but not in two at a time.
    """

    def __init__(
        self, discovery: PrimaryDiscovery, *, timeout_seconds: float, path: str = ""
    ) -> None:
        self._discovery = discovery
        self._timeout_seconds = timeout_seconds
        self._path = path
        self._address: Address | None = None
        self._pool: ConnectionPool | None = None
        self._search_number = 0  # the discovery's, when `_pool` was opened
        self._open_pools: WeakSet[ConnectionPool] = WeakSet()  # with those of former primaries
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._search: asyncio.Task[Address] | None = None
        self._verification: asyncio.Task[None] | None = None

    async def send(
        self, *command: Any, block_seconds: float = 0.0, may_repeat: bool = False
    ) -> Any:
        """Return the reply to one command, which may block in the server for `block_seconds`."""
        [reply] = await self.send_all([command], block_seconds, may_repeat=may_repeat)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def send_all(
        self, commands: Sequence[Command], block_seconds: float = 0.0, *, may_repeat: bool = False
    ) -> list[Any]:
        """Send commands together on one connection; return replies, the server's errors among them.

        `may_repeat` as in `ConnectionPool.execute`. If the server refuses all of them because it is not the
        primary, they are sent once more on a new connection: a name may lead to another server by now.
        """
        has_moved = False
        for _ in range(MAX_REDIRECTIONS):
            pool = await self._current_pool()
            number, address = self._search_number, self._address
            try:
                replies = await pool.execute(commands, block_seconds, may_repeat=may_repeat)
            except REDISCOVER_ON as error:
                self._discovery.invalidate(number)
                name_server(error, self._discovery.announced(address))
                raise
            errors = [reply for reply in replies if isinstance(reply, Exception)]
            if not errors:
                return replies
            if any(map(says_not_primary, errors)):
                self._discovery.invalidate(number)
                if len(errors) == len(replies) and not has_moved:
                    has_moved = True
                    continue
            redirection = next((e for e in errors if isinstance(e, exceptions.AskError)), None)
            if redirection is None:
                for refusal in errors:
                    name_server(refusal, self._discovery.announced(address))
                return replies
            if not isinstance(redirection, exceptions.MovedError):
                return await self._send_asking(redirection, commands)
            self._discovery.address = self._discovery.redirect_target(redirection)
        raise exceptions.TryAgainError("its slot keeps moving", status_code="TRYAGAIN")

    async def size_refusal(self, length: int) -> Exception | None:
        """As `ConnectionPool.size_refusal`, of the primary."""
        return await (await self._current_pool()).size_refusal(length)

    async def _send_asking(
        self, error: exceptions.AskError, commands: Sequence[Command]
    ) -> list[Any]:
        """Send the commands, each after ASKING, to the node that a slot is being moved to."""
        pool = self._open(self._discovery.redirect_target(error))
        try:
            with_asking = [part for command in commands for part in (("ASKING",), command)]
            return (await pool.execute(with_asking))[1::2]
        finally:
            await pool.close()

    async def _current_pool(self) -> ConnectionPool:
        if self._is_closed:
            raise closed_error()
        if (loop := asyncio.get_running_loop()) is not self._loop:
            self._move_to(loop)
        if self._path:
            if self._pool is None:
                self._pool = self._open(self._path)
            return self._pool
        address = self._discovery.address or await self._discover()
        if self._is_closed:
            raise closed_error()
        is_verified = self._verification is None or self._verification.done()
        if is_verified and self._discovery.begin_verification():
            # Not awaited: a Sentinel that hangs must not delay calls.
            self._verification = asyncio.create_task(
                self._discovery.verify(), name="verify-primary"
            )
        number = self._discovery.search_number
        if self._pool is None or (address, number) != (self._address, self._search_number):
            stale, self._pool = self._pool, self._open(address)
            self._address, self._search_number = address, number
            if stale is not None:
                await stale.close()
        return self._pool

    def check_loop(self) -> None:
        """Raise RuntimeError if the client is in use in another event loop, which is still open."""
        loop = self._loop
        if loop is not None and loop is not asyncio.get_running_loop() and not loop.is_closed():
            raise RuntimeError(
                "the queue is in use in another event loop, which is still open: open one queue per event loop"
            )

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start over in another event loop: a connection works only in the one that opened it."""
        self.check_loop()
        self._loop = loop
        for pool in self._open_pools:
            pool.abandon()
        self._open_pools.clear()
        self._pool = self._search = self._verification = None

    async def _discover(self) -> Address:
        """Search once for all callers that wait."""
        if self._search is None or self._search.done():
            self._search = asyncio.create_task(self._discovery.discover(), name="find-primary")
            self._search.add_done_callback(lambda search: search.cancelled() or search.exception())
        try:
            return await asyncio.shield(self._search)
        except asyncio.CancelledError:
            if self._is_closed and self._search.cancelled():
                raise closed_error() from None
            raise

    def _open(self, server: Address | str) -> ConnectionPool:
        # A replica answers reads. A cluster's redirects them.
        must_be_primary = self._discovery.redis_url.kind == "sentinel"
        pool = ConnectionPool(
            connector(server, self._discovery.options),
            self._timeout_seconds,
            must_be_primary=must_be_primary,
        )
        self._open_pools.add(pool)
        return pool

    async def close(self) -> None:
        """Close all connections. Calls under way and later ones raise QueueClosed. Raises as `check_loop`."""
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            self._move_to(asyncio.get_running_loop())
        self._is_closed = True
        tasks = [task for task in (self._search, self._verification) if task is not None]
        for task in tasks:
            task.cancel()
        # An exit stack closes every pool, even if this call is cancelled meanwhile.
        async with AsyncExitStack() as closing:
            for pool in self._open_pools:
                closing.push_async_callback(pool.abort)
        await asyncio.gather(*tasks, return_exceptions=True)
