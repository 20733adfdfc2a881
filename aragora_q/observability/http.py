"""Serve `/metrics` and `/healthz` over HTTP, from separate threads.

Used by the worker's launcher and by `exporter`. A client of the port can be a probe that resets the
connection, or one that sends nothing: it costs no log line, and a thread and a descriptor for a bounded
time.
"""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.exposition import choose_encoder

from aragora_q.config.redis_url import format_address
from aragora_q.errors import ConfigError
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

DEFAULT_PORTS = range(9464, 9474)
"""Tried in this order if no port is configured."""

MAX_CONNECTIONS = 16
"""For one more, the oldest connection is closed."""

CONNECTION_SECONDS = 30.0
"""Longest life of a connection; a scrape of an exporter whose Redis is away takes 10 s."""

PAUSE_SECONDS = 0.2
"""Pause after a connection that could not be accepted; it waits in the backlog of the system."""

SILENT_SECONDS = 10.0
"""Longest wait for a client to send or to read."""

HINT = (
    "choose another address: metrics_host and metrics_port of a worker (port 0: no metrics), "
    "--listen of an exporter"
)


class _Server(ThreadingMixIn, TCPServer):
    """Serves each connection in a thread. `server_bind` of HTTPServer would look the host's name up."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, handler: type[MetricsHandler]) -> None:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # A name with both kinds of addresses, such as localhost, is served on the IPv4 one.
        self.address_family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._opened_at: dict[socket.socket, float] = {}
        super().__init__(address, handler)  # type: ignore[arg-type] # of these two families

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; if there are too many, close the oldest. OSError: it is tried again."""
        if not self._slots.acquire(blocking=False):
            self._disconnect(1)
            if not self._slots.acquire(timeout=PAUSE_SECONDS):
                raise TimeoutError
        try:
            request, address = super().get_request()
        except OSError:  # the client has left, or the process has no free descriptor
            self._slots.release()
            self._disconnect(1)
            time.sleep(PAUSE_SECONDS)
            raise
        with self._lock:
            self._opened_at[request] = time.monotonic()
        return request, address

    def service_actions(self) -> None:
        """End connections that are too old; called every half second."""
        deadline = time.monotonic() - CONNECTION_SECONDS
        self._disconnect(sum(opened_at < deadline for opened_at in [*self._opened_at.values()]))

    def _disconnect(self, count: int) -> None:
        """End the oldest connections: the threads that serve them get an error, and close them."""
        with self._lock:
            for request in [*self._opened_at][:count]:
                del self._opened_at[request]
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def close_request(self, request: Any) -> None:
        """Close the connection."""
        with self._lock:
            self._opened_at.pop(request, None)
        super().close_request(request)
        self._slots.release()

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Log an error, unless the client caused it."""
        error = sys.exception()
        if not isinstance(error, OSError):
            logger.error(
                "metrics request failed", extra={"client": client_address[0]}, exc_info=error
            )


def usable_accept(accept: str) -> str:
    """Return the formats of metrics that a client takes; blank if the library cannot read them."""
    try:
        choose_encoder(accept)[0](CollectorRegistry())
    except (TypeError, ValueError):  # of a version that is not one
        return ""
    return accept


class _Handler(MetricsHandler):
    timeout = SILENT_SECONDS
    is_healthy: Callable[[], bool]
    unhealthy: str

    def do_GET(self) -> None:  # noqa: N802 - the base class' name
        """Answer a request; the connection is closed then, as HTTP/1.0 does."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            accept = usable_accept(self.headers.get("Accept", ""))
            del self.headers["Accept"]
            self.headers["Accept"] = accept
            super().do_GET()
        elif path != "/healthz":
            self._answer(HTTPStatus.NOT_FOUND, "try /metrics or /healthz")
        elif self.is_healthy():
            self._answer(HTTPStatus.OK, "ok")
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, self.unhealthy)

    do_HEAD = do_GET  # noqa: N815 - the base class' name; probes use it, and ignore the body

    def _answer(self, status: HTTPStatus, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(f"{text}\n".encode())


@contextmanager
def serving(
    registry: CollectorRegistry,
    host: str,
    port: int | None,
    is_healthy: Callable[[], bool],
    unhealthy: str = "stalled",
) -> Iterator[int | None]:
    """Serve `/metrics` and `/healthz` within the context; yields the port, or None if nothing is served.

    `/healthz` answers 200, or 503 and the text `unhealthy`. `host` is an IPv4 or IPv6 address, or a
    name. `port` 0 serves nothing; None uses the first free one of DEFAULT_PORTS, or, if all are in use,
    logs a warning and serves nothing.

    Raises:
        ConfigError: `port` is in use, or nothing can be served at `host`.
    """
    handler = type(
        "Handler",
        (_Handler,),
        {"registry": registry, "is_healthy": staticmethod(is_healthy), "unhealthy": unhealthy},
    )
    server = None if port == 0 else _bind(host, port, handler)
    if server is None:
        yield None
        return
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _bind(host: str, port: int | None, handler: type[MetricsHandler]) -> _Server | None:
    for candidate in DEFAULT_PORTS if port is None else (port,):
        try:
            return _Server(host, candidate, handler)
        except (OSError, UnicodeError) as error:
            if port is None and getattr(error, "errno", None) == errno.EADDRINUSE:
                continue
            reason = getattr(error, "strerror", None) or "invalid address"
            raise ConfigError(
                f"cannot serve metrics on {format_address((host, candidate))}: {reason}", hint=HINT
            ) from None
    logger.warning(
        "no metrics served: all default ports are in use",
        extra={
            "host": host,
            "ports": f"{DEFAULT_PORTS[0]}-{DEFAULT_PORTS[-1]}",
            "remedy": "set metrics_port",
        },
    )
    return None
