"""Every metric of a console that is not the queue's, in one table.

`aragora-q web` updates `WebMetrics`, and serves them together with those of `queue_metrics.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.process_collector import ProcessCollector

GROUPS = ("pages", "api", "events", "static", "probes")
"""Parts of the console, by their paths."""


class WebMetrics:
    """The metrics of one console, in a separate registry."""

    def __init__(self, queue: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def metric(kind: Any, name: str, text: str, *labels: str) -> Any:
            made = kind(f"aragora_q_web_{name}", text, ("queue", *labels), registry=self.registry)
            return partial(made.labels, queue) if labels else made.labels(queue)

        self.requests: Callable[[str, str], Any] = metric(
            Counter,
            "requests",
            "Answered requests, by part of the console and class of status, such as 2xx.",
            "group",
            "status",
        )
        self.refused_logins = metric(Counter, "refused_logins", "Wrong tokens and links.")
        self.event_streams = metric(Gauge, "event_streams", "Open streams of events.")
        self.connections = metric(Gauge, "connections", "Open connections of clients.")
        for group in GROUPS:  # so that alerts notice the first one
            self.requests(group, "5xx")
