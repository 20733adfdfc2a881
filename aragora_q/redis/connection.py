"""From a `redis_url` to scripts that run: timeouts, credentials, durability, what errors mean.

The queue, the tracker and the lease keeper get their connections here, and see only our own errors.
Which server of a topology to talk to, `primary.py` finds out; these two and `lines.py` alone know redis-py.

redis-py's defaults are wrong for a queue: ten retries of every command (one lost reply becomes
eleven XADDs) and a read timeout below the blocking read's. So: no retries there, timeouts set on
purpose, and a connection of its own for reads that block.
"""

from __future__ import annotations

import asyncio
import errno
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from redis import exceptions

from aragora_q import scripts
from aragora_q.config import QueueConfig
from aragora_q.config_layers import secret_in_file
from aragora_q.endpoint import Endpoint
from aragora_q.errors import (
    AccessDenied,
    AragoraQError,
    ConfigError,
    RedisUnreachable,
    ServerUnsuitable,
    TryAgain,
)
from aragora_q.keys import QueueKeys
from aragora_q.lines import TOO_LONG
from aragora_q.primary import (
    OF_ANOTHER_KIND,
    Credentials,
    Link,
    NobodyKnows,
    SyncLink,
    Whereabouts,
    tls_context,
)
from aragora_q.scripts import Value

COMMAND_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 5.0
BLOCK_SECONDS = 2.0
"""Longest blocking read: how late a worker notices what no event told it of."""

DURABILITY_TIMEOUT_MS = 5_000
"""How long an enqueue waits for a replica, or for the disk, to confirm it."""

FAILOVER_SECONDS = 8.0
"""How long a client that sets `patience_seconds` to it rides out a failover or a slot's move."""

Durability = Literal["none", "replica", "fsync"]
Item = tuple[str | None, Sequence[Value]]
T = TypeVar("T")


