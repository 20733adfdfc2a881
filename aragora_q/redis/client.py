"""The way to the one server that holds a queue, wherever Sentinels or a cluster put it today.

All keys of a queue lie in one slot, so a queue needs one node at a time, not a cluster client: we
ask Sentinels or cluster nodes which it is, talk to it over a plain client, follow MOVED and ASK, and
ask again when it fails. The same code serves the event loop and the lease keeper's thread.

Used by `connection.py` alone. Raises redis-py's errors; knows nothing of scripts and queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from aragora_q.config.redis_url import Address
from aragora_q.redis.discovery import (
    PrimaryDiscovery,
    sync_client,
)
from aragora_q.redis.options import KEEPALIVE, TlsConnection
from aragora_q.redis.pool import Command, ConnectionPool

REDIRECTIONS = 8
"""How often one command follows MOVED and ASK."""


REDISCOVER_ON = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    OSError,
)
"""After one of these the primary may be another server: ask where it is."""


class PrimaryClient:
    """From the event loop to the primary: sends commands, follows where it goes."""

    def __init__(self, where: PrimaryDiscovery, *, socket_timeout: float, path: str = "") -> None:
        self._where = where
        self._timeout_seconds = socket_timeout
        self._path = path
        self._at: Address | None = None
        self._lines: ConnectionPool | None = None
        self._finding: asyncio.Future[Address] | None = None

    async def send(self, *command: Any) -> Any:
        """The reply to one command."""
        [reply] = await self.send_all([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def send_all(self, commands: Sequence[Command]) -> list[Any]:
        """Replies to commands that travel together, on one connection; errors in their places."""
        for _ in range(REDIRECTIONS):
            lines = await self._current()
            try:
                replies = await lines.exchange(commands)
            except REDISCOVER_ON:
                self._where.forget()
                raise
            moved = None
            for reply in replies:
                if isinstance(reply, exceptions.AskError):
                    moved = reply
                    break
                if isinstance(reply, REDISCOVER_ON):
                    self._where.forget()
            if moved is None:
                return replies
            if not isinstance(moved, exceptions.MovedError):
                return await self._send_asking(moved, commands)
            self._where.address = self._where.redirected(moved)
        raise exceptions.TryAgainError("its slot keeps moving", status_code="TRYAGAIN")

    async def refusal_of(self, length: int) -> Exception | None:
        """As `ConnectionPool.refusal_of`, of the primary."""
        return await (await self._current()).refusal_of(length)

    async def _send_asking(
        self, error: exceptions.AskError, commands: Sequence[Command]
    ) -> list[Any]:
        """A slot is on its way: these commands, each after ASKING, to the node it goes to."""
        lines = self._open(self._where.redirected(error))
        try:
            doubled = [each for command in commands for each in (("ASKING",), command)]
            return (await lines.exchange(doubled))[1::2]
        finally:
            await lines.close()

    async def _current(self) -> ConnectionPool:
        if self._path:
            if self._lines is None:
                self._lines = self._open(None)
            return self._lines
        address = self._where.address or await self._find()
        if self._lines is None or address != self._at:
            stale, self._lines, self._at = self._lines, self._open(address), address
            if stale is not None:
                await stale.close()
        return self._lines

    async def _find(self) -> Address:
        """One search at a time, however many wait for it, in a thread that no executor's job can take."""
        if self._finding is None or self._finding.done():
            thread = ThreadPoolExecutor(1, thread_name_prefix="find-primary")
            self._finding = asyncio.wrap_future(thread.submit(self._where.find))
            self._finding.add_done_callback(lambda found: found.cancelled() or found.exception())
            thread.shutdown(wait=False)
        return await asyncio.shield(self._finding)

    def _open(self, address: Address | None) -> ConnectionPool:
        options = {
            **self._where.options,
            "socket_timeout": None,  # `ConnectionPool` has one deadline for a whole call
            "retry": AsyncRetry(NoBackoff(), 0),
        }
        kind: type
        if address is None:
            kind = redis.asyncio.UnixDomainSocketConnection
            options |= {"path": self._path}
        else:
            is_tls = self._where.endpoint.is_tls
            kind = TlsConnection if is_tls else redis.asyncio.Connection
            options |= {"host": address[0], "port": address[1], **KEEPALIVE}
        return ConnectionPool(partial(kind, **options), self._timeout_seconds)

    async def close(self) -> None:
        """Hang up."""
        if self._finding is not None:
            await asyncio.gather(self._finding, return_exceptions=True)
        if self._lines is not None:
            await self._lines.close()


class SyncPrimaryClient:
    """From a thread to the primary. What `PrimaryClient` says holds."""

    def __init__(self, where: PrimaryDiscovery, *, path: str = "") -> None:
        self._where = where
        self._path = path
        self._at: Address | None = None
        self._client: Any = None

    def send(self, *command: Any) -> Any:
        """The reply to one command."""
        for _ in range(REDIRECTIONS):
            client = self._current()
            try:
                return client.execute_command(*command)
            except exceptions.MovedError as error:
                self._where.address = self._where.redirected(error)
            except exceptions.AskError as error:
                return self._send_asking(error, command)
            except REDISCOVER_ON:
                self._where.forget()
                raise
        raise exceptions.TryAgainError("its slot keeps moving", status_code="TRYAGAIN")

    def _send_asking(self, error: exceptions.AskError, command: Command) -> Any:
        client = sync_client(self._where.redirected(error), self._where.options)
        try:
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command("ASKING").execute_command(*command)
            return pipeline.execute()[1]
        finally:
            client.close()

    def _current(self) -> Any:
        address = None if self._path else (self._where.address or self._where.find())
        if self._client is None or address != self._at:
            self.close()
            self._at = address
            self._client = (
                redis.Redis(
                    unix_socket_path=self._path,
                    **self._where.options,
                    retry=Retry(NoBackoff(), 0),
                )
                if address is None
                else sync_client(address, {**self._where.options, **KEEPALIVE})
            )
        return self._client

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
