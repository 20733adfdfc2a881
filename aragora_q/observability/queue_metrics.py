"""The metrics of a queue, which `aragora-q exporter` and `aragora-q web` serve and `stats --prometheus` writes.

Computed at each scrape, from reads that take constant time. One process exports them for all workers;
the metrics of a single worker are in `worker_metrics.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
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
from aragora_q.base import QueueStats
from aragora_q.contracts import MAX_NAMES, DeliveryTotals, SchedulesRead, WebhooksRead
from aragora_q.errors import AragoraQError
from aragora_q.gates.accounts import CLOSED_BY, Account
from aragora_q.gates.overview import BudgetState, Overview, read_overview
from aragora_q.gates.spending import Spent
from aragora_q.money import MICROS
from aragora_q.output_file import write_file
from aragora_q.redis.connection import Connection
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


SCRAPE_SECONDS = 8.0
"""Longest wait for Redis, below Prometheus' default scrape timeout of 10 s."""


@dataclass(frozen=True)
class Snapshot:
    """The result of one scrape. What could not be read is None."""

    queue: str
    stats: QueueStats | None = None
    server: ServerInfo | None = None
    seconds: float = 0.0
    """Time that Redis took to answer."""
    gates: Overview | None = None
    schedules: SchedulesRead | None = None
    webhooks: WebhooksRead | None = None


async def snapshot(queue: RedisStreamsQueue, gates: Connection) -> Snapshot:
    """Read statistics of the queue, of its schedules, webhooks and server, and of the gates.

    Raises:
        RedisUnreachable, AccessDenied, TryAgain: Redis does not answer for the queue.
    """
    started_at = time.monotonic()
    server = await check_server(queue.connection)
    stats = await queue.get_queue_stats()
    schedules = webhooks = None
    with suppress(AragoraQError):  # a key of another type hides nothing else
        schedules = await queue.schedules.read()
    with suppress(AragoraQError):
        webhooks = await queue.outbox.read()
    try:
        overview = await read_overview(gates, with_budgets=True)
    except (AragoraQError, ValueError):  # on a cluster, they may be on another node
        overview = None
    seconds = time.monotonic() - started_at
    return Snapshot(queue.config.queue, stats, server, seconds, overview, schedules, webhooks)


async def snapshot_or_nothing(queue: RedisStreamsQueue, gates: Connection) -> Snapshot:
    """As `snapshot`, but return an empty snapshot if Redis does not answer; a metric shows the outage."""
    started_at = time.monotonic()
    try:
        return await snapshot(queue, gates)
    except AragoraQError:
        return Snapshot(queue.config.queue, seconds=time.monotonic() - started_at)


async def snapshot_in_time(queue: RedisStreamsQueue, gates: Connection) -> Snapshot:
    """As `snapshot_or_nothing`, within SCRAPE_SECONDS."""
    try:
        async with asyncio.timeout(SCRAPE_SECONDS):
            return await snapshot_or_nothing(queue, gates)
    except TimeoutError:
        return Snapshot(queue.config.queue, seconds=SCRAPE_SECONDS)


def from_threads(read: Callable[[], Coroutine[Any, Any, Snapshot]]) -> Callable[[], Snapshot]:
    """Return a function that reads the queue's state in the running event loop; for other threads."""
    loop = asyncio.get_running_loop()
    seconds = SCRAPE_SECONDS + 2
    return lambda: asyncio.run_coroutine_threadsafe(read(), loop).result(seconds)


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
            if snapshot.schedules is not None:
                yield from _of_schedules(snapshot.queue, snapshot.schedules)
            if snapshot.webhooks is not None:
                yield from _of_webhooks(snapshot.queue, snapshot.webhooks)
            yield _gauge("gates_scrape_success", "1 if the gates answered this scrape.",
                         snapshot.queue, snapshot.gates is not None)  # fmt: skip
        if snapshot.gates is not None:
            yield from _of_spending(snapshot.queue, snapshot.gates.spent_today)
            yield from _of_providers(snapshot.gates.accounts)
            yield from _of_budgets(snapshot.gates.budgets)
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
    yield _gauge("queue_oldest_held_age_seconds", "How long the first held job is held; 0 if no job is.",
                 queue, stats["oldest_held_seconds"] or 0)  # fmt: skip
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


