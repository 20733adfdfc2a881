"""Every metric of a worker, in one table.

The worker updates `WorkerMetrics`; the launcher serves them. Names follow the Prometheus conventions:
prefix `aragora_q_`, counters end in `_total`, times in `_seconds`. Job and worker ids are never labels. The
values of labels are bounded, also of those that come from jobs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.process_collector import ProcessCollector

from aragora_q._version import __version__
from aragora_q.context import NOT_BILLED, Call, Settlement
from aragora_q.tracing import Span

OUTCOMES = ("completed", "retrying", "failed", "released", "held", "lost", "cancelled")
ENDINGS = ("completed", "failed")
"""Outcomes that end a job."""

DELIVERY_RESULTS = ("delivered", "failed")
_DURATION_BUCKETS = (0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_JOB_BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
_LATENCY_BUCKETS = (0.005, 0.05, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_DELIVERY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120)
_WAIT_BUCKETS = (0.005, 0.05, 0.5, 1, 2, 5, 15, 30, 60)

MAX_MODELS = 100
"""Pairs of provider and model that are labels; others are counted as `other`: models come from jobs."""

OTHER = ("other", "other")


def exemplar_of(span: Span) -> dict[str, str] | None:
    """Return the exemplar of a span: its ids; None if it is not sampled."""
    return dict(span.ids) if span.is_sampled else None


class CallMetrics:
    """The paid calls of a worker, by provider and configured model."""

    def __init__(self, metric: Callable[..., Any]) -> None:
        by = ("provider", "model")
        self._usd = metric(
            Counter, "spend_usd", "US dollars of settled calls, as far as they are known.", *by
        )
        self._unpriced = metric(Counter, "unpriced_calls", "Calls without a known price.", *by)
        self._calls = metric(Counter, "calls", "Settled calls, by outcome.", *by, "outcome")
        self._tokens = metric(
            Counter,
            "tokens",
            "Tokens of settled calls: input, output, and cached, a part of the input.",
            *by,
            "direction",
        )
        self._fallbacks = metric(
            Counter,
            "fallback_calls",
            "Settled calls of agents in place of others, by agent.",
            "agent",
        )
        self._waits = metric(
            Histogram,
            "gate_wait_seconds",
            "Time that a call waited at the gates until it was granted.",
            buckets=_WAIT_BUCKETS,
        )
        self._known: set[tuple[str, str]] = set()

    def granted(self, call: Call, wait_seconds: float) -> None:
        """A call may be sent, after it waited."""
        self._waits.observe(wait_seconds)
        labels = self._labels(call)
        for each in (self._usd, self._unpriced):  # so that alerts notice the first increase
            each(*labels)

    def settled(self, call: Call, settlement: Settlement) -> None:
        """A call was booked. Its price is that of the gates: the reserved one where it is not known."""
        if settlement.outcome == "not_sent":
            return
        labels, usd = self._labels(call), settlement.cost_usd
        self._calls(*labels, settlement.outcome).inc()
        if call.is_fallback:  # names of the configuration: they are few
            self._fallbacks(call.agent).inc()
        for direction in ("input", "output", "cached"):
            tokens = getattr(settlement, f"{direction}_tokens")
            self._tokens(*labels, direction).inc(max(0, tokens))
        if usd is None:
            usd = 0.0 if settlement.outcome in NOT_BILLED else call.max_cost_usd
        if usd is None:
            self._unpriced(*labels).inc()
        else:
            self._usd(*labels).inc(max(0.0, usd))

    def _labels(self, call: Call) -> tuple[str, str]:
        labels = (call.provider, call.model)
        if labels not in self._known:
            if len(self._known) >= MAX_MODELS:
                return OTHER
            self._known.add(labels)
        return labels


class WorkerMetrics:
    """The metrics of one worker, in a separate registry."""

    def __init__(self, queue: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def metric(kind: Any, name: str, text: str, *labels: str, **options: Any) -> Any:
            made = kind(
                f"aragora_q_{name}", text, ("queue", *labels), registry=self.registry, **options
            )
            return partial(made.labels, queue) if labels else made.labels(queue)

        self.calls = CallMetrics(metric)
        attempts = metric(Counter, "attempts", "Attempts that ended, by outcome.", "outcome")
        self.attempts = {outcome: attempts(outcome) for outcome in OUTCOMES}
        self.attempt_duration = metric(
            Histogram,
            "attempt_duration_seconds",
            "Duration of attempts.",
            buckets=_DURATION_BUCKETS,
        )
        job_duration = metric(
            Histogram,
            "job_duration_seconds",
            "Time from the enqueue of a job to its end, by outcome: with delays, waits and all attempts.",
            "outcome",
            buckets=_JOB_BUCKETS,
        )
        self.job_duration = {outcome: job_duration(outcome) for outcome in ENDINGS}
        self.queue_latency = metric(
            Histogram,
            "queue_latency_seconds",
            "Time in the lane before an attempt started.",
            buckets=_LATENCY_BUCKETS,
        )
        deliveries = metric(
            Histogram,
            "webhook_delivery_duration_seconds",
            "Duration of attempts to deliver a message to a webhook, by result.",
            "result",
            buckets=_DELIVERY_BUCKETS,
        )
        self.deliveries = {result: deliveries(result) for result in DELIVERY_RESULTS}
        self.active = metric(Gauge, "jobs_active", "Jobs that this worker is running.")
        self.concurrency = metric(
            Gauge, "concurrency", "Maximum number of jobs that this worker runs at once."
        )
        self.leases_lost = metric(Counter, "leases_lost", "Running jobs whose lease was lost.")
        self.redis_errors: Callable[[str], Any] = metric(
            Counter, "redis_errors", "Failed calls to Redis, by kind of error.", "kind"
        )
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
