"""Send commands to the primary that holds a queue; rediscover it after a failover.

All keys of a queue share a slot, so a queue needs one node at a time, not a cluster client: discovery
finds it, MOVED and ASK are followed, and after a failure it is looked up again. Used by `connection.py`.
Raises redis-py's errors; knows nothing of scripts and queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakSet

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aragora_q.config.redis_url import Address
from aragora_q.redis.discovery import PrimaryDiscovery
from aragora_q.redis.options import KEEPALIVE, TlsConnection
from aragora_q.redis.pool import Command, ConnectionPool, closed_error

MAX_REDIRECTIONS = 8
"""How often one call follows MOVED and ASK."""

REDISCOVER_ON = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    OSError,
)
"""After one of these another server may be the primary."""


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
        self._open_pools: WeakSet[ConnectionPool] = WeakSet()  # with those of former primaries
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._search: asyncio.Future[Address] | None = None

    async def send(self, *command: Any, block_seconds: float = 0.0) -> Any:
        """Return the reply to one command, which may block in the server for `block_seconds`."""
        [reply] = await self.send_all([command], block_seconds)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def send_all(self, commands: Sequence[Command], block_seconds: float = 0.0) -> list[Any]:
        """Send commands together on one connection; return replies, the server's errors among them."""
        for _ in range(MAX_REDIRECTIONS):
            pool = await self._current_pool()
            try:
                replies = await pool.execute(commands, block_seconds)
            except REDISCOVER_ON:
                self._discovery.invalidate()
                raise
            if any(isinstance(reply, REDISCOVER_ON) for reply in replies):
                self._discovery.invalidate()
            redirection = next(
                (reply for reply in replies if isinstance(reply, exceptions.AskError)), None
            )
            if redirection is None:
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
                self._pool = self._open(None)
            return self._pool
        address = self._discovery.address or await self._discover()
        if self._is_closed:
            raise closed_error()
        if self._pool is None or address != self._address:
            stale, self._pool, self._address = self._pool, self._open(address), address
            if stale is not None:
                await stale.close()
        return self._pool

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start over in another event loop: a connection works only in the one that opened it."""
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError(
                "the queue is in use in another event loop, which is still open: open one queue per event loop"
            )
        self._loop = loop
        for pool in self._open_pools:
            pool.abandon()
        self._open_pools.clear()
        self._pool = self._search = None

    async def _discover(self) -> Address:
        """Search once for all callers that wait, in a thread that no job of an executor can occupy."""
        if self._search is None or self._search.done():
            thread = ThreadPoolExecutor(1, thread_name_prefix="find-primary")
            self._search = asyncio.wrap_future(thread.submit(self._discovery.discover))
            self._search.add_done_callback(lambda search: search.cancelled() or search.exception())
            thread.shutdown(wait=False)
        return await asyncio.shield(self._search)

    def _open(self, address: Address | None) -> ConnectionPool:
        options = {
            **self._discovery.options,
            "socket_timeout": None,  # the pool has one deadline for a whole call
            "retry": Retry(NoBackoff(), 0),
        }
        kind: type
        if address is None:
            kind = redis.asyncio.UnixDomainSocketConnection
            options |= {"path": self._path}
        else:
            is_tls = self._discovery.redis_url.is_tls
            kind = TlsConnection if is_tls else redis.asyncio.Connection
            options |= {"host": address[0], "port": address[1], **KEEPALIVE}
        # A replica answers reads. A cluster's redirects them.
        must_be_primary = self._discovery.redis_url.kind == "sentinel"
        pool = ConnectionPool(
            partial(kind, **options), self._timeout_seconds, must_be_primary=must_be_primary
        )
        self._open_pools.add(pool)
        return pool

    async def close(self) -> None:
        """Close all connections. Calls under way and later ones raise QueueClosed."""
        self._is_closed = True
        if self._loop is None:
            return
        if self._loop.is_closed():
            self._move_to(asyncio.get_running_loop())
        for pool in list(self._open_pools):
            await pool.abort()
        if self._search is not None:
            await asyncio.gather(self._search, return_exceptions=True)
