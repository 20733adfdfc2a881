"""Open connections: look names up, try every address of a name, negotiate TLS, say what took too long.

Used by `pool.py` through `connector`. redis-py's connections know how to log in; they send and read on our
wires. Why they do not open them: redis-py waits for the first address of a name until its time is over, and the
event loops look names up in threads that a process waits for when it exits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aragora_q.config.redis_url import Address
from aragora_q.redis.errors import SPEAKS_NO_TLS
from aragora_q.redis.options import KEEPALIVE, tls_context
from aragora_q.redis.replies import MALFORMED
from aragora_q.redis.wire import Wire

HEAD_START_SECONDS = 0.25
"""How long an address has before the next one is tried, too (RFC 8305)."""

PLAIN_CHECK_SECONDS = 1.0
"""After this long without a TLS handshake, the server is asked whether it speaks plain text."""

Found = tuple[int, int, int, str, Any]
"""One address, as `socket.getaddrinfo` returns it."""


def connector(server: Address | str, shared: Mapping[str, Any]) -> Callable[[], Any]:
    """Return a function that makes connections, not yet open, to an address or a unix socket's path.

    `connect` opens one and logs in; its `wire` is for calls then. `awaited` is what it waits for.
    """
    options: dict[str, Any] = {
        **shared,
        "socket_timeout": None,  # a pool has one deadline for a whole call
        "retry": Retry(NoBackoff(), 0),
    }
    if isinstance(server, str):
        return partial(UnixConnection, path=server, **options)
    is_tls = any(name.startswith("ssl_") for name in options)
    host, port = server
    return partial(TlsConnection if is_tls else TcpConnection, host=host, port=port, **options)


class _OnWire:
    """What redis-py's connections send and read with, by our wire instead of asyncio's streams."""

    awaited = "answer"
    wire: Any = None

    @property
    def is_connected(self) -> bool:
        """True from `_connect` until either side closes the connection."""
        return self.wire is not None and self.wire.is_open

    async def send_packed_command(self, command: Any, *_: Any, **__: Any) -> None:
        """Send a command."""
        self.wire.write(b"".join(command))

    async def read_response(self, *_: Any, **__: Any) -> Any:
        """Return the next reply. Raises it if it is an error."""
        try:
            [reply] = await self.wire.read(1)
        except MALFORMED as error:
            raise exceptions.InvalidResponse(f"unexpected reply to the login: {error}") from error
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, *_: Any, **__: Any) -> None:
        """Close the connection, if it is open."""
        if self.wire is not None:
            self.wire.abort()


class UnixConnection(_OnWire, redis.asyncio.UnixDomainSocketConnection):
    """A connection to a unix socket."""

    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            loop = asyncio.get_running_loop()
            _, self.wire = await loop.create_unix_connection(Wire, self.path)


class TcpConnection(_OnWire, redis.asyncio.Connection):
    """A connection to the address of a name that answers first."""

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self.socket_connect_timeout):
                self.wire = await self._open()
        except TimeoutError:
            seconds = self.socket_connect_timeout
            raise exceptions.ConnectionError(f"no {self.awaited} within {seconds:g} s") from None
        except ConnectionResetError as error:
            raise exceptions.ConnectionError(
                f"connection reset before the {self.awaited}"
            ) from error
        self.awaited = "answer"

    async def _open(self) -> Wire:
        self.awaited = f"result of the look-up of the name {self.host!r}"
        found = await _look_up(self.host, self.port)
        hosts = _listed(found, self.host)
        self.awaited = f"connection{hosts}"
        connected = await _connect_to_any(found, self.host)
        self.awaited = f"TLS handshake{hosts}"
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                connected.setsockopt(socket.IPPROTO_TCP, option, value)
            return await self._start(connected)
        except BaseException:
            connected.close()
            raise

    async def _start(self, connected: socket.socket) -> Wire:
        _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=connected)
        return wire


class _BeforeTls(asyncio.Protocol):
    """Notes whether a server says something before the TLS handshake: then it speaks no TLS."""

    has_spoken = False

    def data_received(self, _: bytes) -> None:
        """Note it; asyncio calls this."""
        self.has_spoken = True


class TlsConnection(TcpConnection, redis.asyncio.SSLConnection):
    """The same with TLS. Certificates are read for every connection: they may have been renewed."""

    async def _start(self, connected: socket.socket) -> Wire:
        peer = connected.getpeername()
        # Without `ssl`: cancelled during a handshake, `create_connection` may leave a transport that watches
        # the number of the closed socket, which a later connection gets.
        transport, before = await asyncio.get_running_loop().create_connection(
            _BeforeTls, sock=connected
        )
        handshake = asyncio.create_task(self._encrypt(transport, before))
        try:
            await asyncio.wait([handshake], timeout=PLAIN_CHECK_SECONDS)
            if not handshake.done():
                await _refuse_plain_text(connected.family, peer)
            return await handshake
        except BaseException:
            transport.abort()
            handshake.cancel()
            await asyncio.gather(handshake, return_exceptions=True)
            raise

    async def _encrypt(self, transport: asyncio.Transport, before: _BeforeTls) -> Wire:
        files, wire = self.ssl_context, Wire()
        context = tls_context(files.ca_certs, files.certfile, files.keyfile)
        if before.has_spoken:
            raise exceptions.ConnectionError(SPEAKS_NO_TLS)
        if transport.is_closing():
            raise ConnectionResetError
        encrypted = await asyncio.get_running_loop().start_tls(
            transport, wire, context, server_hostname=self.host
        )
        wire.connection_made(encrypted)
        return wire


async def _refuse_plain_text(family: int, peer: Any) -> None:
    """Raise ConnectionError if the server answers PING without TLS. No secret is sent."""
    first = b""
    asked = socket.socket(family, socket.SOCK_STREAM)
    try:
        asked.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PLAIN_CHECK_SECONDS):
            await loop.sock_connect(asked, peer)
            await loop.sock_sendall(asked, b"PING\r\n")
            first = await loop.sock_recv(asked, 1)
    except (OSError, TimeoutError):
        pass  # the handshake goes on
    finally:
        asked.close()
    if first in (b"+", b"-"):
        raise exceptions.ConnectionError(SPEAKS_NO_TLS)


async def _connect_to_any(addresses: list[Found], host: str) -> socket.socket:
    """Return a socket that is connected to the first of these addresses to answer.

    Raises:
        ConnectionError: none answers; the message has the reason of each.
    """
    waiting = list(addresses)
    attempts: dict[asyncio.Task[socket.socket], Found] = {}
    reasons: dict[str, list[Found]] = {}
    try:
        while waiting or attempts:
            if waiting:
                address = waiting.pop(0)
                attempts[asyncio.create_task(_connect_to(address))] = address
            ended, _ = await asyncio.wait(
                attempts,
                timeout=HEAD_START_SECONDS if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in ended:
                address = attempts.pop(attempt)
                if (error := attempt.exception()) is None:
                    return attempt.result()
                reasons.setdefault(_text(error), []).append(address)
        raise exceptions.ConnectionError(
            ", ".join(f"{reason}{_listed(tried, host)}" for reason, tried in reasons.items())
        )
    finally:
        for late in attempts:  # not awaited: a second cancellation would leave sockets open
            late.add_done_callback(_close_late)
            late.cancel()


def _close_late(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect_to(address: Found) -> socket.socket:
    family, kind, protocol, _, target = address
    connected = socket.socket(family, kind, protocol)
    try:
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, target)
    except BaseException:
        connected.close()
        raise
    return connected


def _text(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if number else str(error)


def _listed(addresses: list[Found], host: str) -> str:
    """Return the addresses in parentheses, unless `host` is the only one."""
    numbers = [str(target[0]) for *_, target in addresses]
    return "" if numbers == [host] else f" ({', '.join(numbers)})"


_look_ups: dict[tuple[str, int], Future[list[Found]]] = {}
"""Look-ups under way: one serves all that wait for the same name."""

os.register_at_fork(after_in_child=_look_ups.clear)  # their threads are not forked


async def _look_up(host: str, port: int) -> list[Found]:
    """Return the addresses of a name.

    In a daemon thread: a look-up cannot be interrupted, and neither the end of an event loop nor the exit of
    the process waits for a daemon thread.
    """
    with suppress(OSError, UnicodeError):  # as bytes, it is not encoded as a name
        return _addresses(host.encode("ascii"), port, socket.AI_NUMERICHOST)
    look_up = _look_ups.get((host, port)) or _start_look_up(host, port)
    try:
        return await asyncio.wrap_future(look_up)
    except (OSError, UnicodeError, RuntimeError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise exceptions.ConnectionError(
            f"the look-up of the name {host!r} failed: {text}"
        ) from error


def _start_look_up(host: str, port: int) -> Future[list[Found]]:
    look_up = _look_ups[host, port] = Future()
    look_up.set_running_or_notify_cancel()  # a caller that is cancelled must not cancel it for others
    thread = threading.Thread(
        target=_run_look_up, args=(look_up, host, port), name="look-up", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:  # at the limit on threads
        del _look_ups[host, port]
        look_up.set_exception(error)
    return look_up


def _run_look_up(look_up: Future[list[Found]], host: str, port: int) -> None:
    try:
        found = _addresses(host, port)
    except Exception as error:  # noqa: BLE001 - raised to those who wait
        _look_ups.pop((host, port), None)
        look_up.set_exception(error)
    else:
        _look_ups.pop((host, port), None)
        look_up.set_result(found)


def _addresses(host: str | bytes, port: int, flags: int = 0) -> list[Found]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(found))  # /etc/hosts may have a line twice
