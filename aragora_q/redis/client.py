"""The way to the one server that holds a queue, wherever Sentinels or a cluster put it today.

All keys of a queue lie in one slot, so a queue needs one node at a time, not a cluster client: we
ask Sentinels or cluster nodes which it is, talk to it over a plain client, follow MOVED and ASK, and
ask again when it fails. The same code serves the event loop and the lease keeper's thread.

Used by `connection.py` alone. Raises redis-py's errors; knows nothing of scripts and queues.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.credentials import CredentialProvider
from redis.retry import Retry

from aragora_q.endpoint import Address, Endpoint, show_address
from aragora_q.lines import Command, Lines

REDIRECTIONS = 8
"""How often one command follows MOVED and ASK."""

ASK_TIMEOUT_SECONDS = 2.0
"""For a Sentinel or a cluster node to say where the primary is."""

KEEPALIVE = {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        socket.TCP_KEEPIDLE: 15,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 3,
    },
}
"""A peer that went without a word is noticed in half a minute even where nothing is being sent."""

ELSEWHERE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    OSError,
)
"""After one of these the primary may be another server: ask where it is."""

OF_ANOTHER_KIND = ("unknown command 'SENTINEL'", "This instance has cluster support disabled")
"""What servers say that are no Sentinel, or no cluster's node."""


class Credentials(CredentialProvider):
    """User and password, looked up anew for every connection: a rotated password needs no restart."""

    def __init__(self, username: str, password: Callable[[], str]) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """What redis-py sends with AUTH."""
        password = self._password()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: a small local file is read faster than a thread is woken."""
        return self.get_credentials()


class NobodyKnows(exceptions.ConnectionError):
    """Not one Sentinel or node could be asked, or none has heard of what we look for."""


class Unelected(exceptions.ConnectionError):
    """Sentinels see that the primary is down, and have not made another one yet."""


UNDECIDED = (Unelected, exceptions.ClusterDownError)


@dataclass
class Whereabouts:
    """Which address the primary has; remembered until it is told to forget."""

    endpoint: Endpoint
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
            client = _sync_client((host, port), {**options, **_hasty()})
            try:
                self.address = ask(client, host)
            except (exceptions.RedisError, OSError) as error:
                silent.append(f"{show_address((host, port))}: {error}")
                failed = _graver(failed, error)
            else:
                return self.address
            finally:
                client.close()
        raise _none_knows(failed, "; ".join(silent))

    def _ask_sentinel(self, client: Any, _host: str) -> Address:
        state = _texts(client.execute_command("SENTINEL", "MASTER", self.endpoint.service))
        if {"s_down", "o_down", "disconnected"} & set(state.get("flags", "").split(",")):
            raise Unelected(
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


def _graver(one: Exception | None, other: Exception) -> Exception:
    """An answer tells an operator more than a silence, and a refusal more than any."""
    rank = (exceptions.AuthenticationError, exceptions.NoPermissionError), UNDECIDED
    return one if one and any(isinstance(one, kinds) for kinds in rank) else other


def _none_knows(failed: Exception | None, told: str) -> Exception:
    denied = exceptions.AuthenticationError | exceptions.NoPermissionError
    if isinstance(failed, denied) or str(failed).startswith(OF_ANOTHER_KIND):
        return failed  # type: ignore[return-value] # None is no error, and says nothing of a kind
    text = f"nobody knows where the primary is: {told}"
    if isinstance(failed, exceptions.ClusterDownError):
        return exceptions.ClusterDownError(text, status_code="CLUSTERDOWN")
    return Unelected(text) if isinstance(failed, Unelected) else NobodyKnows(text)


class Link:
    """From the event loop to the primary: sends commands, follows where it goes."""

    def __init__(self, where: Whereabouts, *, socket_timeout: float, path: str = "") -> None:
        self._where = where
        self._timeout_seconds = socket_timeout
        self._path = path
        self._at: Address | None = None
        self._lines: Lines | None = None
        self._finding: asyncio.Future[Address] | None = None

    async def send(self, *command: Any) -> Any:
        """The reply to one command."""
        [reply] = await self.send_all([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def send_all(self, commands: Sequence[Command]) -> list[Any]:
        """Replies to commands that travel together, on one connection; errors in their places."""
        for _ in range(REDIRECTIONS):
            lines = await self._current()
            try:
                replies = await lines.exchange(commands)
            except ELSEWHERE:
                self._where.forget()
                raise
            moved = None
            for reply in replies:
                if isinstance(reply, exceptions.AskError):
                    moved = reply
                    break
                if isinstance(reply, ELSEWHERE):
                    self._where.forget()
            if moved is None:
                return replies
            if not isinstance(moved, exceptions.MovedError):
                return await self._ask_elsewhere(moved, commands)
            self._where.address = self._where.redirected(moved)
        raise exceptions.TryAgainError("its slot keeps moving", status_code="TRYAGAIN")

    async def refusal_of(self, length: int) -> Exception | None:
        """As `Lines.refusal_of`, of the primary."""
        return await (await self._current()).refusal_of(length)

    async def _ask_elsewhere(
        self, error: exceptions.AskError, commands: Sequence[Command]
    ) -> list[Any]:
        """A slot is on its way: these commands, each after ASKING, to the node it goes to."""
        lines = self._open(self._where.redirected(error))
        try:
            doubled = [each for command in commands for each in (("ASKING",), command)]
            return (await lines.exchange(doubled))[1::2]
        finally:
            await lines.close()

    async def _current(self) -> Lines:
        if self._path:
            if self._lines is None:
                self._lines = self._open(None)
            return self._lines
        address = self._where.address or await self._find()
        if self._lines is None or address != self._at:
            stale, self._lines, self._at = self._lines, self._open(address), address
            if stale is not None:
                await stale.close()
        return self._lines

    async def _find(self) -> Address:
        """One search at a time, however many wait for it, in a thread that no executor's job can take."""
        if self._finding is None or self._finding.done():
            thread = ThreadPoolExecutor(1, thread_name_prefix="find-primary")
            self._finding = asyncio.wrap_future(thread.submit(self._where.find))
            self._finding.add_done_callback(lambda found: found.cancelled() or found.exception())
            thread.shutdown(wait=False)
        return await asyncio.shield(self._finding)

    def _open(self, address: Address | None) -> Lines:
        options = {
            **self._where.options,
            "socket_timeout": None,  # `Lines` has one deadline for a whole call
            "retry": AsyncRetry(NoBackoff(), 0),
        }
        kind: type
        if address is None:
            kind = redis.asyncio.UnixDomainSocketConnection
            options |= {"path": self._path}
        else:
            is_tls = self._where.endpoint.is_tls
            kind = _Tls if is_tls else redis.asyncio.Connection
            options |= {"host": address[0], "port": address[1], **KEEPALIVE}
        return Lines(partial(kind, **options), self._timeout_seconds)

    async def close(self) -> None:
        """Hang up."""
        if self._finding is not None:
            await asyncio.gather(self._finding, return_exceptions=True)
        if self._lines is not None:
            await self._lines.close()


