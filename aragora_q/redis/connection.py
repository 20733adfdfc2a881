"""From a `redis_url` to scripts that run: timeouts, credentials, durability, what errors mean.

The queue, the tracker and the lease keeper get their connections here, and see only our own errors.
Which server of a topology to talk to, `primary.py` finds out; these two and `lines.py` alone know redis-py.

redis-py's defaults are wrong for a queue: ten retries of every command (one lost reply becomes
eleven XADDs) and a read timeout below the blocking read's. So: no retries there, timeouts set on
purpose, and a connection of its own for reads that block.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from redis import exceptions

from aragora_q.config.redis_url import RedisUrl
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import (
    AragoraQError,
    RedisUnreachable,
)
from aragora_q.redis import scripts
from aragora_q.redis.client import PrimaryClient, SyncPrimaryClient
from aragora_q.redis.discovery import PrimaryDiscovery, PrimaryNotFound
from aragora_q.redis.errors import (
    FailoverUnderway,
    translate,
)
from aragora_q.redis.keys import QueueKeys
from aragora_q.redis.options import (
    COMMAND_TIMEOUT_SECONDS,
    connection_options,
    sentinel_options,
)
from aragora_q.redis.scripts import Value

BLOCK_SECONDS = 2.0
"""Longest blocking read: how late a worker notices what no event told it of."""

DURABILITY_TIMEOUT_MS = 5_000
"""How long an enqueue waits for a replica, or for the disk, to confirm it."""

FAILOVER_SECONDS = 8.0
"""How long a client that sets `failover_seconds` to it rides out a failover or a slot's move."""

Durability = Literal["none", "replica", "fsync"]
Item = tuple[str | None, Sequence[Value]]
T = TypeVar("T")


