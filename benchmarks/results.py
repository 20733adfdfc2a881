"""What is promised of speed and memory, and how a run came out.

Used by `measures`, `aragora-q bench` and `make bench`. A figure is a ratio to the floor of the same
run wherever there is a floor: absolute numbers say more of the machine than of the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Promise:
    """`must` and `aim` bound the figure from below, or from above where less is better."""

    name: str
    unit: str
    must: float
    aim: float
    is_lower_better: bool = False


PROMISES = {
    "drain": Promise("drain, one worker process", "jobs/s", 0.75, 1.3),
    "bulk": Promise("bulk enqueue", "jobs/s", 0.8, 1.2),
    "single": Promise("single awaited enqueue", "jobs/s", 0.7, 0.9),
    "latency_p50": Promise("enqueue to start, idle worker, p50", "ms", 2, 1.3, True),
    "latency_p99": Promise("enqueue to start, idle worker, p99", "ms", 3, 1.5, True),
    "waiting_bytes": Promise("Redis memory per waiting job", "B", 600, 520, True),
    "finished_bytes": Promise("Redis memory per finished job", "B", 1_000, 800, True),
    "deep_drain": Promise("drain rate, backlog of many / of few", "jobs/s", 0.9, 0.95),
    "deep_stats": Promise("stats, backlog of many / of few", "ms", 1.5, 1.2, True),
    "idle_rss": Promise("worker resident memory, idle", "MB", 60, 45, True),
    "start_version": Promise("aragora-q --version / python -c pass", "ms", 3, 1.5, True),
    "start_help": Promise("aragora-q --help / python -c pass", "ms", 9, 5, True),
    "start_status": Promise("aragora-q status / python -c pass", "ms", 25, 12, True),
    "start_enqueue": Promise("aragora-q enqueue / python -c pass", "ms", 25, 12, True),
}


@dataclass(frozen=True)
class Figure:
    """One promise as measured: ours and the floor's values by repetition, in the promise's unit."""

    key: str
    ours: Sequence[float]
    floor: Sequence[float] = ()

    @property
    def promise(self) -> Promise:
        return PROMISES[self.key]

    @property
    def values(self) -> list[float]:
        """What the promise bounds, by repetition: ratios where there is a floor."""
        if not self.floor:
            return list(self.ours)
        return [ours / floor for ours, floor in zip(self.ours, self.floor, strict=True)]

    @property
    def verdict(self) -> str:
        """`aim`, `must` or `missed`, by the median."""
        value, promise = median(self.values), self.promise
        for name, bound in (("aim", promise.aim), ("must", promise.must)):
            if value <= bound if promise.is_lower_better else value >= bound:
                return name
        return "missed"

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "figure": self.key,
            "unit": self.promise.unit,
            "ours": round(median(self.ours), 4),
            "floor": round(median(self.floor), 4) if self.floor else None,
            "value": round(median(self.values), 3),
            "least": round(min(self.values), 3),
            "most": round(max(self.values), 3),
            "must": self.promise.must,
            "aim": self.promise.aim,
            "verdict": self.verdict,
        }

    def as_row(self) -> list[str]:
        """For a table under HEAD."""
        promise, values = self.promise, self.values
        times = " x" if self.floor else ""
        return [
            promise.name,
            f"{_number(median(self.ours))} {promise.unit}",
            f"{_number(median(self.floor))} {promise.unit}" if self.floor else "",
            f"{_number(median(values))}{times} ({_number(min(values))} to {_number(max(values))})",
            f"{'≤' if promise.is_lower_better else '≥'} {promise.must:,g} / {promise.aim:,g}{times}",
            self.verdict,
        ]


HEAD = ("figure", "ours", "floor", "median (range)", "must / aim", "met")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
