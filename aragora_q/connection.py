"""From a `redis_url` to a server we can trust: clients, timeouts, topology, what errors mean.

The only module that knows topologies and redis-py's settings; the queue, the tracker and the lease
keeper get their connections here, and see only our own errors.

redis-py's defaults are wrong for a queue: ten retries of every command (one lost reply becomes
eleven XADDs) and a read timeout below the blocking read's. So: no retries here, timeouts set on
purpose, and a connection of its own for reads that block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from aragora_q import scripts
from aragora_q.config import QueueConfig
from aragora_q.errors import (
    AccessDenied,
    AragoraQError,
    ConfigError,
    RedisUnreachable,
    ServerUnsuitable,
    TryAgain,
)
from aragora_q.keys import QueueKeys
from aragora_q.scripts import Value

COMMAND_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 5.0
BLOCK_SECONDS = 2.0
"""Longest blocking read: how late a worker notices what no event told it of."""

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "embedded")
CLUSTER_RETRIES = 3
"""How often redis-py follows MOVED, ASK and TRYAGAIN within one command."""

Item = tuple[str | None, Sequence[Value]]


class Connection:
    """One queue's way to its server. Cheap to make; nothing is dialled before the first command."""

    def __init__(self, config: QueueConfig) -> None:
        self.config = config
        self.address = _address(config.redis_url)
        scheme = _scheme(config.redis_url)
        self.is_cluster = scheme.endswith("+cluster")
        self.keys = QueueKeys(config.key_prefix, config.queue, cluster=self.is_cluster)
        self._named_keys = {
            name: getattr(self.keys, name)
            for name in (
                "stream_high", "stream_normal", "stream_low", "delayed", "completed", "failed",
                "cancelled", "counters", "control", "workers", "events",
            )
        }  # fmt: skip
        self._embedded = _open_embedded(config.redis_url) if scheme == "embedded" else None
        self.client = self._client(COMMAND_TIMEOUT_SECONDS)
        self._blocking: redis.asyncio.Redis | redis.asyncio.RedisCluster | None = None

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
        operands = script.operands(named, args, items)
        with self.translating():
            try:
                return await self.client.execute_command("EVALSHA", script.sha, *operands)
            except exceptions.NoScriptError:
                return await self.client.execute_command("EVAL", script.text, *operands)

    async def execute(self, *command: Value) -> Any:
        """Run one command."""
        with self.translating():
            return await self.client.execute_command(*command)

    async def execute_all(self, commands: Iterable[Sequence[Value]]) -> list[Any]:
        """Run commands in one round trip; an error of one of them takes its place in the list."""
        with self.translating():
            pipeline = self.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)

    async def read_blocking(
        self, after: Mapping[str, str], timeout_seconds: float, count: int
    ) -> dict[str, list[tuple[str, dict[str, str]]]]:
        """Block until a stream has entries past the id given for it: up to `count` entries by stream.

        Returns nothing when the time, at most BLOCK_SECONDS, is up. Reads without a group, so that
        giving up on the reply loses nothing.
        """
        if self._blocking is None:
            self._blocking = self._client(BLOCK_SECONDS + COMMAND_TIMEOUT_SECONDS)
        block_ms = max(1, int(min(timeout_seconds, BLOCK_SECONDS) * 1000))
        with self.translating():
            reply = await self._blocking.execute_command(
                "XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *after, *after.values()
            )
        return {
            stream.decode(): [(entry_id.decode(), _texts(fields)) for entry_id, fields in entries]
            for stream, entries in (reply.items() if isinstance(reply, dict) else reply or ())
        }

    def open_sync(self) -> SyncConnection:
        """A connection for another thread, which must close it."""
        return SyncConnection(self, self._sync_client())

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn what redis-py raises into our errors, without secrets."""
        try:
            yield
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise translate(error, self.address) from error

    async def close(self) -> None:
        """Close all connections of the event loop."""
        await self.client.aclose()
        if self._blocking is not None:
            await self._blocking.aclose()
        if self._embedded is not None:
            self._embedded.release()

    def _options(self, socket_timeout: float) -> dict[str, Any]:
        options: dict[str, Any] = {
            "socket_timeout": socket_timeout,
            "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "protocol": 2,
        }
        if self.config.redis_password is not None:
            options["password"] = self.config.redis_password.get_secret_value()
        return options

    def _url(self) -> str:
        if self._embedded is not None:
            return str(self._embedded.url)
        return self.config.redis_url

    def _client(self, socket_timeout: float) -> redis.asyncio.Redis | redis.asyncio.RedisCluster:
        options = self._options(socket_timeout)
        if self.is_cluster:
            backoff = ExponentialWithJitterBackoff(base=0.05, cap=1)
            return redis.asyncio.RedisCluster(
                **_cluster_options(self._url()),
                **options,
                retry=AsyncRetry(backoff, CLUSTER_RETRIES),
            )
        options |= parse_url(self._url())
        kind = options.pop("connection_class", redis.asyncio.Connection)
        pool = redis.asyncio.ConnectionPool(
            connection_class=_PACKING[kind], **options, retry=AsyncRetry(NoBackoff(), 0)
        )
        return redis.asyncio.Redis.from_pool(pool)

    def _sync_client(self) -> redis.Redis | redis.RedisCluster:
        options = self._options(COMMAND_TIMEOUT_SECONDS)
        if self.is_cluster:
            backoff = ExponentialWithJitterBackoff(base=0.05, cap=1)
            return redis.RedisCluster(
                **_cluster_options(self._url()), **options, retry=Retry(backoff, CLUSTER_RETRIES)
            )
        return redis.Redis.from_url(self._url(), **options, retry=Retry(NoBackoff(), 0))


class _Packing:
    """Packs commands with hiredis, as redis-py's synchronous connections do and its asyncio ones do
    not: a batch has hundreds of arguments, and packing them was half of a busy worker's time.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]


