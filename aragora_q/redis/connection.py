"""Run scripts and commands on the server that a `redis_url` names, and translate its errors.

Three levels: `Connection.run` (scripts, durability, retries during a failover), `PrimaryClient.send`
(which server), `ConnectionPool.execute` (bytes). The queue, the tracker and the lease keeper get their
connections here.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from redis import exceptions
from redis.credentials import CredentialProvider

from aragora_q.backoff import Backoff
from aragora_q.config import QueueConfig
from aragora_q.config.redis_url import RedisUrl
from aragora_q.errors import AragoraQError, NotPrimary, RedisUnreachable
from aragora_q.redis import replies, scripts
from aragora_q.redis.client import PrimaryClient
from aragora_q.redis.discovery import PrimaryDiscovery, PrimaryNotFound
from aragora_q.redis.errors import FailoverUnderway, translate
from aragora_q.redis.keys import GateKeys, QueueKeys
from aragora_q.redis.options import COMMAND_TIMEOUT_SECONDS, connection_options, sentinel_options
from aragora_q.redis.pool import Command, Head
from aragora_q.redis.scripts import Script, Value

READ_SECONDS = 2.0
"""Longest blocking read of events: how late a follower notices what no event announced."""

DURABILITY_TIMEOUT_MS = 5_000
"""How long an enqueue waits for a replica, or for the disk, to confirm it."""

FAILOVER_SECONDS = 8.0
"""How long clients retry while a failover or the move of a slot may be under way."""

Durability = Literal["none", "replica", "fsync"]
Item = tuple[str | None, Sequence[Value]]
T = TypeVar("T")

_FAILURES = (exceptions.RedisError, OSError)
"""What a call raises that the server did not answer, or refused."""


class Connection:
    """A queue's connection to its server. Nothing is sent before the first command.

    `timeout_seconds` bounds every call, not counting the time for which it asks the server to block.
    """

    def __init__(
        self,
        config: QueueConfig,
        *,
        timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
        path: str | None = None,
        options: tuple[dict[str, Any], dict[str, Any]] | None = None,
        to_gates: bool = False,
    ) -> None:
        self.redis_url = RedisUrl.parse(config.redis_url)
        self.address = self.redis_url.redacted
        self.is_cluster = self.redis_url.kind == "cluster"
        self.keys = QueueKeys(config.key_prefix, config.queue, cluster=self.is_cluster)
        self.gate_keys = GateKeys(config.key_prefix, cluster=self.is_cluster)
        keys: QueueKeys | GateKeys = self.gate_keys if to_gates else self.keys
        self.failover_seconds = 0.0
        """How long calls are retried, without a log line, while another server may be taking over."""
        self.config = config
        self._to_gates = to_gates
        self._named_keys, self._guard = keys.named, keys.guard
        self._heads: dict[str, tuple[int, Head]] = {}  # by script, with the number of keys
        self._embedded: Any = None
        self._path = self.redis_url.path if path is None else path
        if self.redis_url.kind == "embedded" and path is None:
            self._embedded = _open_embedded(self.redis_url.path)
            self._path = self._embedded.path
        if options is None:
            server_options = connection_options(config, self.redis_url)
            options = server_options, sentinel_options(config, server_options)
        self._options = options
        discovery = PrimaryDiscovery(self.redis_url, *options, keys.anchor)
        self._client = PrimaryClient(discovery, timeout_seconds=timeout_seconds, path=self._path)
        # Calls that block must not occupy the connections of those that do not.
        self._blocking = PrimaryClient(discovery, timeout_seconds=timeout_seconds, path=self._path)

    def for_other_thread(self, *, timeout_seconds: float) -> Connection:
        """Return a connection to the same server for another event loop, which must close it.

        It shares the options, because new ones would not use a password that has been rotated since.
        """
        return Connection(
            self.config,
            timeout_seconds=timeout_seconds,
            path=self._path,
            options=self._options,
            to_gates=self._to_gates,
        )

    def as_user(self, credentials: CredentialProvider) -> Connection:
        """Return a connection to the same server as another user; its owner must close it."""
        server_options, sentinel_options = self._options
        options = {**server_options, "credential_provider": credentials}, sentinel_options
        return Connection(self.config, path=self._path, options=options)

    def for_gates(self) -> Connection:
        """Return a connection to the gates that belong to this queue; its owner must close it.

        On a cluster, they may be on another node.
        """
        return Connection(self.config, path=self._path, options=self._options, to_gates=True)

    @asynccontextmanager
    async def open_gates(self) -> AsyncIterator[Connection]:
        """Yield a connection as `for_gates`, and close it."""
        gates = self.for_gates()
        try:
            yield gates
        finally:
            await gates.close()

    async def run(
        self,
        name: str,
        /,
        items: Sequence[Item] = (),
        *,
        keys: Mapping[str, str] | None = None,
        **args: Value,
    ) -> Any:
        """Run script `name` and return its reply; `keys` adds to the keys that every script may use."""
        script = scripts.load(name)
        key_count, operands = script.operands(args, items, self._guard)
        commands: list[Command] = [(self._head(script, key_count, keys), *operands)]
        may_repeat = script.is_repeatable
        # A start is not repeated: if its reply was lost, the jobs that it started must be released first.
        # As `_retry_while_unavailable`, without two coroutines.
        retries = self._retries(0 if name == "start" else self.failover_seconds)
        while True:
            try:
                [reply] = await self._client.send_all(commands, may_repeat=may_repeat)
                if isinstance(reply, exceptions.NoScriptError):
                    commands = [self._whole(script, key_count, keys, operands)]
                    [reply] = await self._client.send_all(commands, may_repeat=may_repeat)
                if isinstance(reply, Exception):
                    raise reply
                return _checked(reply, name, items)
            except _FAILURES as cause:
                await retries.pause(cause)

    async def run_with_durability(
        self, name: str, items: Sequence[Item], durability: Durability, **args: Value
    ) -> tuple[Any, bool]:
        """Run script `name` and wait until the replicas, or the primary's disk, have what it wrote.

        Returns the script's reply, and whether that was confirmed in time.
        """
        if durability == "none":
            return await self.run(name, items, keys=None, **args), True
        script = scripts.load(name)
        key_count, operands = script.operands(args, items, self._guard)
        # WAIT and WAITAOF confirm this connection's last write. A job that was known already writes
        # nothing, so one more write follows: else repeating an enqueue would confirm nothing.
        write = ("HINCRBY", self.keys.counters, "durable_batches", 1)
        if durability == "replica":
            needed = self.config.durability_replicas
            confirm: Command = ("WAIT", needed, DURABILITY_TIMEOUT_MS)
        else:
            needed, confirm = 1, ("WAITAOF", 1, 0, DURABILITY_TIMEOUT_MS)
        # EVAL, not EVALSHA: where the script is unknown, the wait behind it would be for nothing.
        commands = [self._whole(script, key_count, None, operands), write, confirm]

        async def call() -> list[Any]:
            answers = await self._client.send_all(commands)
            if isinstance(answers[0], Exception):
                raise answers[0]
            _checked(answers[0], name, items)
            return answers

        reply, written, confirmed = await self._retry_while_unavailable(call, self.failover_seconds)
        if isinstance(written, Exception):  # what is confirmed is an earlier write, or none
            return reply, False
        count = confirmed[0] if isinstance(confirmed, list) else confirmed
        return reply, isinstance(count, int) and count >= needed

    async def execute(self, *command: Value) -> Any:
        """Run one command and return its reply. It must be one whose second execution changes nothing."""
        return await self._retry_while_unavailable(
            lambda: self._client.send(*command, may_repeat=True), self.failover_seconds
        )

    async def execute_all(self, commands: Iterable[Sequence[Value]]) -> list[Any]:
        """Run commands, as for `execute`, in one round trip; the server's errors are among the replies."""
        batch = list(commands)
        return await self._retry_while_unavailable(
            lambda: self._client.send_all(batch, may_repeat=True), self.failover_seconds
        )

    async def read_all(
        self, commands: Iterable[Sequence[Value]], *, absent: re.Pattern[str] | None = None
    ) -> list[Any]:
        """Run commands as `execute_all` does, and raise the first of the server's errors.

        An error that matches `absent` says that there is nothing to read: its reply is None.
        """
        found = await self.execute_all(commands)
        for reply in found:
            if isinstance(reply, Exception) and not (absent and absent.search(str(reply))):
                with self.translating():
                    raise reply
        return [None if isinstance(reply, Exception) else reply for reply in found]

    async def size_refusal(self, length: int) -> AragoraQError | None:
        """Return why the server refuses a value of `length` bytes; None if it takes it or cannot say."""
        with self.translating():
            refusal = await self._client.size_refusal(length)
        return translate(refusal, self.address) if refusal else None

    async def read_blocking(
        self, after: Mapping[str, str], timeout_seconds: float, count: int
    ) -> dict[str, list[tuple[str, dict[str, str]]]]:
        """Block until a stream has entries past the id given for it; up to `count` entries by stream.

        Returns an empty dict after `timeout_seconds`, at most READ_SECONDS. Reads without a consumer
        group, so cancelling the call loses nothing.
        """
        command = _blocking_read(after, timeout_seconds, count)
        reply = await self._retry_while_unavailable(
            lambda: self._blocking.send(*command, block_seconds=READ_SECONDS, may_repeat=True),
            self.failover_seconds,
        )
        return {
            stream.decode(): [(entry_id.decode(), _texts(fields)) for entry_id, fields in entries]
            for stream, entries in reply or ()
        }

    async def pop_blocking(self, key: str, timeout_seconds: float) -> None:
        """Block until the list `key` has an element, and remove it; for at most `timeout_seconds`."""
        command = ("BLPOP", key, timeout_seconds)
        await self._retry_while_unavailable(
            lambda: self._blocking.send(*command, block_seconds=timeout_seconds),
            self.failover_seconds,
        )

    async def run_after_pop(
        self,
        key: str,
        timeout_seconds: float,
        name: str,
        *,
        keys: Mapping[str, str],
        **args: Value,
    ) -> Any:
        """Block as `pop_blocking`, then run script `name`: in one round trip.

        The script waits in the server behind the pop. It may still run after the call was cancelled.
        """
        script = scripts.load(name)
        key_count, operands = script.operands(args, (), self._guard)
        commands = [
            ("BLPOP", key, timeout_seconds),
            (self._head(script, key_count, keys), *operands),
        ]
        with self.translating():
            answers = await self._blocking.send_all(commands, timeout_seconds)
            if not isinstance(answers[1], exceptions.NoScriptError):
                for answer in answers:
                    if isinstance(answer, Exception):
                        raise answer
                return _checked(answers[1], name, ())
        return await self.run(name, (), keys=keys, **args)

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Translate what redis-py raises in the body into our errors."""
        try:
            yield
        except _FAILURES as error:
            raise translate(error, self.address) from error

    async def close(self) -> None:
        """Close all connections; an embedded server that is not used any more stops.

        Calls under way and later ones raise QueueClosed. Raises as `check_loop`, before anything is closed.
        """
        self.check_loop()
        # An exit stack closes both clients, even if this call is cancelled meanwhile.
        async with AsyncExitStack() as closing:
            if self._embedded is not None:
                closing.callback(self._embedded.release)
                self._embedded = None
            closing.push_async_callback(self._blocking.close)
            closing.push_async_callback(self._client.close)

    def check_loop(self) -> None:
        """Raise RuntimeError if it is in use in another event loop, which is still open."""
        for client in (self._client, self._blocking):
            client.check_loop()

    def _head(self, script: Script, key_count: int, keys: Mapping[str, str] | None) -> Head:
        """Return the packed beginning of a call, kept while the script's number of keys stays the same.

        With `keys`, which differ between calls, it is not kept.
        """
        last_count, head = self._heads.get(script.name, (0, None)) if not keys else (0, None)
        if head is None or last_count != key_count:
            command = "EVALSHA_RO" if script.is_read_only else "EVALSHA"
            head = Head.of(command, script.sha, key_count, *self._named_keys_of(script, keys))
            if not keys:
                self._heads[script.name] = key_count, head
        return head

    def _whole(
        self,
        script: Script,
        key_count: int,
        keys: Mapping[str, str] | None,
        operands: Sequence[Value],
    ) -> Command:
        """Return a call of a script that the server may not know."""
        command = "EVAL_RO" if script.is_read_only else "EVAL"
        return (command, script.text, key_count, *self._named_keys_of(script, keys), *operands)

    def _named_keys_of(self, script: Script, keys: Mapping[str, str] | None) -> list[str]:
        return script.named_keys({**self._named_keys, **keys} if keys else self._named_keys)

    async def _retry_while_unavailable(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Return the result of `call`, retried for `seconds` while a failover may be under way."""
        retries = self._retries(seconds)
        while True:
            try:
                return await call()
            except _FAILURES as cause:
                await retries.pause(cause)

    def _retries(self, seconds: float) -> _Retries:
        is_alone = self.redis_url.kind not in ("sentinel", "cluster")
        return _Retries(self.address, 0 if is_alone else seconds)


