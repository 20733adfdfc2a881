"""Every metric of a worker, in one table.

The worker updates `WorkerMetrics`; the launcher serves them. Names follow the Prometheus conventions:
prefix `aragora_q_`, counters end in `_total`, times in `_seconds`. Job and worker ids are never labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.process_collector import ProcessCollector

from aragora_q._version import __version__

OUTCOMES = ("completed", "retrying", "failed", "released", "held", "lost", "cancelled")
_DURATION_BUCKETS = (0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_LATENCY_BUCKETS = (0.005, 0.05, 0.5, 1, 5, 15, 60, 300, 900, 3600)


class WorkerMetrics:
    """The metrics of one worker, in a separate registry."""

    def __init__(self, queue: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def metric(kind: Any, name: str, text: str, *labels: str, **options: Any) -> Any:
            made = kind(
                f"aragora_q_{name}", text, ("queue", *labels), registry=self.registry, **options
            )
            return made if labels else made.labels(queue)

        attempts = metric(Counter, "attempts", "Attempts that ended, by outcome.", "outcome")
        self.attempts = {outcome: attempts.labels(queue, outcome) for outcome in OUTCOMES}
        self.attempt_duration = metric(
            Histogram,
            "attempt_duration_seconds",
            "Duration of attempts.",
            buckets=_DURATION_BUCKETS,
        )
        self.queue_latency = metric(
            Histogram,
            "queue_latency_seconds",
            "Time in the lane before an attempt started.",
            buckets=_LATENCY_BUCKETS,
        )
        self.active = metric(Gauge, "jobs_active", "Jobs that this worker is running.")
        self.concurrency = metric(
            Gauge, "concurrency", "Maximum number of jobs that this worker runs at once."
        )
        self.leases_lost = metric(Counter, "leases_lost", "Running jobs whose lease was lost.")
        errors = metric(Counter, "redis_errors", "Failed calls to Redis, by kind of error.", "kind")
        self.redis_errors: Callable[[str], Any] = lambda kind: errors.labels(queue, kind)
        self.loop_lag = metric(
            Gauge, "event_loop_lag_seconds", "Latest measured delay of the event loop."
        )
        self.last_fetch = metric(
            Gauge,
            "last_fetch_timestamp_seconds",
            "Unix time when Redis last answered a request for jobs.",
        )
        Info("aragora_q_build", "Version of aragora-q.", registry=self.registry).info(
            {"version": __version__}
        )
