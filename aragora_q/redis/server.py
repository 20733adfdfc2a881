"""Check that a server can be used: version, topology, eviction, durability.

Called once, when a queue is opened or a worker starts. Sends only INFO, which every role may run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from aragora_q.errors import UnsupportedServer
from aragora_q.redis.connection import Connection, Durability
from aragora_q.redis.errors import OLD_SERVER, OLD_SERVER_HINT


class ServerInfo(NamedTuple):
    """The fields of INFO that matter to a queue; None if the server does not report it. Sizes are in bytes.

    Managed servers leave fields out, or have words where Redis has numbers.
    """

    version: str | None
    is_valkey: bool
    eviction_policy: str | None
    has_aof: bool | None
    is_cluster: bool
    is_sentinel: bool
    replicas: int | None
    used_bytes: int | None
    """Memory in use."""
    max_bytes: int | None
    """Memory limit (maxmemory); 0: none."""

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> ServerInfo:
        has_aof = _number(info, "aof_enabled")
        return cls(
            version=_text(info, "valkey_version") or _text(info, "redis_version"),
            is_valkey="valkey_version" in info,
            eviction_policy=_text(info, "maxmemory_policy"),
            has_aof=None if has_aof is None else bool(has_aof),
            is_cluster=bool(_number(info, "cluster_enabled")),
            is_sentinel=info.get("redis_mode", info.get("server_mode")) == "sentinel",
            replicas=_number(info, "connected_slaves"),
            used_bytes=_number(info, "used_memory"),
            max_bytes=_number(info, "maxmemory"),
        )

    @property
    def name(self) -> str:
        return f"{'Valkey' if self.is_valkey else 'Redis'} {self.version or 'of unknown version'}"

    @property
    def release(self) -> tuple[int, int] | None:
        """Major and minor version; None if the version does not begin with numbers."""
        match = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?", self.version or "", re.ASCII)
        return (int(match[1]), int(match[2] or 0)) if match else None

    @property
    def may_evict(self) -> bool:
        return self.eviction_policy not in (None, "noeviction")

    @property
    def used_share(self) -> float:
        """Fraction of `maxmemory` in use; 0 without a limit, or if the server does not report it."""
        return self.used_bytes / self.max_bytes if self.used_bytes and self.max_bytes else 0.0


def _number(info: Mapping[str, Any], name: str) -> int | None:
    value = info.get(name)
    return value if isinstance(value, int) else None


def _text(info: Mapping[str, Any], name: str) -> str | None:
    value = info.get(name)
    return str(value) if isinstance(value, str | int | float) and value != "" else None


async def check_server(connection: Connection) -> ServerInfo:
    """Read the server's version and state.

    Raises:
        UnsupportedServer: the server is too old, or `redis_url` names another kind of server.
    """
    server = ServerInfo.from_info(await connection.execute("INFO"))
    where = connection.address.partition("://")[2]
    if server.is_sentinel:
        raise UnsupportedServer(
            f"the server at {connection.address} is a Sentinel, but redis_url names a Redis server",
            hint=f"use redis+sentinel://{where}/ and the name of the service",
        )
    if server.release is not None and server.release < ((7, 2) if server.is_valkey else (7, 0)):
        raise UnsupportedServer(
            f"{server.name} at {connection.address} {OLD_SERVER}", hint=OLD_SERVER_HINT
        )
    if server.is_cluster and not connection.is_cluster:
        raise UnsupportedServer(
            f"the server at {connection.address} is a cluster node, but redis_url names a single server",
            hint=f"use redis+cluster://{where}",
        )
    return server


def check_durability(server: ServerInfo, connection: Connection, durability: Durability) -> None:
    """Raise UnsupportedServer if the server cannot confirm writes as `durability` requires.

    Where INFO does not report it, WAIT and WAITAOF decide: an enqueue that they do not confirm is reported.
    """
    problem: tuple[str, str] | None = None
    if durability == "replica" and server.replicas == 0:
        problem = "has no replica", "add one, or choose another durability"
    elif durability == "fsync" and server.release is not None and server.release < (7, 2):
        problem = (
            f"is {server.name}, which has no WAITAOF",
            "upgrade it to 7.2 or later, or choose another durability",
        )
    elif durability == "fsync" and server.has_aof is False:
        problem = "keeps no append-only file", "CONFIG SET appendonly yes"
    if problem:
        raise UnsupportedServer(
            f"durability {durability} is not available: the server at {connection.address} {problem[0]}",
            hint=problem[1],
        )


def check_eviction(server: ServerInfo, connection: Connection, *, allowed: bool) -> None:
    """Raise UnsupportedServer if the server may evict jobs, unless `allowed`."""
    if server.may_evict and not allowed:
        raise UnsupportedServer(
            f"Redis at {connection.address} may delete jobs when memory is full "
            f"(maxmemory-policy {server.eviction_policy})",
            hint="CONFIG SET maxmemory-policy noeviction, or set allow_eviction if jobs may be lost",
        )
