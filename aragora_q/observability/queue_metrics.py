"""The metrics of a queue, which `aragora-q exporter` serves and `stats --prometheus` writes.

Computed at each scrape, from reads that take constant time. One process exports them for all workers;
the metrics of a single worker are in `worker_metrics.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from aragora_q._version import __version__
from aragora_q.base import QueueStats
from aragora_q.errors import AragoraQError
from aragora_q.output_file import write_file
from aragora_q.redis.server import ServerInfo, check_server
from aragora_q.streams.queue import RedisStreamsQueue

TRANSITIONS = (
    "enqueued", "started", "completed", "retried", "deferred", "failed", "released", "promoted",
    "held", "unheld", "reclaimed", "redelivered", "crashed", "cancelled", "requeued", "refused", "malformed",
    "put_off", "purged",
)  # fmt: skip
"""Every counter of the queue. A counter that Redis does not have is exported as 0, so that alerts notice
its first increase.
"""


@dataclass(frozen=True)
class Snapshot:
    """The result of one scrape. `stats` and `server` are None if Redis did not answer."""

    queue: str
    stats: QueueStats | None = None
    server: ServerInfo | None = None
    seconds: float = 0.0
    """Time that Redis took to answer."""


async def snapshot(queue: RedisStreamsQueue) -> Snapshot:
    """Read statistics of the queue and its server. Raises RedisUnreachable, AccessDenied or TryAgain."""
    started_at = time.monotonic()
    server = await check_server(queue.connection)
    stats = await queue.get_queue_stats()
    return Snapshot(queue.config.queue, stats, server, time.monotonic() - started_at)


async def snapshot_or_nothing(queue: RedisStreamsQueue) -> Snapshot:
    """As `snapshot`, but return an empty snapshot if Redis does not answer; a metric shows the outage."""
    started_at = time.monotonic()
    try:
        return await snapshot(queue)
    except AragoraQError:
        return Snapshot(queue.config.queue, seconds=time.monotonic() - started_at)


class QueueCollector(Collector):
    """Turn the snapshot that `take_snapshot` returns at each scrape into metrics."""

    def __init__(self, take_snapshot: Callable[[], Snapshot]) -> None:
        self._take_snapshot = take_snapshot

    def describe(self) -> list[Metric]:
        """Return nothing, because registering the collector must not call Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        snapshot = self._take_snapshot()
        if snapshot.stats is not None and snapshot.server is not None:
            yield from _of_backlog(snapshot.queue, snapshot.stats)
            yield from _of_maintenance(snapshot.queue, snapshot.stats)
            yield from _of_server(snapshot.server)
        yield _gauge("queue_scrape_success", "1 if Redis answered this scrape.", snapshot.queue,
                     snapshot.stats is not None)  # fmt: skip
        yield _gauge("queue_scrape_duration_seconds", "Time that Redis took to answer this scrape.",
                     snapshot.queue, snapshot.seconds)  # fmt: skip
        yield InfoMetricFamily(
            "aragora_q_build", "Version of aragora-q.", value={"version": __version__}
        )


def write(snapshot: Snapshot, path: Path) -> None:
    """Write the metrics to a file for node_exporter's textfile collector; `-` is standard output.

    The file is replaced atomically, so that the collector never reads half of it.

    Raises:
        ConfigError: the file cannot be written.
    """
    registry = CollectorRegistry()
    registry.register(QueueCollector(lambda: snapshot))
    write_file(path, generate_latest(registry), mode=0o644)  # the collector runs as another user


def _gauge(name: str, text: str, queue: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"aragora_q_{name}", text, labels=("queue",))
    family.add_metric((queue,), value)
    return family


def _by(name: str, text: str, queue: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"aragora_q_{name}", text, labels=("queue", label))
    for label_value, value in values.items():
        family.add_metric((queue, label_value), value)
    return family


def _of_backlog(queue: str, stats: QueueStats) -> Iterator[Metric]:
    jobs: dict[str, float] = {
        "waiting": sum(stats["waiting"].values()),
        "running": stats["running"],
        "delayed": stats["delayed"],
        "held": stats["held"],
        "completed": stats["completed"],
        "failed": stats["failed"],
        "cancelled": stats["cancelled"],
    }
    yield _by(
        "queue_jobs",
        "Jobs by state: waiting in a lane, running, delayed until due, held, or ended.",
        queue,
        "state",
        jobs,
    )
    yield _by("queue_lane_jobs", "Waiting jobs by lane.", queue, "lane", stats["waiting"])
    yield _gauge("queue_oldest_waiting_age_seconds", "Age of the oldest waiting job; 0 if no job waits.",
                 queue, stats["oldest_waiting_seconds"] or 0)  # fmt: skip
    if stats["next_due_seconds"] is not None:
        yield _gauge("queue_next_due_seconds", "Time until the next delayed job is due.",
                     queue, stats["next_due_seconds"])  # fmt: skip
    yield _gauge("queue_paused", "1 if the queue is paused.", queue, stats["paused"])
    transitions = CounterMetricFamily(
        "aragora_q_queue_transitions",
        "Transitions of jobs since the queue was created.",
        labels=("queue", "transition"),
    )
    for name in TRANSITIONS:
        transitions.add_metric((queue, name), stats["counters"].get(name, 0))
    yield transitions


def _of_maintenance(queue: str, stats: QueueStats) -> Iterator[Metric]:
    yield _by("queue_workers", "Workers by state; alive: the heartbeat is younger than the lease.",
              queue, "state", stats["worker_counts"])  # fmt: skip
    for name, last_at in (("reap", stats["last_reap_at"]), ("purge", stats["last_purge_at"])):
        yield _gauge(f"queue_last_{name}_timestamp_seconds",
                     f"Unix time of the last successful {name} pass; 0: never.",
                     queue, (last_at or 0) / 1000)  # fmt: skip


def _of_server(server: ServerInfo) -> Iterator[Metric]:
    for name, text, value in (
        ("eviction_unsafe", "1 if Redis may delete jobs when its memory is full.",
         server.may_evict),
        ("append_only_file", "1 if Redis keeps an append-only file.", server.has_aof),
        ("memory_used_bytes", "Memory used by Redis.", server.used_bytes),
        ("memory_max_bytes", "Memory limit of Redis (maxmemory); 0: no limit.", server.max_bytes),
    ):  # fmt: skip
        if value is not None:  # managed servers do not report all of them
            yield GaugeMetricFamily(f"aragora_q_redis_{name}", text, value=value)
