"""The queue's metrics: what `aragora-q exporter` serves and `stats --prometheus` writes.

Computed when they are asked for, from reads that take the same time whatever the queue holds. One
process exports them for all workers; what a single worker does is `metrics.py`'s business.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from aragora_q._version import __version__
from aragora_q.errors import AragoraQError, ConfigError
from aragora_q.redis.server import ServerInfo, check_server
from aragora_q.streams.queue import RedisStreamsQueue

TRANSITIONS = (
    "enqueued", "started", "completed", "retried", "deferred", "failed", "released", "promoted",
    "reclaimed", "redelivered", "crashed", "cancelled", "requeued", "refused", "malformed",
    "purged",
)  # fmt: skip
"""Every counter of the queue; those that never counted are exported as 0, so that alerts can see a
first one.
"""


@dataclass(frozen=True)
class Snapshot:
    """What one scrape found, or why it found nothing."""

    queue: str
    stats: dict[str, Any] | None = None
    facts: ServerInfo | None = None
    seconds: float = 0.0


async def snapshot(queue: RedisStreamsQueue) -> Snapshot:
    """Look at the queue and its server. Raises what the connection raises."""
    began = time.monotonic()
    facts = await check_server(queue.connection)
    stats = await queue.get_queue_stats()
    return Snapshot(queue.config.queue, stats, facts, time.monotonic() - began)


async def snapshot_or_nothing(queue: RedisStreamsQueue) -> Snapshot:
    """As `snapshot`; an exporter outlives its server's outages, and says so in a metric."""
    began = time.monotonic()
    try:
        return await snapshot(queue)
    except AragoraQError:
        return Snapshot(queue.config.queue, seconds=time.monotonic() - began)


class QueueCollector(Collector):
    """Turns what `look` finds at each scrape into metrics."""

    def __init__(self, look: Callable[[], Snapshot]) -> None:
        self._look = look

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering must not ask Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        seen = self._look()
        if seen.stats is not None and seen.facts is not None:
            yield from _of_backlog(seen.queue, seen.stats)
            yield from _of_maintenance(seen.queue, seen.stats)
            yield from _of_server(seen.facts)
        yield _gauge("queue_scrape_success", "Whether Redis answered this scrape.", seen.queue,
                     seen.stats is not None)  # fmt: skip
        yield _gauge("queue_scrape_duration_seconds", "How long Redis took to answer this scrape.",
                     seen.queue, seen.seconds)  # fmt: skip
        yield InfoMetricFamily(
            "aragora_q_build", "The version that runs.", value={"version": __version__}
        )


def write(seen: Snapshot, path: Path) -> None:
    """Write the metrics for node_exporter's textfile collector, which must never see half a file.

    `-` is standard output. Raises ConfigError if the file cannot be written.
    """
    registry = CollectorRegistry()
    registry.register(QueueCollector(lambda: seen))
    text = generate_latest(registry)
    if str(path) == "-":
        sys.stdout.write(text.decode())
        return
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():  # a device would be replaced, for everybody
            raise ConfigError(
                f"cannot write {path}: not a regular file", hint="- is standard output"
            )
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), 0o644)  # the collector runs as another user
                os.replace(file.name, path)  # noqa: PTH105 - in one step
            except OSError:
                os.unlink(file.name)  # noqa: PTH108 - or a full disk would fill with beginnings
                raise
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint="is the directory there, and ours?"
        ) from None


def _gauge(name: str, text: str, queue: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"aragora_q_{name}", text, labels=("queue",))
    family.add_metric((queue,), value)
    return family


def _by(name: str, text: str, queue: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(f"aragora_q_{name}", text, labels=("queue", label))
    for each, value in values.items():
        family.add_metric((queue, each), value)
    return family


def _of_backlog(queue: str, stats: dict[str, Any]) -> Iterator[Metric]:
    states = ("running", "delayed", "completed", "failed", "cancelled")
    jobs = {"waiting": sum(stats["waiting"].values()), **{name: stats[name] for name in states}}
    yield _by("queue_jobs", "Jobs by state.", queue, "state", jobs)
    yield _by("queue_lane_jobs", "Waiting jobs by lane.", queue, "lane", stats["waiting"])
    yield _gauge("queue_oldest_waiting_age_seconds", "Age of the oldest waiting job; 0: none waits.",
                 queue, stats["oldest_waiting_seconds"] or 0)  # fmt: skip
    if stats["next_due_seconds"] is not None:
        yield _gauge("queue_next_due_seconds", "Until the next delayed job is due.",
                     queue, stats["next_due_seconds"])  # fmt: skip
    yield _gauge("queue_paused", "Whether the queue is paused.", queue, stats["paused"])
    transitions = CounterMetricFamily(
        "aragora_q_queue_transitions",
        "What happened to jobs so far.",
        labels=("queue", "transition"),
    )
    for name in TRANSITIONS:
        transitions.add_metric((queue, name), stats["counters"].get(name, 0))
    yield transitions


def _of_maintenance(queue: str, stats: dict[str, Any]) -> Iterator[Metric]:
    alive = sum(worker["is_alive"] for worker in stats["workers"])
    yield _by("queue_workers", "Workers by whether their heartbeat is younger than their lease.",
              queue, "state", {"alive": alive, "silent": len(stats["workers"]) - alive})  # fmt: skip
    for name in ("reap", "purge"):
        yield _gauge(f"queue_last_{name}_timestamp_seconds", f"When a {name} pass last went well; 0: never.",
                     queue, (stats[f"last_{name}_at"] or 0) / 1000)  # fmt: skip


def _of_server(facts: ServerInfo) -> Iterator[Metric]:
    for name, text, value in (
        ("eviction_unsafe", "Whether Redis may delete jobs when its memory is full.",
         facts.eviction_policy != "noeviction"),
        ("append_only_file", "Whether Redis keeps an append-only file.", facts.has_aof),
        ("memory_used_bytes", "Memory that Redis uses.", facts.used_bytes),
        ("memory_max_bytes", "Memory that Redis may use; 0: no limit.", facts.max_bytes),
    ):  # fmt: skip
        yield GaugeMetricFamily(f"aragora_q_redis_{name}", text, value=value)