def _of_schedules(queue: str, read: SchedulesRead) -> Iterator[Metric]:
    """Yield the schedules that Redis knows: this process' configuration may have others, or none."""
    missed = CounterMetricFamily(
        "aragora_q_queue_schedule_missed",
        "Times of a schedule that passed without a job.",
        labels=("queue", "schedule"),
    )
    states = dict(islice(read.states.items(), MAX_NAMES))
    for name, state in states.items():
        missed.add_metric((queue, name), state.missed)
    yield missed
    next_at = {name: each.next_at for name, each in states.items() if each.next_at is not None}
    overdue = {name: each.overdue_seconds(read.now) for name, each in states.items()}
    paused = {name: float(each.paused is not None) for name, each in states.items()}
    refused = {name: float(each.error is not None) for name, each in states.items()}
    for metric, text, values in (
        ("next_timestamp_seconds", "Unix time at which a schedule is due next.", next_at),
        ("overdue_seconds", "Time since a schedule was due; 0: it is not, or is paused.", overdue),
        ("paused", "1 if the schedule is paused.", paused),
        ("refused", "1 if the last job of the schedule was refused.", refused),
    ):
        yield _by(f"queue_schedule_{metric}", text, queue, "schedule", values)


def _of_webhooks(queue: str, read: WebhooksRead) -> Iterator[Metric]:
    states = read.states
    oldest = {name: each.oldest_seconds(read.now) for name, each in states.items()}
    disabled = {name: float(each.disabled is not None) for name, each in states.items()}
    waiting = {name: each.waiting for name, each in states.items()}
    failures = {name: each.failures for name, each in states.items()}
    for metric, text, values in (
        ("waiting", "Messages that wait to be delivered.", waiting),
        (
            "oldest_waiting_age_seconds",
            "How long the oldest message waits; 0 if none does.",
            oldest,
        ),
        ("failures", "Failed attempts since the last message was delivered.", failures),
        ("disabled", "1 if the webhook is disabled: its messages wait.", disabled),
    ):
        yield _by(f"queue_webhook_{metric}", text, queue, "webhook", values)
    deliveries = CounterMetricFamily(
        "aragora_q_queue_webhook_deliveries",
        "Messages that were delivered, given up (failed) or dropped since the queue was created.",
        labels=("queue", "result"),
    )
    for result in DeliveryTotals._fields:
        deliveries.add_metric((queue, result), getattr(read.totals, result))
    yield deliveries


def _of_spending(queue: str, spent: Spent) -> Iterator[Metric]:
    for name, text, value in (
        ("spent_today_usd", "US dollars that jobs of the queue spent since midnight UTC.",
         spent.micro_usd / MICROS),
        ("spent_today_estimated_usd", "The part of them that is estimated.",
         spent.estimated_micro_usd / MICROS),
        ("unpriced_calls_today", "Calls without a known price since midnight UTC.",
         spent.unpriced_calls),
    ):  # fmt: skip
        yield _gauge(f"queue_{name}", text, queue, value)


def _of_providers(accounts: Sequence[Account]) -> Iterator[Metric]:
    """Yield the gates of accounts. They have no label `queue`: all queues of the prefix share them."""
    labels = ("account", "provider")
    closed = GaugeMetricFamily(
        "aragora_q_provider_closed",
        "1 if the account takes no calls for this reason.",
        labels=(*labels, "why"),
    )
    calls = GaugeMetricFamily(
        "aragora_q_provider_calls",
        "Calls of all workers that are under way, or wait for their turn.",
        labels=(*labels, "state"),
    )
    limit = GaugeMetricFamily(
        "aragora_q_provider_limit",
        "Maximum number of calls under way that rate limits have left; absent: no limit.",
        labels=labels,
    )
    for each in accounts:
        names = (each.name, each.provider)
        for why in CLOSED_BY:  # also those that are 0
            closed.add_metric((*names, why), float(each.is_closed and each.closed_by == why))
        calls.add_metric((*names, "under_way"), each.under_way)
        calls.add_metric((*names, "waiting"), each.waiting)
        if each.limit is not None:
            limit.add_metric(names, each.limit)
    yield from (closed, calls, limit)


def _of_budgets(budgets: Sequence[BudgetState]) -> Iterator[Metric]:
    """Yield budgets by the values of their scopes. They have no label `queue`, as providers."""
    labels = ("budget", "scope", "window")
    limit, spent, reserved, estimated, overrun, left = families = [
        GaugeMetricFamily(f"aragora_q_budget_{name}", text, labels=labels)
        for name, text in (
            ("limit_usd", "Limit of the budget in each window."),
            ("spent_usd", "Spent in the current window, including what is estimated."),
            ("reserved_usd", "Reserved for calls under way."),
            ("estimated_usd", "Spent at the highest price, because the true one is not known."),
            ("overrun_usd", "Spent beyond what had been reserved."),
            ("window_left_seconds", "Time until the window ends; absent: it does not."),
        )
    ]
    for each in budgets:
        names = (each.budget.name, each.spending.scope, each.budget.window)
        limit.add_metric(names, each.budget.limit_usd)
        spent.add_metric(names, each.spending.spent_usd)
        reserved.add_metric(names, each.spending.reserved_usd)
        estimated.add_metric(names, each.spending.estimated_usd)
        overrun.add_metric(names, each.spending.overrun_usd)
        if each.seconds_left is not None:
            left.add_metric(names, each.seconds_left)
    yield from families


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
