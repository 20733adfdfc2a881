"""What a server is, and whether it can keep our promises: version, topology, eviction, durability.

Asked once, when a queue is opened or a worker starts. Reads INFO alone, which every role may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aragora_q.errors import UnsupportedServer
from aragora_q.redis.connection import Connection, Durability


@dataclass(frozen=True)
class ServerInfo:
    """What INFO says of a server that matters to a queue."""

    version: str
    is_valkey: bool
    eviction_policy: str
    has_aof: bool
    is_cluster: bool
    is_sentinel: bool
    replicas: int
    used_bytes: int
    max_bytes: int
    """Memory in use, and its limit (maxmemory); 0: none."""

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
    """Read the server's facts. Raises UnsupportedServer for one too old or of the other topology."""
    facts = ServerInfo.from_info(await connection.execute("INFO"))
    where = connection.address.partition("://")[2]
    if facts.is_sentinel:
        raise UnsupportedServer(
            f"the server at {connection.address} is a Sentinel, but redis_url says a Redis server",
            hint=f"write redis+sentinel://{where}/ and the name of the service",
        )
    if facts.release < ((7, 2) if facts.is_valkey else (7, 0)):
        raise UnsupportedServer(
            f"{facts.name} at {connection.address} is too old: scripts that may run when memory is "
            f"full need Redis 7.0 or Valkey 7.2",
            hint="upgrade the server, or try embedded://",
        )
    if facts.is_cluster and not connection.is_cluster:
        raise UnsupportedServer(
            f"the server at {connection.address} is a node of a cluster, but redis_url says a single server",
            hint=f"write redis+cluster://{where}",
        )
    return facts


def check_durability(facts: ServerInfo, connection: Connection, durability: Durability) -> None:
    """Raise UnsupportedServer if the server cannot confirm what `durability` asks for."""
    problem: tuple[str, str] | None = None
    if durability == "replica" and not facts.replicas:
        problem = "has no replica", "attach one, or choose another durability"
    elif durability == "fsync" and facts.release < (7, 2):
        problem = (
            f"is {facts.name}, without WAITAOF",
            "upgrade it to 7.2, or choose another durability",
        )
    elif durability == "fsync" and not facts.has_aof:
        problem = "keeps no append-only file", "CONFIG SET appendonly yes"
    if problem:
        raise UnsupportedServer(
            f"durability {durability} cannot be kept: the server at {connection.address} {problem[0]}",
            hint=problem[1],
        )


def check_eviction(facts: ServerInfo, connection: Connection, *, allowed: bool) -> None:
    """Raise UnsupportedServer if the server may evict jobs, unless that is allowed."""
    if facts.eviction_policy != "noeviction" and not allowed:
        raise UnsupportedServer(
            f"Redis at {connection.address} may delete jobs when memory is full "
            f"(maxmemory-policy {facts.eviction_policy})",
            hint="CONFIG SET maxmemory-policy noeviction, or set allow_eviction if losing jobs is fine",
        )
