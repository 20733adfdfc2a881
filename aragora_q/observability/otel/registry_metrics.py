"""The metrics of a registry of prometheus_client in the form that OpenTelemetry's exporters send.

Names and labels are those at `/metrics`. Counters and histograms are cumulative, since the time that the
registry knows; info metrics are gauges with the value 1.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Exemplar as FamilyExemplar
from prometheus_client.samples import Sample

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_Labels = tuple[tuple[str, str], ...]


def metrics_of(registry: CollectorRegistry) -> Iterator[Metric]:
    """Yield the metrics that a registry has now."""
    for family in registry.collect():
        yield from _metrics(family, time.time_ns())


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
    return Exemplar(rest, exemplar.value, _nanoseconds(float(exemplar.timestamp or 0)), **ids)


def _key(sample: Sample) -> _Labels:
    return tuple((name, value) for name, value in sample.labels.items() if name != "le")


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9) if math.isfinite(seconds) else 0
