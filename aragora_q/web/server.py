"""Serve the console over HTTP until a signal stops it, whatever its clients do.

uvicorn has no time limits for clients that send or read slowly, and refuses new connections when there are too
many; `Protocol` ends the connections that keep a client waiting for nothing. Called by `aragora-q web`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from aragora_q import process
from aragora_q.config.redis_url import format_address
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import ConfigError
from aragora_q.observability.logs import get_logger
from aragora_q.observability.sd_notify import notify
from aragora_q.observability.web_metrics import WebMetrics
from aragora_q.web.app import create_app
from aragora_q.web.auth import Auth, Proxies, parse_ip
from aragora_q.web.console import Console
from aragora_q.web.guard import Guard, Hosts
from aragora_q.web.roles import Role
from aragora_q.web.tokens import TokenFile

logger = get_logger(__name__)

MAX_CONNECTIONS = 2_000
"""For one more, the connection that waits longest without a request is closed."""

OTHER_FILES = 200
"""Open files of the process that are not connections of clients."""

HEAD_SECONDS = 10.0
"""Time for a client to send the head of a request, or the next one on the same connection."""

BODY_SECONDS = 30.0
"""Time for the body of a request, plus a second for each BODY_BYTES_PER_SECOND."""

BODY_BYTES_PER_SECOND = 1024
READ_SECONDS = 30.0
"""Time for a client to read what was sent, until the connection is closed."""

STOP_SECONDS = 2.0
"""Time for requests to end when the process stops."""

BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        ConfigError: the address is in use, or is not one of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name with both kinds of addresses, such as localhost, is served on the IPv4 one.
        family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or "invalid address").partition(" (")[0]
        raise ConfigError(
            f"cannot serve the console on {format_address((host, port))}: {reason}",
            hint="choose another address: --listen HOST:PORT",
        ) from None


def create_auth(
    config: QueueConfig, console: Console, sock: socket.socket, metrics: WebMetrics
) -> Auth:
    """Return what knows the logins of a console that listens on `sock`.

    Raises:
        ConfigError: the file of tokens cannot be used.
    """
    tokens = TokenFile(Path(config.web_tokens_file)) if config.web_tokens_file else None
    if tokens is not None:
        tokens.check()
    host, port = sock.getsockname()[:2]
    address = parse_ip(host)
    return Auth(
        tokens,
        Proxies(config.web_proxies, config.web_proxy_roles),
        highest=max(console.roles, key=list(Role).index),
        port=port,
        is_loopback=address is not None and address.is_loopback,
        count_refused=metrics.refused_logins.inc,
    )


def _max_connections() -> int:
    """Return how many connections may be open; raise the limit on open files for them, as far as it may be."""
    soft, hard = (
        sys.maxsize if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    wanted = min(MAX_CONNECTIONS + OTHER_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(wanted - OTHER_FILES, 1)


async def serve(
    console: Console, sock: socket.socket, auth: Auth, metrics: WebMetrics, host: str
) -> None:
    """Serve `console` until a signal stops it; the signal is raised again then."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # others are of what clients send
    app = create_app(console)
    app.state.auth, app.state.metrics = auth, metrics
    hosts = Hosts(host, console.config.web_hosts)
    guard = Guard(app, auth, hosts, metrics, console.config.max_payload_bytes)
    metrics.event_streams.set_function(lambda: console.feed.streams)
    server = create_server(guard, console.feed.end_streams)
    metrics.connections.set_function(lambda: len(server.server_state.connections))
    gc.collect()
    process.stay()  # modules and routes stay: a collection that looks at them all delays every request
    await server.serve(sockets=[sock])


def create_server(guard: Guard, *on_stop: Callable[[], None]) -> uvicorn.Server:
    """Return the HTTP server of a guarded application. `on_stop` is called when it begins to stop."""
    config = uvicorn.Config(
        guard,
        http=cast("type[asyncio.Protocol]", partial(Protocol, _max_connections())),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(HEAD_SECONDS),
        timeout_graceful_shutdown=int(STOP_SECONDS),
        backlog=BACKLOG,
        reset_contextvars=True,  # else a request sent behind another begins in its trace
    )
    return _Server(config, (*on_stop, guard.stop))


class _Server(uvicorn.Server):
    """Reports to systemd, ends streams when it stops, and ends connections that waste its time."""

    def __init__(self, config: uvicorn.Config, on_stop: Sequence[Callable[[], None]]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            notify("READY=1")

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # each second
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.end_if_slow(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify("STOPPING=1")
        for end in self._on_stop:
            end()
        await super().shutdown(sockets)


class Protocol(H11Protocol):
    """HTTP/1.1 of one connection, with time limits."""

    def __init__(self, max_connections: int, **options: Any) -> None:
        super().__init__(**options)
        self._max_connections = max_connections
        self.waits_since = time.monotonic()
        """When the client began to owe what it owes now: the head of a request, or its body."""
        self._body_bytes = 0
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            idle = [
                each for each in self.connections if isinstance(each, Protocol) and each.is_idle
            ]
            oldest = min(idle, key=lambda each: each.waits_since)
            oldest.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _owes_body(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY

    def data_received(self, data: bytes) -> None:
        owed_body = self._owes_body
        super().data_received(data)
        if self._owes_body and owed_body:
            self._body_bytes += len(data)
        elif self._owes_body:
            self.waits_since, self._body_bytes = time.monotonic(), 0

    def on_response_complete(self) -> None:
        self.waits_since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._unread_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def end_if_slow(self, now: float) -> None:
        """Close the connection if the client takes too long to send a request, or to read the answer."""
        if self.flow.read_paused and not self.is_idle:
            self.waits_since = now  # the application is slower than the client
        limit = None
        if self._owes_body:
            limit = BODY_SECONDS + self._body_bytes / BODY_BYTES_PER_SECOND
        elif self.is_idle:
            limit = HEAD_SECONDS
        is_slow = limit is not None and now - self.waits_since > limit
        has_unread = self._unread_since is not None and now - self._unread_since > READ_SECONDS
        if is_slow or has_unread:
            self.transport.abort()
