"""Find the primary that holds a queue, through Sentinels or cluster nodes. Used by `client.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from redis import exceptions
from redis.crc import key_slot

from aragora_q.config.redis_url import Address, RedisUrl, format_address
from aragora_q.redis.dialing import connector
from aragora_q.redis.errors import (
    WRONG_SERVER_ERRORS,
    Server,
    connection_reason,
    is_denial,
    name_server,
)
from aragora_q.redis.pool import ConnectionPool
from aragora_q.redis.replies import MALFORMED, text

DISCOVERY_TIMEOUT_SECONDS = 2.0
"""How long one Sentinel or cluster node may take to answer."""

SECOND_OPINION_SECONDS = 0.5
"""The same, once another Sentinel has answered."""

VERIFY_SECONDS = 2.0
"""How often a client in use asks a Sentinel whether the primary is still the same.

A former primary that was only out of reach takes writes for about 10 s after it comes back, until the
Sentinels demote it, and then loses them."""

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
    search_number: int = 0
    """Raised whenever the address is forgotten; connections that were opened before are not used again."""
    _other_nodes: list[Address] = field(default_factory=list)
    _epoch: int = 0
    _verified_at: float = 0.0

    def __post_init__(self) -> None:
        self._slot = key_slot(self.any_key.encode())
        self._sentinels: Iterator[Address] = cycle(self.redis_url.hosts)
        self._forget()

    def invalidate(self, search_number: int) -> None:
        """Forget the address, and give up connections: the primary may have moved, or does not answer.

        Does nothing if that has happened since `search_number`: a call that began before says nothing about
        the connections that were opened later.
        """
        if search_number == self.search_number:
            self.search_number += 1
            self._forget()

    def _forget(self) -> None:
        is_fixed = self.redis_url.kind == "single"
        self.address = self.redis_url.hosts[0] if is_fixed else None

    def announced(self, address: Address | None) -> Server | None:
        """Return the name of the server at `address` for errors; None if `redis_url` names it."""
        if address is None or self.redis_url.kind not in ("sentinel", "cluster"):
            return None
        return Server(
            f"Redis at {format_address(address)} (announced by {self.redis_url.redacted})"
        )

    async def discover(self) -> Address:
        """Ask nodes in turn until one names the primary, or Sentinels until most of them have.

        Of several answers the one with the highest epoch counts, which every failover raises: a Sentinel
        that is cut off from the others may name a former primary. Raises the most telling of their errors
        if there is no answer.
        """
        is_sentinel = self.redis_url.kind == "sentinel"
        needed = len(self.redis_url.hosts) // 2 + 1 if is_sentinel else 1
        answers: list[tuple[int, Address]] = []
        failures: dict[str, list[str]] = {}  # addresses by reason
        failure: Exception | None = None
        for address in dict.fromkeys((*self.redis_url.hosts, *self._other_nodes)):
            seconds = SECOND_OPINION_SECONDS if answers else DISCOVERY_TIMEOUT_SECONDS
            try:
                answers.append(await self._ask(address, seconds))
            except (exceptions.RedisError, OSError) as error:
                kind = "Sentinel" if is_sentinel else "cluster node"
                server = f"the {kind} at {format_address(address)}"
                name_server(error, Server(server, is_sentinel=is_sentinel))
                failures.setdefault(connection_reason(error), []).append(format_address(address))
                failure = _more_telling(failure, error)
            if len(answers) == needed:
                break
        if answers:
            self._epoch, self.address = max(answers, key=lambda answer: answer[0])
            self._verified_at = time.monotonic()
            return self.address
        raise _not_found_error(
            failure,
            "; ".join(
                f"{', '.join(addresses)}: {reason}" for reason, addresses in failures.items()
            ),
        )

    def begin_verification(self) -> bool:
        """Return True if the caller is to `verify`: one call in VERIFY_SECONDS, where there are Sentinels."""
        is_sentinel = self.redis_url.kind == "sentinel"
        if not is_sentinel or time.monotonic() - self._verified_at <= VERIFY_SECONDS:
            return False
        self._verified_at = time.monotonic()
        return True

    async def verify(self) -> None:
        """Ask one Sentinel, the next one each time; forget the address if there was a failover."""
        number = self.search_number
        # Only errors of the primary itself count.
        with suppress(exceptions.RedisError, OSError):
            epoch, address = await self._ask(next(self._sentinels), SECOND_OPINION_SECONDS)
            if epoch > self._epoch and address != self.address:
                self.invalidate(number)

    async def _ask(self, address: Address, seconds: float) -> tuple[int, Address]:
        """Return the epoch and the primary's address, as one node or Sentinel knows them."""
        is_sentinel = self.redis_url.kind == "sentinel"
        options = self.sentinel_options if is_sentinel else self.options
        connect = connector(address, {**options, "socket_connect_timeout": seconds})
        pool = ConnectionPool(connect, seconds)
        service = self.redis_url.service
        questions = [
            ("SENTINEL", "MASTER", service),
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
        ]
        replies: list[Any] = []
        try:
            for question in questions if is_sentinel else [("CLUSTER", "SLOTS")]:
                replies += await pool.execute([question])
                if isinstance(replies[-1], Exception):
                    raise replies[-1]
        finally:
            await pool.close()
        try:
            if is_sentinel:
                return self._primary_of(*replies)
            return self._owner_of(replies[0], address[0])
        except MALFORMED:
            raise exceptions.InvalidResponse(f"unexpected reply: {replies!r:.100}") from None

    def _primary_of(self, state: Any, address: Any) -> tuple[int, Address]:
        """Return epoch and address in the replies to SENTINEL MASTER and GET-MASTER-ADDR-BY-NAME.

        In the last part of a failover, the state has the new epoch, but still the former primary.
        """
        texts = [text(part) for part in state]
        fields = dict(zip(texts[::2], texts[1::2], strict=True))
        host, port = map(text, address)
        is_former = (fields["ip"], fields["port"]) != (host, port)
        flags = set(fields.get("flags", "").split(","))
        if not is_former and flags & {"s_down", "o_down", "disconnected"}:
            raise FailoverInProgress(
                f"the primary of {self.redis_url.service!r} is down and no other is elected yet"
            )
        return int(fields.get("config-epoch", 0)), (host, int(port))

    def _owner_of(self, slots: Any, host: str) -> tuple[int, Address]:
        """Return the address of the queue's slot in a reply to CLUSTER SLOTS of the node at `host`."""
        owner = None
        for first, last, *nodes in slots:
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
    return one if one and (is_denial(one) or isinstance(one, FAILOVER_STATES)) else other


def _not_found_error(failure: Exception | None, failures: str) -> Exception:
    if failure and (is_denial(failure) or str(failure).startswith(WRONG_SERVER_ERRORS)):
        return failure
    text = f"no server knows where the primary is: {failures}"
    if isinstance(failure, exceptions.ClusterDownError):
        return exceptions.ClusterDownError(text, status_code="CLUSTERDOWN")
    is_failover = isinstance(failure, FailoverInProgress)
    return FailoverInProgress(text) if is_failover else PrimaryNotFound(text)
