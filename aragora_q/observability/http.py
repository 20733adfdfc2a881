"""Serve `/metrics` and `/healthz` over HTTP, from a separate thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from aragora_q.errors import ConfigError

DEFAULT_PORTS = range(9464, 9474)
"""Tried in this order if no port is configured."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Write no log line for a request."""


@contextmanager
def serving(
    registry: CollectorRegistry,
    host: str,
    port: int | None,
    is_healthy: Callable[[], bool],
    unhealthy: str = "stalled",
) -> Iterator[int | None]:
    """Serve `/metrics` and `/healthz` within the context; yields the port, or None if nothing is served.

    `/healthz` answers 200, or 503 and the text `unhealthy`. `port` 0 serves nothing; None uses the first
    free one of DEFAULT_PORTS, or serves nothing if all are in use.

    Raises:
        ConfigError: `port` is in use.
    """
    if port == 0:
        yield None
        return
    server = _bind(host, port)
    if server is None:
        yield None
        return
    scrape = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return scrape(environ, start_response)
        status, body = "404 Not Found", b"try /metrics or /healthz\n"
        if path == "/healthz":
            status, body = (
                ("200 OK", b"ok\n")
                if is_healthy()
                else ("503 Service Unavailable", f"{unhealthy}\n".encode())
            )
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _bind(host: str, port: int | None) -> _Server | None:
    _Server.allow_reuse_address = True
    if port is not None:
        try:
            return _Server((host, port), _QuietHandler)
        except OSError as error:
            raise ConfigError(
                f"cannot serve metrics on {host}:{port}: {error.strerror or error}",
                hint="choose another port: metrics_port of a worker (0: no metrics), --listen of an exporter",
            ) from None
    for candidate in DEFAULT_PORTS:
        with suppress(OSError):
            return _Server((host, candidate), _QuietHandler)
    return None
