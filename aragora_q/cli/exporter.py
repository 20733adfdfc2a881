"""`aragora-q exporter`: serve the queue's metrics and health until stopped."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q import process
from aragora_q.cli import output
from aragora_q.cli.options import LoadConfig, parse_address, run, with_config

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig

EPILOG = """\b
Examples:
  aragora-q exporter --listen 127.0.0.1:9474

\b
Exit codes:
  78 invalid configuration, or the address is in use
  130 stopped by Ctrl-C   143 stopped by SIGTERM
"""


@with_config
def exporter(
    load: LoadConfig,
    *,
    listen: Annotated[
        str,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Address to serve /metrics and /healthz on."
        ),
    ] = "127.0.0.1:9474",
) -> None:
    """Serve the queue's metrics: backlog, ages, totals, workers, maintenance, money and providers.

    One exporter per queue is enough for any number of workers. While Redis does not answer,
    /healthz returns 503 and aragora_q_queue_scrape_success is 0. There is no TLS and no
    authentication: bind to loopback or a private network.
    """
    from aragora_q.observability import otel
    from aragora_q.observability.logs import setup_logging

    host, port = parse_address(listen, "--listen")
    settings = load()
    setup_logging(settings.log_level, settings.log_format)
    with otel.exporting(["metrics"]):
        run(_serve(settings, host, port))


async def _serve(settings: QueueConfig, host: str, port: int) -> None:
    """Serve until a signal arrives."""
    from prometheus_client import CollectorRegistry

    from aragora_q.config.redis_url import format_address
    from aragora_q.observability import otel, queue_metrics, sd_notify
    from aragora_q.observability.http import serving
    from aragora_q.streams.queue import RedisStreamsQueue

    queue = RedisStreamsQueue(settings)
    gates = queue.connection.for_gates()
    collect = queue_metrics.from_threads(partial(queue_metrics.snapshot_in_time, queue, gates))
    registry = CollectorRegistry()
    registry.register(queue_metrics.QueueCollector(collect))
    otel.add_registry(registry)
    try:
        with serving(
            registry, host, port, lambda: collect().stats is not None, "Redis does not answer"
        ):
            address = format_address((host, port))
            output.info(f"serving http://{address}/metrics and /healthz")
            sd_notify.notify("READY=1")
            process.stay()
            await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(otel.finish)  # it reads the queue once more
        await gates.close()
        await queue.close()
