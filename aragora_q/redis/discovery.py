"""Which server is the primary: Sentinel or Cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio
from redis import exceptions
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from aragora_q.config.redis_url import Address, RedisUrl, format_address
from aragora_q.redis.errors import WRONG_SERVER_ERRORS
from aragora_q.redis.options import SyncTlsConnection

ASK_TIMEOUT_SECONDS = 2.0
"""For a Sentinel or a cluster node to say where the primary is."""


class PrimaryNotFound(exceptions.ConnectionError):
    """Not one Sentinel or node could be asked, or none has heard of what we look for."""


class FailoverInProgress(exceptions.ConnectionError):
    """Sentinels see that the primary is down, and have not made another one yet."""


FAILOVER_STATES = (FailoverInProgress, exceptions.ClusterDownError)


@dataclass
class PrimaryDiscovery:
    """Which address the primary has; remembered until it is told to forget."""

    endpoint: RedisUrl
    options: dict[str, Any]
    """redis-py's options for a connection to a Redis server."""
    sentinel_options: dict[str, Any]
    """The same for a Sentinel."""
    any_key: str
    """A key of the queue, for its slot."""
    address: Address | None = None
    _others: list[Address] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._slot = key_slot(self.any_key.encode())
        self.forget()

    def forget(self) -> None:
        """The primary is not there any more, or does not answer."""
        is_fixed = self.endpoint.kind == "single"
        self.address = self.endpoint.hosts[0] if is_fixed else None

    def find(self) -> Address:
        """Ask Sentinels or nodes, one after the other; blocks. Raises what the last of them raised."""
        is_sentinel = self.endpoint.kind == "sentinel"
        ask = self._ask_sentinel if is_sentinel else self._ask_node
        options = self.sentinel_options if is_sentinel else self.options
        silent: list[str] = []
        failed: Exception | None = None
        for host, port in dict.fromkeys((*self.endpoint.hosts, *self._others)):
            client = sync_client((host, port), {**options, **_fail_fast_timeouts()})
            try:
                self.address = ask(client, host)
            except (exceptions.RedisError, OSError) as error:
                silent.append(f"{format_address((host, port))}: {error}")
                failed = _more_severe(failed, error)
            else:
                return self.address
            finally:
                client.close()
        raise _not_found_error(failed, "; ".join(silent))

    def _ask_sentinel(self, client: Any, _host: str) -> Address:
        state = _texts(client.execute_command("SENTINEL", "MASTER", self.endpoint.service))
        if {"s_down", "o_down", "disconnected"} & set(state.get("flags", "").split(",")):
            raise FailoverInProgress(
                f"the primary of {self.endpoint.service!r} is down, no other is elected yet"
            )
        return state["ip"], int(state["port"])

    def _ask_node(self, client: Any, host: str) -> Address:
        owner = None
        for first, last, *nodes in client.execute_command("CLUSTER", "SLOTS"):
            addresses = [(_text(node[0]) or host, int(node[1])) for node in nodes]
            self._others = list(dict.fromkeys((*addresses, *self._others)))[:32]
            if int(first) <= self._slot <= int(last):
                owner = addresses[0]
        if owner is None:
            raise exceptions.ClusterDownError(
                f"no node serves slot {self._slot}", status_code="CLUSTERDOWN"
            )
        return owner

    def redirected(self, error: exceptions.AskError) -> Address:
        """The address that MOVED or ASK names; without a host it is the one that answered."""
        host = error.host or (self.address[0] if self.address else self.endpoint.hosts[0][0])
        return host, error.port


def _more_severe(one: Exception | None, other: Exception) -> Exception:
    """An answer tells an operator more than a silence, and a refusal more than any."""
    rank = (exceptions.AuthenticationError, exceptions.NoPermissionError), FAILOVER_STATES
    return one if one and any(isinstance(one, kinds) for kinds in rank) else other


def _not_found_error(failed: Exception | None, told: str) -> Exception:
    denied = exceptions.AuthenticationError | exceptions.NoPermissionError
    if isinstance(failed, denied) or str(failed).startswith(WRONG_SERVER_ERRORS):
        return failed  # type: ignore[return-value] # None is no error, and says nothing of a kind
    text = f"nobody knows where the primary is: {told}"
    if isinstance(failed, exceptions.ClusterDownError):
        return exceptions.ClusterDownError(text, status_code="CLUSTERDOWN")
    return (
        FailoverInProgress(text)
        if isinstance(failed, FailoverInProgress)
        else PrimaryNotFound(text)
    )


def sync_client(address: Address, options: dict[str, Any]) -> Any:
    """Return a blocking client of one server."""
    host, port = address
    is_tls = any(name.startswith("ssl_") for name in options)
    pool = redis.ConnectionPool(
        connection_class=SyncTlsConnection if is_tls else redis.Connection,
        host=host,
        port=port,
        **options,
        retry=Retry(NoBackoff(), 0),
    )
    return redis.Redis.from_pool(pool)


def _fail_fast_timeouts() -> dict[str, float]:
    return {"socket_timeout": ASK_TIMEOUT_SECONDS, "socket_connect_timeout": ASK_TIMEOUT_SECONDS}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _texts(reply: Any) -> dict[str, str]:
    """Name-value pairs as redis-py may hand them over: a mapping, or a flat list."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}