class Connection:
    """One queue's way to its server. Cheap to make; nothing is dialled before the first command."""

    def __init__(self, config: QueueConfig) -> None:
        self.config = config
        self.endpoint = RedisUrl.parse(config.redis_url)
        self.address = self.endpoint.shown
        self.is_cluster = self.endpoint.kind == "cluster"
        self.keys = QueueKeys(config.key_prefix, config.queue, cluster=self.is_cluster)
        self.failover_seconds = 0.0
        """How long to try on, silently, while a topology of several servers sorts itself out."""
        self._named_keys = {
            name: getattr(self.keys, name)
            for name in (
                "stream_high", "stream_normal", "stream_low", "delayed", "completed", "failed",
                "cancelled", "counters", "control", "workers", "events",
            )
        }  # fmt: skip
        self._options = connection_options(config, self.endpoint)
        self._embedded: Any = None
        self._path = self.endpoint.path
        if self.endpoint.kind == "embedded":
            self._embedded = _open_embedded(self.endpoint.path)
            self._path = self._embedded.url.removeprefix("unix://")
        where = self._whereabouts()
        self._link = PrimaryClient(where, socket_timeout=COMMAND_TIMEOUT_SECONDS, path=self._path)
        self._blocking = PrimaryClient(
            where, socket_timeout=BLOCK_SECONDS + COMMAND_TIMEOUT_SECONDS, path=self._path
        )

    def _whereabouts(self) -> PrimaryDiscovery:
        return PrimaryDiscovery(
            self.endpoint,
            self._options,
            sentinel_options(self.config, self._options),
            self.keys.control,
        )

    async def run(
        self,
        name: str,
        items: Iterable[Item] = (),
        *,
        keys: Mapping[str, str] | None = None,
        **args: Value,
    ) -> Any:
        """Run script `name`; `keys` adds those that are not the same for every call."""
        script = scripts.load(name)
        named = {**self._named_keys, **keys} if keys else self._named_keys
        operands = script.operands(named, args, items, self.keys.guard)

        async def call() -> Any:
            try:
                return await self._link.send("EVALSHA", script.sha, *operands)
            except exceptions.NoScriptError:
                return await self._link.send("EVAL", script.text, *operands)

        # A start whose answer was lost has started jobs that its worker must hear of: never twice.
        return await self._retry_while_unavailable(
            call, 0 if name == "start" else self.failover_seconds
        )

    async def run_with_durability(
        self, name: str, items: Iterable[Item], durability: Durability, **args: Value
    ) -> tuple[Any, bool]:
        """Run script `name`, and wait until a replica, or the primary's disk, has what it wrote.

        Returns the script's reply, and whether that was confirmed in time.
        """
        if durability == "none":
            return await self.run(name, items, keys=None, **args), True
        script = scripts.load(name)
        operands = script.operands(self._named_keys, args, items, self.keys.guard)
        # WAIT and WAITAOF look at this connection's last write. A job that was known already is
        # none, so there is always one more: else repeating an enqueue would confirm nothing.
        write = ("HINCRBY", self.keys.counters, "durable_batches", 1)
        # Not by its hash: where the script is unknown, the wait behind it would be for nothing.
        commands = [("EVAL", script.text, *operands), write, _CONFIRM[durability]]

        async def call() -> list[Any]:
            replies = await self._link.send_all(commands)
            if isinstance(replies[0], Exception):
                raise replies[0]
            return replies

        reply, _, confirmed = await self._retry_while_unavailable(call, self.failover_seconds)
        count = confirmed[0] if isinstance(confirmed, list) else confirmed
        return reply, isinstance(count, int) and count >= 1

    async def execute(self, *command: Value) -> Any:
        """Run one command."""
        return await self._retry_while_unavailable(
            lambda: self._link.send(*command), self.failover_seconds
        )

    async def execute_all(self, commands: Iterable[Sequence[Value]]) -> list[Any]:
        """Run commands in one round trip; an error of one of them takes its place in the list."""
        listed = list(commands)
        return await self._retry_while_unavailable(
            lambda: self._link.send_all(listed), self.failover_seconds
        )

    async def refusal_of(self, length: int) -> AragoraQError | None:
        """What the server has against a value of `length` bytes; None: nothing, or it cannot be asked."""
        with self.translating():
            refusal = await self._link.refusal_of(length)
        return translate(refusal, self.address) if refusal else None

    async def _retry_while_unavailable(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        """The answer to `call`, tried on while a failover may be under way; in our own errors."""
        deadline, pause = time.monotonic() + seconds, 0.05
        while True:
            try:
                return await call()
            except (exceptions.RedisError, OSError) as cause:
                error = translate(cause, self.address)
                is_alone = self.endpoint.kind not in ("sentinel", "cluster")
                is_final = is_alone or isinstance(cause, PrimaryNotFound)
                may_pass = isinstance(error, RedisUnreachable | FailoverUnderway)
                if is_final or not may_pass or time.monotonic() + pause > deadline:
                    raise error from cause
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load
            pause = min(pause * 2, 1.0)

    async def read_blocking(
        self, after: Mapping[str, str], timeout_seconds: float, count: int
    ) -> dict[str, list[tuple[str, dict[str, str]]]]:
        """Block until a stream has entries past the id given for it: up to `count` entries by stream.

        Returns nothing when the time, at most BLOCK_SECONDS, is up. Reads without a group, so that
        giving up on the reply loses nothing.
        """
        command = _blocking_read(after, timeout_seconds, count)
        reply = await self._retry_while_unavailable(
            lambda: self._blocking.send(*command), self.failover_seconds
        )
        return {
            stream.decode(): [(entry_id.decode(), _texts(fields)) for entry_id, fields in entries]
            for stream, entries in reply or ()
        }

    async def run_after_read(
        self,
        after: Mapping[str, str],
        timeout_seconds: float,
        name: str,
        *,
        keys: Mapping[str, str],
        **args: Value,
    ) -> Any:
        """Block as `read_blocking`, then run script `name`: in one round trip.

        The script waits at the server, behind the read. It may still run after the caller has given up.
        """
        script = scripts.load(name)
        operands = script.operands({**self._named_keys, **keys}, args, (), self.keys.guard)
        read = _blocking_read(after, timeout_seconds, count=1)
        with self.translating():
            replies = await self._blocking.send_all([read, ("EVALSHA", script.sha, *operands)])
            if not isinstance(replies[1], exceptions.NoScriptError):
                for reply in replies:
                    if isinstance(reply, Exception):
                        raise reply
                return replies[1]
        return await self.run(name, (), keys=keys, **args)

    def open_sync(self) -> SyncConnection:
        """A connection for another thread, which must close it."""
        return SyncConnection(self, SyncPrimaryClient(self._whereabouts(), path=self._path))

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn what redis-py raises into our errors, without secrets."""
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            raise translate(error, self.address) from error

    async def close(self) -> None:
        """Close all connections of the event loop."""
        await self._link.close()
        await self._blocking.close()
        if self._embedded is not None:
            self._embedded.release()


def _blocking_read(after: Mapping[str, str], timeout_seconds: float, count: int) -> Sequence[Value]:
    block_ms = max(1, int(min(timeout_seconds, BLOCK_SECONDS) * 1000))
    return ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *after, *after.values())


_CONFIRM: Mapping[str, tuple[Value, ...]] = {
    "replica": ("WAIT", 1, DURABILITY_TIMEOUT_MS),
    "fsync": ("WAITAOF", 1, 0, DURABILITY_TIMEOUT_MS),
}


class SyncConnection:
    """The same server from a thread without an event loop; the lease keeper's."""

    def __init__(self, parent: Connection, link: SyncPrimaryClient) -> None:
        self._parent = parent
        self._link = link

    def run(
        self, name: str, items: Iterable[Item] = (), *, keys: Mapping[str, str], **args: Value
    ) -> Any:
        """As `Connection.run`."""
        script = scripts.load(name)
        named = {**self._parent._named_keys, **keys}  # noqa: SLF001
        operands = script.operands(named, args, items, self._parent.keys.guard)
        with self._parent.translating():
            try:
                return self._link.send("EVALSHA", script.sha, *operands)
            except exceptions.NoScriptError:
                return self._link.send("EVAL", script.text, *operands)

    def close(self) -> None:
        """Hang up."""
        self._link.close()


def _texts(fields: Sequence[bytes] | None) -> dict[str, str]:
    texts = [text.decode(errors="replace") for text in fields or ()]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _open_embedded(path: str) -> Any:
    from aragora_q.redis import embedded  # noqa: PLC0415 - imported where it is used

    return embedded.open_server(Path(path) if path else None)