class _Tcp(_Packing, redis.asyncio.Connection):
    """TCP."""


class _Tls(_Packing, redis.asyncio.SSLConnection):
    """TCP with TLS."""


class _Unix(_Packing, redis.asyncio.UnixDomainSocketConnection):
    """A unix socket."""


_PACKING: dict[type, type] = {
    redis.asyncio.Connection: _Tcp,
    redis.asyncio.SSLConnection: _Tls,
    redis.asyncio.UnixDomainSocketConnection: _Unix,
}


class SyncConnection:
    """The same server from a thread without an event loop; the lease keeper's."""

    def __init__(self, parent: Connection, client: redis.Redis | redis.RedisCluster) -> None:
        self._parent = parent
        self._client = client

    def run(
        self, name: str, items: Iterable[Item] = (), *, keys: Mapping[str, str], **args: Value
    ) -> Any:
        """As `Connection.run`."""
        script = scripts.load(name)
        operands = script.operands({**self._parent._named_keys, **keys}, args, items)  # noqa: SLF001
        with self._parent.translating():
            try:
                return self._client.execute_command("EVALSHA", script.sha, *operands)  # type: ignore[no-untyped-call]
            except exceptions.NoScriptError:
                return self._client.execute_command("EVAL", script.text, *operands)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Hang up."""
        self._client.close()


# What each kind of refusal means, by the first word of the server's error.
_TRY_AGAIN = {
    "OOM": "Redis is full (maxmemory): let workers drain, purge, or raise maxmemory",
    "LOADING": "Redis is loading its data set: wait",
    "READONLY": "this server is a replica: point redis_url at the primary",
    "MASTERDOWN": "the replica has lost its primary: wait for failover",
    "CLUSTERDOWN": "the cluster does not cover all slots: check its nodes",
    "TRYAGAIN": "a slot is being moved: wait",
    "BUSY": "a script blocks the server: wait, or SCRIPT KILL",
    "MISCONF": "Redis cannot write to its disk: free space, check its log",
    "NOREPLICAS": "too few replicas are in sync: check replication",
}
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")


def translate(error: Exception, address: str) -> AragoraQError:
    """Our error for what redis-py raised while talking to `address`."""
    text = str(error)
    word = text.split(maxsplit=1)[0] if text else ""
    for kind, code in (
        (exceptions.OutOfMemoryError, "OOM"),
        (exceptions.BusyLoadingError, "LOADING"),
        (exceptions.ReadOnlyError, "READONLY"),
        (exceptions.MasterDownError, "MASTERDOWN"),
        (exceptions.ClusterDownError, "CLUSTERDOWN"),
        (exceptions.SlotNotCoveredError, "CLUSTERDOWN"),
        (exceptions.TryAgainError, "TRYAGAIN"),
    ):
        if isinstance(error, kind):
            word = code
    if word in _TRY_AGAIN:
        return TryAgain(f"Redis at {address} refuses: {word} {text.removeprefix(word).strip()}",
                        hint=_TRY_AGAIN[word])  # fmt: skip
    if word in _DENIED or isinstance(
        error, exceptions.AuthenticationError | exceptions.NoPermissionError
    ):
        return AccessDenied(
            f"Redis at {address} denies access: {text}",
            hint="check user and password (REDIS_URL, REDIS_PASSWORD) and the user's ACL",
        )
    if isinstance(error, exceptions.ResponseError):
        return AragoraQError(f"Redis at {address} refused a command: {text}")
    return RedisUnreachable(
        f"cannot reach Redis at {address}: {text or type(error).__name__}",
        hint="is the server running, and is redis_url (REDIS_URL) right?",
    )


@dataclass(frozen=True)
class ServerFacts:
    """What INFO says of a server that matters to a queue."""

    version: str
    is_valkey: bool
    eviction_policy: str
    has_aof: bool
    is_cluster: bool

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> ServerFacts:
        return cls(
            version=str(info.get("valkey_version") or info.get("redis_version", "0")),
            is_valkey="valkey_version" in info,
            eviction_policy=str(info.get("maxmemory_policy", "noeviction")),
            has_aof=bool(int(info.get("aof_enabled", 0))),
            is_cluster=bool(int(info.get("cluster_enabled", 0))),
        )

    @property
    def name(self) -> str:
        return f"{'Valkey' if self.is_valkey else 'Redis'} {self.version}"


async def check_server(connection: Connection) -> ServerFacts:
    """Read the server's facts. Raises ServerUnsuitable for one too old or of the other topology."""
    facts = ServerFacts.from_info(await _info(connection))
    floor = (7, 2) if facts.is_valkey else (7, 0)
    if tuple(int(part) for part in facts.version.split(".")[:2]) < floor:
        raise ServerUnsuitable(
            f"{facts.name} at {connection.address} is too old: scripts that may run when memory is "
            f"full need Redis 7.0 or Valkey 7.2",
            hint="upgrade the server, or try embedded://",
        )
    if facts.is_cluster and not connection.is_cluster:
        raise ServerUnsuitable(
            f"the server at {connection.address} is a node of a cluster, but redis_url says a single server",
            hint=f"write redis+cluster://{connection.address.partition('://')[2]}",
        )
    return facts


