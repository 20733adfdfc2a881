"""Every metric of a worker, in one table, and the endpoint that serves them.

The worker counts into `WorkerMetrics`; the launcher serves it. Names follow Prometheus' rules:
prefix `aragora_q_`, counters end in `_total`, times in `_seconds`; no job or worker id is a label.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, make_wsgi_app
from prometheus_client.process_collector import ProcessCollector

from aragora_q import __version__
from aragora_q.errors import ConfigError

DEFAULT_PORTS = range(9464, 9474)
"""Tried in turn when no port is configured."""

OUTCOMES = ("completed", "retrying", "failed", "released", "lost", "cancelled")
_RUN_BUCKETS = (0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_WAIT_BUCKETS = (0.005, 0.05, 0.5, 1, 5, 15, 60, 300, 900, 3600)


class WorkerMetrics:
    """One worker's metrics, in a registry of their own."""

    def __init__(self, queue: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def metric(kind: Any, name: str, text: str, *labels: str, **options: Any) -> Any:
            made = kind(
                f"aragora_q_{name}", text, ("queue", *labels), registry=self.registry, **options
            )
            return made if labels else made.labels(queue)

        jobs = metric(Counter, "jobs", "Attempts that ended, by outcome.", "outcome")
        self.jobs = {outcome: jobs.labels(queue, outcome) for outcome in OUTCOMES}
        self.run = metric(
            Histogram, "job_run_seconds", "How long attempts ran.", buckets=_RUN_BUCKETS
        )
        self.wait = metric(
            Histogram,
            "job_wait_seconds",
            "How long jobs waited in their lane.",
            buckets=_WAIT_BUCKETS,
        )
        self.active = metric(Gauge, "jobs_active", "Jobs this worker runs now.")
        self.slots = metric(Gauge, "slots", "Jobs this worker may run at once.")
        self.leases_lost = metric(
            Counter, "leases_lost", "Running jobs this worker had to give up."
        )
        errors = metric(Counter, "redis_errors", "Calls that Redis did not serve, by kind.", "kind")
        self.redis_errors: Callable[[str], Any] = lambda kind: errors.labels(queue, kind)
        self.loop_lag = metric(
            Gauge, "event_loop_lag_seconds", "How late the event loop last answered."
        )
        self.last_fetch = metric(
            Gauge,
            "last_fetch_timestamp_seconds",
            "When the worker last asked for jobs and got an answer.",
        )
        self.last_care = {
            name: metric(
                Gauge,
                f"last_{name}_timestamp_seconds",
                f"When a {name} pass of the queue last went well, whoever made it; 0: never.",
            )
            for name in ("reap", "purge")
        }
        Info("aragora_q_build", "The version that runs.", registry=self.registry).info(
            {"version": __version__}
        )


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """A scrape is not an event."""


@contextmanager
def serving(
    registry: CollectorRegistry,
    host: str,
    port: int | None,
    is_healthy: Callable[[], bool],
    unwell: str = "stalled",
) -> Iterator[int | None]:
    """Serve `/metrics` and `/healthz` (200, or 503 and `unwell`) while the context lasts; gives the port.

    `port` None takes the first free one of DEFAULT_PORTS, or none at all (gives None); 0 is off.
    Raises ConfigError if a port that was asked for is taken.
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
                else ("503 Service Unavailable", f"{unwell}\n".encode())
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
                hint="choose another: metrics_port (0 for none) of a worker, --listen of an exporter",
            ) from None
    for candidate in DEFAULT_PORTS:
        with suppress(OSError):
            return _Server((host, candidate), _QuietHandler)
    return None