class _Retries:
    """How long one call is retried: for `seconds`, while a failover may be under way. Zero: never."""

    __slots__ = ("_address", "_backoff", "_deadline")

    def __init__(self, address: str, seconds: float) -> None:
        self._address = address
        self._deadline = time.monotonic() + seconds if seconds else 0.0
        self._backoff: Backoff | None = None

    async def pause(self, cause: Exception) -> None:
        """Wait before the next attempt. Raises the translated error if there is none."""
        error = translate(cause, self._address)
        may_pass = isinstance(error, RedisUnreachable | FailoverUnderway | NotPrimary)
        self._backoff = self._backoff or Backoff(0.05, 1.0)
        pause_seconds = self._backoff.next_seconds()
        is_final = not may_pass or isinstance(cause, PrimaryNotFound)
        if is_final or time.monotonic() + pause_seconds > self._deadline:
            raise error from cause
        await asyncio.sleep(pause_seconds)


def _checked(reply: Any, name: str, items: Sequence[Item]) -> Any:
    """Return the reply of script `name`. Raises InvalidResponse if the script cannot have sent it."""
    return replies.check(reply, replies.SCRIPTS[name], f"script {name}", len(items))


def _blocking_read(after: Mapping[str, str], timeout_seconds: float, count: int) -> Sequence[Value]:
    block_ms = max(1, int(min(timeout_seconds, READ_SECONDS) * 1000))
    return ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *after, *after.values())


def _texts(fields: Sequence[bytes] | None) -> dict[str, str]:
    texts = [text.decode(errors="replace") for text in fields or ()]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _open_embedded(path: str) -> Any:
    from aragora_q.redis import embedded  # noqa: PLC0415 - needed for embedded:// only

    return embedded.open_server(Path(path) if path else None)
