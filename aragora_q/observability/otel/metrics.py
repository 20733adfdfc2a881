"""Send metrics: those of registries of prometheus_client, and of the instruments of OpenTelemetry.

Names and labels are those at `/metrics`. Counters and histograms are cumulative, since the time that the
registry knows; info metrics are gauges with the value 1.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from opentelemetry import metrics
from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Exemplar as FamilyExemplar
from prometheus_client.samples import Sample

from aragora_q._version import __version__
from aragora_q.observability.otel import variables
from aragora_q.observability.otel.sending import THREADS, Losses

_SCOPE = InstrumentationScope("aragora_q", __version__)
_SUCCESS = MetricExportResult.SUCCESS
_CUMULATIVE = AggregationTemporality.CUMULATIVE
_OF_MODELS = {
    *("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"),
    *("gen_ai.token.type", "server.address", "server.port", "error.type"),
}
"""Attributes of metrics of calls: not those that a provider chooses, as each value would be a series."""
_Labels = tuple[tuple[str, str], ...]


class MetricSender:
    """Sends what the registries and the instruments of OpenTelemetry have, at a fixed interval.

    The SDK's own reader sends nothing unless it has instruments.
    """

    def __init__(
        self,
        exporter: MetricExporter,
        resource: Resource,
        registries: Sequence[CollectorRegistry],
        losses: Losses,
    ) -> None:
        self._exporter, self._losses = exporter, losses
        self._resource, self._registries = resource, registries
        self.reader = InMemoryMetricReader(
            exporter._preferred_temporality,  # noqa: SLF001 - as the SDK's own reader does
            exporter._preferred_aggregation,  # noqa: SLF001
        )
        self._stopping = threading.Event()
        self._is_reading = False
        self._thread = threading.Thread(target=self._run, name=f"{THREADS}Metrics", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def _run(self) -> None:
        interval_seconds = variables.interval_seconds()
        while not self._stopping.wait(interval_seconds):
            self._send()
        self._send()

    def _send(self) -> None:
        try:
            self._is_reading = True
            data = self._collect()
            self._is_reading = False
            is_lost = bool(data) and self._exporter.export(MetricsData(data)) is not _SUCCESS
        except Exception:
            # The warning about losses takes the reason from this record.
            logging.getLogger("opentelemetry.metrics").exception("metrics not sent")
            is_lost = True
        if is_lost:
            self._losses.add(1, self._reason())

    def _reason(self) -> str:
        """Return why metrics are lost if it is not their receiver's fault."""
        return "they could not be read" if self._is_reading else ""

    def _collect(self) -> list[ResourceMetrics]:
        """Return all as one: of several with the same resource, exporters send only the last."""
        of_instruments = self.reader.get_metrics_data()
        scopes = [
            scope
            for each in (of_instruments.resource_metrics if of_instruments else ())
            for scope in each.scope_metrics
        ]
        of_registries = [
            metric
            for registry in self._registries
            for family in registry.collect()
            for metric in _metrics(family, time.time_ns())
        ]
        if of_registries:
            scopes.append(ScopeMetrics(_SCOPE, of_registries, ""))
        return [ResourceMetrics(self._resource, scopes, "")] if scopes else []

    def shutdown(self) -> None:
        """Send once more, and end."""
        self._stopping.set()
        self._thread.join()
        self._exporter.shutdown()

    def abandon(self) -> None:
        """Count what is still being sent as lost; the thread that sends makes no further attempt."""
        self._losses.finish(self._thread.is_alive(), self._reason())
        self._exporter.shutdown()


def set_provider(senders: Sequence[MetricSender], resource: Resource) -> None:
    """Let the instruments of OpenTelemetry, such as those of pydantic-ai, be read by `senders`."""
    readers = [sender.reader for sender in senders]
    view = View(meter_name="pydantic-ai", instrument_name="*", attribute_keys=_OF_MODELS)
    metrics.set_meter_provider(
        MeterProvider(readers, resource=resource, shutdown_on_exit=False, views=[view])
    )


def _metrics(family: Family, now: int) -> Iterator[Metric]:
    started = {
        _key(sample): _nanoseconds(sample.value)
        for sample in family.samples
        if sample.name == f"{family.name}_created"
    }
    if family.type == "histogram":
        histogram = Histogram(_histogram_points(family, started, now), _CUMULATIVE)
        yield Metric(family.name, family.documentation, "", histogram)
        return
    by_name = defaultdict(list)
    for sample in family.samples:
        by_name[sample.name].append(sample)
    for name, samples in by_name.items():
        if family.type != "counter":
            points = [_number_point(sample, 0, now) for sample in samples]
            yield Metric(name, family.documentation, "", Gauge(points))
        elif name == f"{family.name}_total":
            points = [_number_point(each, started.get(_key(each), 0), now) for each in samples]
            data = Sum(points, _CUMULATIVE, is_monotonic=True)
            yield Metric(name, family.documentation, "", data)


def _number_point(sample: Sample, started: int, now: int) -> NumberDataPoint:
    exemplars = _exemplars([sample])
    return NumberDataPoint(dict(sample.labels), started, now, float(sample.value), exemplars)


def _histogram_points(
    family: Family, started: Mapping[_Labels, int], now: int
) -> list[HistogramDataPoint]:
    buckets: dict[_Labels, list[Sample]] = defaultdict(list)
    sums: dict[_Labels, float] = {}
    for sample in family.samples:
        if sample.name == f"{family.name}_bucket":
            buckets[_key(sample)].append(sample)
        elif sample.name == f"{family.name}_sum":
            sums[_key(sample)] = sample.value
    unknown: Any = None  # the least and the greatest value
    return [
        HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=started.get(labels, 0),
            time_unix_nano=now,
            count=int(samples[-1].value),
            sum=sums[labels],
            bucket_counts=_differences(samples),
            explicit_bounds=[float(each.labels["le"]) for each in samples[:-1]],
            min=unknown,
            max=unknown,
            exemplars=_exemplars(samples),
        )
        for labels, samples in buckets.items()
    ]


def _differences(buckets: Iterable[Sample]) -> list[int]:
    """Return the count of each bucket alone; at `/metrics`, each contains those below."""
    counts, below = [], 0
    for bucket in buckets:
        counts.append(int(bucket.value) - below)
        below = int(bucket.value)
    return counts


def _exemplars(samples: Iterable[Sample]) -> list[Exemplar]:
    return [_exemplar(sample.exemplar) for sample in samples if sample.exemplar is not None]


def _exemplar(exemplar: FamilyExemplar) -> Exemplar:
    ids = {
        name: int(exemplar.labels[name], 16)
        for name in ("trace_id", "span_id")
        if name in exemplar.labels
    }
    rest = {name: value for name, value in exemplar.labels.items() if name not in ids}
    return Exemplar(
        rest, float(exemplar.value), _nanoseconds(float(exemplar.timestamp or 0)), **ids
    )


def _key(sample: Sample) -> _Labels:
    return tuple((name, value) for name, value in sample.labels.items() if name != "le")


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9) if math.isfinite(seconds) else 0