def check_eviction(facts: ServerFacts, connection: Connection, *, allowed: bool) -> None:
    """Raise ServerUnsuitable if the server may evict jobs, unless that is allowed."""
    if facts.eviction_policy != "noeviction" and not allowed:
        raise ServerUnsuitable(
            f"Redis at {connection.address} may delete jobs when memory is full "
            f"(maxmemory-policy {facts.eviction_policy})",
            hint="CONFIG SET maxmemory-policy noeviction, or set allow_eviction if losing jobs is fine",
        )


async def _info(connection: Connection) -> Mapping[str, Any]:
    with connection.translating():
        if isinstance(connection.client, redis.asyncio.RedisCluster):
            node = connection.client.get_random_node()
            return await connection.client.info(target_nodes=node)
        return await connection.client.info()


def _texts(fields: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in (fields or {}).items()
    }


def _scheme(url: str) -> str:
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "://" not in url:
        raise ConfigError(
            f"redis_url {_address(url)!r} has no scheme we know: {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    return scheme


def _address(url: str) -> str:
    """The URL as it may be shown: without user, password and options."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise ConfigError(f"redis_url is malformed: {error}") from None
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _cluster_options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    options: dict[str, Any] = {"host": parts.hostname, "port": parts.port or 6379}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    return options


def _open_embedded(url: str) -> Any:
    from aragora_q import embedded  # noqa: PLC0415 - only those who ask for it pay for it

    directory = unquote(urlsplit(url).path)
    return embedded.open_server(Path(directory) if directory else None)