class Connection:
    """One queue's way to its server. Cheap to make; nothing is dialled before the first command."""

    def __init__(self, config: QueueConfig) -> None:
        self.config = config
        self.endpoint = Endpoint.parse(config.redis_url)
        self.address = self.endpoint.shown
        self.is_cluster = self.endpoint.kind == "cluster"
        self.keys = QueueKeys(config.key_prefix, config.queue, cluster=self.is_cluster)
        self.patience_seconds = 0.0
        """How long to try on, silently, while a topology of several servers sorts itself out."""
        self._named_keys = {
            name: getattr(self.keys, name)
            for name in (
                "stream_high", "stream_normal", "stream_low", "delayed", "completed", "failed",
                "cancelled", "counters", "control", "workers", "events",
            )
        }  # fmt: skip
        self._options = _options(config, self.endpoint)
        self._embedded: Any = None
        self._path = self.endpoint.path
        if self.endpoint.kind == "embedded":
            self._embedded = _open_embedded(self.endpoint.path)
            self._path = self._embedded.url.removeprefix("unix://")
        where = self._whereabouts()
        self._link = Link(where, socket_timeout=COMMAND_TIMEOUT_SECONDS, path=self._path)
        self._blocking = Link(
            where, socket_timeout=BLOCK_SECONDS + COMMAND_TIMEOUT_SECONDS, path=self._path
        )

    def _whereabouts(self) -> Whereabouts:
        sentinel_options = _sentinel_options(self.config, self._options)
        return Whereabouts(self.endpoint, self._options, sentinel_options, self.keys.control)

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
        return await self._patiently(call, 0 if name == "start" else self.patience_seconds)

    async def run_durably(
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

        reply, _, confirmed = await self._patiently(call, self.patience_seconds)
        count = confirmed[0] if isinstance(confirmed, list) else confirmed
        return reply, isinstance(count, int) and count >= 1

    async def execute(self, *command: Value) -> Any:
        """Run one command."""
        return await self._patiently(lambda: self._link.send(*command), self.patience_seconds)

    async def execute_all(self, commands: Iterable[Sequence[Value]]) -> list[Any]:
        """Run commands in one round trip; an error of one of them takes its place in the list."""
        listed = list(commands)
        return await self._patiently(lambda: self._link.send_all(listed), self.patience_seconds)

    async def refusal_of(self, length: int) -> AragoraQError | None:
        """What the server has against a value of `length` bytes; None: nothing, or it cannot be asked."""
        with self.translating():
            refusal = await self._link.refusal_of(length)
        return translate(refusal, self.address) if refusal else None

    async def _patiently(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        """The answer to `call`, tried on while a failover may be under way; in our own errors."""
        deadline, pause = time.monotonic() + seconds, 0.05
        while True:
            try:
                return await call()
            except (exceptions.RedisError, OSError) as cause:
                error = translate(cause, self.address)
                is_alone = self.endpoint.kind not in ("sentinel", "cluster")
                is_final = is_alone or isinstance(cause, NobodyKnows)
                may_pass = isinstance(error, RedisUnreachable | Moving)
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
        reply = await self._patiently(lambda: self._blocking.send(*command), self.patience_seconds)
        return {
            stream.decode(): [(entry_id.decode(), _texts(fields)) for entry_id, fields in entries]
            for stream, entries in reply or ()
        }

    async def run_when_new(
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
        return SyncConnection(self, SyncLink(self._whereabouts(), path=self._path))

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

    def __init__(self, parent: Connection, link: SyncLink) -> None:
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


class Moving(TryAgain):
    """Servers are taking over from one another, or a slot is on its way: over in seconds."""


# What each kind of refusal means, by the first word of the server's error.
_TRY_AGAIN = {
    "OOM": "Redis is full (maxmemory): let workers drain, purge, or raise maxmemory",
    "LOADING": "Redis is loading its data set: wait",
    "READONLY": "this server is a replica: point redis_url at the primary",
    "MASTERDOWN": "the replica has lost its primary: wait for failover",
    "CLUSTERDOWN": "the cluster does not cover all slots: check its nodes",
    "TRYAGAIN": "a slot is being moved: wait",
    "UNBLOCKED": "the primary has become a replica, or the key was deleted: wait",
    "BUSY": "a script blocks the server: wait, or SCRIPT KILL",
    "MISCONF": "Redis cannot write to its disk: free space, check its log",
    "NOREPLICAS": "too few replicas are in sync: check replication",
}
_MOVING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED")
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")
_DENIED_OTHERWISE = (
    "ACL failure in script",
    "The user executing the script can't",
    "Protocol error: unauthenticated",  # to a long command before any password was given
)
"""What servers say, under ERR, when a script may run but not all that it calls."""


def translate(error: Exception, address: str) -> AragoraQError:
    """Our error for what redis-py raised while talking to `address`."""
    text = str(error)
    word = getattr(error, "status_code", None) or (text.split(maxsplit=1)[0] if text else "")
    if word in _TRY_AGAIN:
        kind = Moving if word in _MOVING else TryAgain
        return kind(f"Redis at {address} refuses: {word} {text.removeprefix(word).strip()}",
                    hint=_TRY_AGAIN[word])  # fmt: skip
    denied = exceptions.AuthenticationError | exceptions.NoPermissionError
    if word in _DENIED or isinstance(error, denied) or text.startswith(_DENIED_OTHERWISE):
        return AccessDenied(
            f"Redis at {address} denies access: {text}",
            hint="check user and password (REDIS_URL, REDIS_PASSWORD) and the user's ACL",
        )
    if text.startswith((*OF_ANOTHER_KIND, "DB index is out of range")):
        return ServerUnsuitable(
            f"the server at {address} is not what redis_url says it is: {text}",
            hint="redis:// is for one server, and ends in the number of one of its databases, if any;"
            " redis+sentinel:// names Sentinels, redis+cluster:// nodes",
        )
    if text.startswith(TOO_LONG):
        return ServerUnsuitable(
            f"Redis at {address} takes no value of that size (its proto-max-bulk-len): {text}",
            hint="raise it there, or lower max_payload_bytes and max_result_bytes",
        )
    if isinstance(error, exceptions.ResponseError):
        return AragoraQError(f"Redis at {address} refused a command: {text}")
    hint = "is the server running, and is redis_url (REDIS_URL) right?"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        hint = "set redis_tls_ca_file to the authority that signed the server's certificate"
    return RedisUnreachable(
        f"cannot reach Redis at {address}: {_plainly(text) or type(error).__name__}", hint=hint
    )


def _plainly(text: str) -> str:
    """Why a connection failed, without addresses, numbers, and attempts at every address of a name."""
    if f"[Errno {errno.ECONNREFUSED}]" in text or text.startswith(f"Error {errno.ECONNREFUSED} "):
        return "connection refused"
    return re.sub(r"^Error \S+ connecting to \S+\. ", "", text).rstrip(".")


def _texts(fields: Sequence[bytes] | None) -> dict[str, str]:
    texts = [text.decode(errors="replace") for text in fields or ()]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _options(config: QueueConfig, endpoint: Endpoint) -> dict[str, Any]:
    """redis-py's options for connections to the queue's server."""
    options: dict[str, Any] = {
        "socket_timeout": COMMAND_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "protocol": 2,
        "driver_info": None,  # no CLIENT SETINFO: two more answers to wait for, one more right to have
        "db": endpoint.database,
    }
    password = _password_source("redis_password", config)
    if password or endpoint.password or endpoint.username:
        options["credential_provider"] = Credentials(
            endpoint.username, password or (lambda: endpoint.password)
        )
    if endpoint.is_tls:
        options |= {
            "ssl_ca_certs": config.redis_tls_ca_file,
            "ssl_certfile": config.redis_tls_cert_file,
            "ssl_keyfile": config.redis_tls_key_file,
        }
        _check_tls(config)
    return options


def _sentinel_options(config: QueueConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    password = _password_source("redis_sentinel_password", config)
    own = {
        name: value for name, value in options.items() if name not in ("db", "credential_provider")
    }
    return {**own, "credential_provider": Credentials("", password)} if password else own


def _password_source(name: str, config: QueueConfig) -> Callable[[], str] | None:
    """What gives the password at the time a connection is made: the file it came from may change."""
    configured = getattr(config, name)
    if configured is None:
        return None
    known: str = configured.get_secret_value()
    if secret_in_file(name) != known:
        return lambda: known
    return lambda: secret_in_file(name) or known


def _check_tls(config: QueueConfig) -> None:
    """Raise ConfigError for certificates that cannot be used; a connection would call it unreachable."""
    try:
        tls_context(config.redis_tls_ca_file, config.redis_tls_cert_file, config.redis_tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificates for Redis cannot be used: {error}",
            hint="see redis_tls_ca_file, redis_tls_cert_file and redis_tls_key_file: PEM, readable to us",
        ) from None


def _open_embedded(path: str) -> Any:
    from aragora_q import embedded  # noqa: PLC0415 - only those who ask for it pay for it

    return embedded.open_server(Path(path) if path else None)
