"""Check that a server can be used: version, topology, eviction, durability.

Called once, when a queue is opened or a worker starts. Sends only INFO, which every role may run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aragora_q.errors import UnsupportedServer
from aragora_q.redis.connection import Connection, Durability


@dataclass(frozen=True)
class ServerInfo:
    """The fields of INFO that matter to a queue. Sizes are in bytes."""

    version: str
    is_valkey: bool
    eviction_policy: str
    has_aof: bool
    is_cluster: bool
    is_sentinel: bool
    replicas: int
    used_bytes: int
    """Memory in use."""
    max_bytes: int
    """Memory limit (maxmemory); 0: none."""

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> ServerInfo:
        return cls(
            version=str(info.get("valkey_version") or info.get("redis_version", "0")),
            is_valkey="valkey_version" in info,
            eviction_policy=str(info.get("maxmemory_policy", "noeviction")),
            has_aof=bool(int(info.get("aof_enabled", 0))),
            is_cluster=bool(int(info.get("cluster_enabled", 0))),
            is_sentinel=info.get("redis_mode", info.get("server_mode")) == "sentinel",
            replicas=int(info.get("connected_slaves", 0)),
            used_bytes=int(info.get("used_memory", 0)),
            max_bytes=int(info.get("maxmemory", 0)),
        )

    @property
    def name(self) -> str:
        return f"{'Valkey' if self.is_valkey else 'Redis'} {self.version}"

    @property
    def release(self) -> tuple[int, ...]:
        """Major and minor version."""
        return tuple(int(part) for part in self.version.split(".")[:2])


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
    if server.release < ((7, 2) if server.is_valkey else (7, 0)):
        raise UnsupportedServer(
            f"{server.name} at {connection.address} is not supported: Redis 7.0+ or Valkey 7.2+ is "
            f"required (scripts use the allow-oom flag)",
            hint="upgrade the server, or use embedded://",
        )
    if server.is_cluster and not connection.is_cluster:
        raise UnsupportedServer(
            f"the server at {connection.address} is a cluster node, but redis_url names a single server",
            hint=f"use redis+cluster://{where}",
        )
    return server


def check_durability(server: ServerInfo, connection: Connection, durability: Durability) -> None:
    """Raise UnsupportedServer if the server cannot confirm writes as `durability` requires."""
    problem: tuple[str, str] | None = None
    if durability == "replica" and not server.replicas:
        problem = "has no replica", "add one, or choose another durability"
    elif durability == "fsync" and server.release < (7, 2):
        problem = (
            f"is {server.name}, which has no WAITAOF",
            "upgrade it to 7.2 or later, or choose another durability",
        )
    elif durability == "fsync" and not server.has_aof:
        problem = "keeps no append-only file", "CONFIG SET appendonly yes"
    if problem:
        raise UnsupportedServer(
            f"durability {durability} is not available: the server at {connection.address} {problem[0]}",
            hint=problem[1],
        )


def check_eviction(server: ServerInfo, connection: Connection, *, allowed: bool) -> None:
    """Raise UnsupportedServer if the server may evict jobs, unless `allowed`."""
    if server.eviction_policy != "noeviction" and not allowed:
        raise UnsupportedServer(
            f"Redis at {connection.address} may delete jobs when memory is full "
            f"(maxmemory-policy {server.eviction_policy})",
            hint="CONFIG SET maxmemory-policy noeviction, or set allow_eviction if jobs may be lost",
        )
