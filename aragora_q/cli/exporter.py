"""`aragora-q exporter`: the queue's metrics for Prometheus, and its health, as long as it runs."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import ConfigFile, QueueName, RedisUrl

if TYPE_CHECKING:
    from aragora_q.observability.queue_metrics import Snapshot

SCRAPE_SECONDS = 8.0
"""Longest wait for Redis: below Prometheus' usual scrape timeout of 10 s."""


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65_536:
        raise typer.BadParameter(f"{text!r} is no HOST:PORT", param_hint="--listen")
    return host.strip("[]") or "127.0.0.1", int(port)


def exporter(
    *,
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="HOST:PORT", help="Where to serve /metrics and /healthz."),
    ] = "127.0.0.1:9474",
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Serve the queue's metrics: backlog, ages, totals, workers, care. One for all workers.

    /healthz answers 200 while Redis answers, else 503. While Redis is away, /metrics says so in
    aragora_q_queue_scrape_success. Nothing is encrypted and nobody is asked who he is: keep it on
    loopback, or in a network of your own.

    Example:
      aragora-q exporter --listen 127.0.0.1:9474

    Exit codes:
      143 stopped by SIGTERM   130 by Ctrl-C
      78 wrong configuration, or the port is taken

    """
    host, port = _parse_address(listen)
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    raise output.StoppedBySignal(asyncio.run(_serve(settings, host, port)))


async def _serve(settings: Any, host: str, port: int) -> signal.Signals:
    from prometheus_client import CollectorRegistry

    from aragora_q.observability import queue_metrics, sd_notify
    from aragora_q.observability.http import serving
    from aragora_q.streams.queue import RedisStreamsQueue

    queue = RedisStreamsQueue(settings)
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)

    def look() -> Snapshot:
        """Called in a thread of the endpoint's."""
        asked = asyncio.run_coroutine_threadsafe(_within_time(queue), loop)
        return asked.result(SCRAPE_SECONDS + 2)

    registry = CollectorRegistry()
    registry.register(queue_metrics.QueueCollector(look))
    try:
        with serving(
            registry, host, port, lambda: look().stats is not None, "Redis does not answer"
        ):
            output.note(f"serving http://{host}:{port}/metrics and /healthz")
            sd_notify.notify("READY=1")
            return await stopped
    finally:
        await queue.close()


async def _within_time(queue: Any) -> Snapshot:
    from aragora_q.observability import queue_metrics

    try:
        async with asyncio.timeout(SCRAPE_SECONDS):
            return await queue_metrics.snapshot_or_nothing(queue)
    except TimeoutError:
        return queue_metrics.Snapshot(queue.config.queue, seconds=SCRAPE_SECONDS)
