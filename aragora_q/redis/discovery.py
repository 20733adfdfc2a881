"""Find the primary that holds a queue, through Sentinels or cluster nodes.

Blocking, with redis-py's synchronous client: `client.py` runs it in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from aragora_q.config.redis_url import Address, RedisUrl, format_address
from aragora_q.redis.errors import WRONG_SERVER_ERRORS
from aragora_q.redis.options import SyncTlsConnection
from aragora_q.redis.replies import text

DISCOVERY_TIMEOUT_SECONDS = 2.0
"""How long one Sentinel or cluster node may take to answer."""

SECOND_OPINION_SECONDS = 0.5
"""The same, once another Sentinel has answered."""

MAX_OTHER_NODES = 32
"""Cluster nodes remembered beyond those that redis_url names."""


class PrimaryNotFound(exceptions.ConnectionError):
    """No Sentinel or node could be asked, or none knows the service."""


class FailoverInProgress(exceptions.ConnectionError):
    """Sentinels see that the primary is down and have not elected another yet."""


FAILOVER_STATES = (FailoverInProgress, exceptions.ClusterDownError)


@dataclass
class PrimaryDiscovery:
    """The primary's address, remembered until it is invalidated."""

    redis_url: RedisUrl
    options: dict[str, Any]
    """redis-py's options for a connection to a Redis server."""
    sentinel_options: dict[str, Any]
    """The same for a Sentinel."""
    any_key: str
    """A key of the queue, for its slot."""
    address: Address | None = None
    _other_nodes: list[Address] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._slot = key_slot(self.any_key.encode())
        self.invalidate()

    def invalidate(self) -> None:
        """Forget the address: the primary may have moved, or does not answer."""
        is_fixed = self.redis_url.kind == "single"
        self.address = self.redis_url.hosts[0] if is_fixed else None

    def discover(self) -> Address:
        """Ask nodes in turn until one names the primary, or Sentinels until most of them have.

        Of several answers the one with the highest epoch counts, which every failover raises: a Sentinel
        that is cut off from the others may name a former primary. Raises the most telling of their errors
        if there is no answer.
        """
        is_sentinel = self.redis_url.kind == "sentinel"
        ask = self._ask_sentinel if is_sentinel else self._ask_node
        options = self.sentinel_options if is_sentinel else self.options
        needed = len(self.redis_url.hosts) // 2 + 1 if is_sentinel else 1
        answers: list[tuple[int, Address]] = []
        failures: list[str] = []
        failure: Exception | None = None
        for host, port in dict.fromkeys((*self.redis_url.hosts, *self._other_nodes)):
            seconds = SECOND_OPINION_SECONDS if answers else DISCOVERY_TIMEOUT_SECONDS
            timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
            client = sync_client((host, port), {**options, **timeouts})
            try:
                answers.append(ask(client, host))
            except (exceptions.RedisError, OSError) as error:
                failures.append(f"{format_address((host, port))}: {error}")
                failure = _more_telling(failure, error)
            finally:
                client.close()
            if len(answers) == needed:
                break
        if answers:
            self.address = max(answers, key=lambda answer: answer[0])[1]
            return self.address
        raise _not_found_error(failure, "; ".join(failures))

    def _ask_sentinel(self, client: Any, _host: str) -> tuple[int, Address]:
        """Return the epoch and the primary's address."""
        state = client.execute_command("SENTINEL", "MASTER", self.redis_url.service)
        if not isinstance(state, dict):
            state = dict(zip(state[::2], state[1::2], strict=True))
        fields = {text(name): text(value) for name, value in state.items()}
        if {"s_down", "o_down", "disconnected"} & set(fields.get("flags", "").split(",")):
            raise FailoverInProgress(
                f"the primary of {self.redis_url.service!r} is down and no other is elected yet"
            )
        return int(fields.get("config-epoch", 0)), (fields["ip"], int(fields["port"]))

    def _ask_node(self, client: Any, host: str) -> tuple[int, Address]:
        owner = None
        for first, last, *nodes in client.execute_command("CLUSTER", "SLOTS"):
            addresses = [(text(node[0] or "") or host, int(node[1])) for node in nodes]
            others = dict.fromkeys((*addresses, *self._other_nodes))
            self._other_nodes = list(others)[:MAX_OTHER_NODES]
            if int(first) <= self._slot <= int(last):
                owner = addresses[0]
        if owner is None:
            raise exceptions.ClusterDownError(
                f"no node serves slot {self._slot}", status_code="CLUSTERDOWN"
            )
        return 0, owner

    def redirect_target(self, error: exceptions.AskError) -> Address:
        """Return the address that MOVED or ASK names; without a host it is the one that answered."""
        host = error.host or (self.address[0] if self.address else self.redis_url.hosts[0][0])
        return host, error.port


def _more_telling(one: Exception | None, other: Exception) -> Exception:
    """A refusal says more than a failover under way, and that more than no answer."""
    ranks = (exceptions.AuthenticationError, exceptions.NoPermissionError), FAILOVER_STATES
    return one if one and any(isinstance(one, kinds) for kinds in ranks) else other


def _not_found_error(failure: Exception | None, failures: str) -> Exception:
    denied = exceptions.AuthenticationError | exceptions.NoPermissionError
    if failure and (isinstance(failure, denied) or str(failure).startswith(WRONG_SERVER_ERRORS)):
        return failure
    text = f"no server knows where the primary is: {failures}"
    if isinstance(failure, exceptions.ClusterDownError):
        return exceptions.ClusterDownError(text, status_code="CLUSTERDOWN")
    is_failover = isinstance(failure, FailoverInProgress)
    return FailoverInProgress(text) if is_failover else PrimaryNotFound(text)


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