class SyncLink:
    """From a thread to the primary. What `Link` says holds."""

    def __init__(self, where: Whereabouts, *, path: str = "") -> None:
        self._where = where
        self._path = path
        self._at: Address | None = None
        self._client: Any = None

    def send(self, *command: Any) -> Any:
        """The reply to one command."""
        for _ in range(REDIRECTIONS):
            client = self._current()
            try:
                return client.execute_command(*command)
            except exceptions.MovedError as error:
                self._where.address = self._where.redirected(error)
            except exceptions.AskError as error:
                return self._ask_elsewhere(error, command)
            except ELSEWHERE:
                self._where.forget()
                raise
        raise exceptions.TryAgainError("its slot keeps moving", status_code="TRYAGAIN")

    def _ask_elsewhere(self, error: exceptions.AskError, command: Command) -> Any:
        client = _sync_client(self._where.redirected(error), self._where.options)
        try:
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command("ASKING").execute_command(*command)
            return pipeline.execute()[1]
        finally:
            client.close()

    def _current(self) -> Any:
        address = None if self._path else (self._where.address or self._where.find())
        if self._client is None or address != self._at:
            self.close()
            self._at = address
            self._client = (
                redis.Redis(
                    unix_socket_path=self._path,
                    **self._where.options,
                    retry=Retry(NoBackoff(), 0),
                )
                if address is None
                else _sync_client(address, {**self._where.options, **KEEPALIVE})
            )
        return self._client

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()


def _sync_client(address: Address, options: dict[str, Any]) -> Any:
    host, port = address
    is_tls = any(name.startswith("ssl_") for name in options)
    pool = redis.ConnectionPool(
        connection_class=_SyncTls if is_tls else redis.Connection,
        host=host,
        port=port,
        **options,
        retry=Retry(NoBackoff(), 0),
    )
    return redis.Redis.from_pool(pool)


def _hasty() -> dict[str, float]:
    return {"socket_timeout": ASK_TIMEOUT_SECONDS, "socket_connect_timeout": ASK_TIMEOUT_SECONDS}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _texts(reply: Any) -> dict[str, str]:
    """Name-value pairs as redis-py may hand them over: a mapping, or a flat list."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """Trusts `ca_file` alone, or without one the system's authorities; shows our certificate if any.

    redis-py's own trusts the system's in either case, and reads all of them for every connection.
    Raises OSError or ssl.SSLError for files that cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file:
        context.load_cert_chain(cert_file, key_file)
    return context


class _Tls(redis.asyncio.SSLConnection):
    """TCP with TLS for the event loop. Files are read anew for every connection: they may be renewed."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        files = self.ssl_context
        files.context = tls_context(files.ca_certs, files.certfile, files.keyfile)
        return super()._connection_arguments()


class _SyncTls(redis.SSLConnection):
    """The same for a thread. redis-py takes whatever a new connection has to read for a stray reply
    and gives it up; with TLS 1.3 it is a session ticket. One that was closed fails when it is used.
    """

    def can_read(self, timeout: float = 0) -> bool:  # noqa: ARG002 - the base class' signature
        return False

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        context = tls_context(self.ca_certs, self.certfile, self.keyfile)
        return context.wrap_socket(sock, server_hostname=self.host)
