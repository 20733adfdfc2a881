"""Samples of a queue, as charts show them: read from Redis, and turned into series.

Maintenance writes samples (`sample.lua`); the console reads them. Their counters are lifetime totals, so a
series is made of differences between neighbors. Knows the keys; must not know how a series is drawn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import add, sub
from typing import Literal

from aragora_q.money import MICROS
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import DURATION_BOUNDS, SAMPLED_COUNTERS

Span = Literal["2h", "48h", "90d"]

MINUTE, HOUR, DAY = 60, 3600, 86_400
GAUGES = ("waiting", "running", "delayed", "held", "workers")
BUCKETS = len(DURATION_BOUNDS) + 1
SHARES = {"p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, slots=True)
class _Grid:
    """How a span is divided: `seconds` long, in intervals of `step`, from samples that are `spacing` apart."""

    seconds: int
    step: int
    spacing: int


_GRIDS: Mapping[Span, _Grid] = {
    "2h": _Grid(2 * HOUR, MINUTE, MINUTE),
    "48h": _Grid(48 * HOUR, 30 * MINUTE, MINUTE),
    "90d": _Grid(90 * DAY, DAY, HOUR),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What a queue was at one time."""

    at: int
    """When its minute or hour began, in Unix seconds."""
    counters: tuple[int, ...]
    """Lifetime totals, in the order of SAMPLED_COUNTERS."""
    gauges: tuple[int, ...]
    """In the order of GAUGES."""
    spent: int | None
    """Micro-dollars of the day, in UTC; None: could not be read."""
    spent_before: int | None
    """Micro-dollars of the day before."""
    run: Mapping[int, int]
    """Jobs completed since the sample before, by the bucket of their last attempt's time: DURATION_BOUNDS."""
    total: Mapping[int, int]
    """The same of the time since their enqueue."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a span, oldest first."""

    span: Span
    now: int
    """The server's clock, in Unix seconds."""
    samples: Sequence[Sample] = field(repr=False)

    def series(self) -> Series:
        """Divide the span into intervals, and compute what happened in each."""
        return _series(self)


@dataclass(frozen=True, slots=True)
class Series:
    """Values by interval; None where no sample shows them. The last interval has not ended."""

    span: Span
    now: int
    step: int
    """Length of an interval in seconds."""
    times: Sequence[int]
    """When each interval began, in Unix seconds."""
    is_gap: Sequence[bool]
    """True for an interval without samples: no worker ran that could write one."""
    counts: Mapping[str, Sequence[int | None]]
    """Jobs that took a transition in the interval, by SAMPLED_COUNTERS."""
    gauges: Mapping[str, Sequence[int | None]]
    """Numbers at the interval's last sample, by GAUGES."""
    spent_usd: Sequence[float | None]
    run_seconds: Mapping[str, Sequence[float | None]]
    """p50 and p95 of the last attempts of the jobs that completed; None: none did."""
    total_seconds: Mapping[str, Sequence[float | None]]
    """The same since their enqueue."""


async def read_samples(connection: Connection, span: Span) -> Samples:
    """Return the samples of a span that ends now, in one round trip. Unreadable entries are left out."""
    grid, keys = _GRIDS[span], connection.keys
    stream = keys.samples_minute if grid.spacing == MINUTE else keys.samples_hour
    # One step more than the span: its first interval may have begun earlier.
    count = (grid.seconds + grid.step) // grid.spacing + 1
    clock, entries = await connection.read_all(
        [("TIME",), ("XREVRANGE", stream, "+", "-", "COUNT", count)]
    )
    now = int(clock[0])
    found = (_sample(entry_id, fields) for entry_id, fields in reversed(entries))
    kept = [s for s in found if s and now - grid.seconds - grid.step <= s.at <= now]
    return Samples(span, now, kept)


_COUNTS = len(SAMPLED_COUNTERS)
_NUMBERS = _COUNTS + len(GAUGES)


def _sample(entry_id: bytes, raw: Sequence[bytes]) -> Sample | None:
    """Return a sample; None if another program wrote the entry."""
    try:
        fields = dict(replies.pairs(raw))
        *words, spent, spent_before = fields[b"counts"].split()
        numbers = _numbers(words)
        if len(numbers) != _NUMBERS:
            return None
        return Sample(
            at=int(entry_id.partition(b"-")[0]) // 1000,
            counters=numbers[:_COUNTS],
            gauges=numbers[_COUNTS:],
            spent=None if spent == b"-" else _numbers([spent])[0],
            spent_before=None if spent_before == b"-" else _numbers([spent_before])[0],
            run=_buckets(fields[b"run"]),
            total=_buckets(fields[b"total"]),
        )
    except replies.MALFORMED:
        return None


def _numbers(words: Sequence[bytes]) -> tuple[int, ...]:
    """Return counts. Raises ValueError for what is not one."""
    numbers = tuple(map(int, words))
    if numbers and not (min(numbers) >= 0 and max(numbers) < 2**63):
        raise ValueError(f"not counts: {words!r:.100}")
    return numbers


def _buckets(text: bytes) -> dict[int, int]:
    """Return counts by bucket from `<first bucket> <count> <count> …`. Raises ValueError."""
    if not text:
        return {}
    first, *counts = _numbers(text.split())
    if first + len(counts) > BUCKETS:
        raise ValueError("too many buckets")
    return dict(enumerate(counts, first))


@dataclass(slots=True)
class _Interval:
    """What the samples of an interval add up to."""

    gauges: tuple[int, ...] | None = None
    counts: list[int] | None = None
    run: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    total: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    spent: int | None = None

    def add_pair(self, first: Sample, second: Sample) -> None:
        """Add what happened between two samples; nothing, if a counter has become less: it was reset."""
        counts = list(map(sub, second.counters, first.counters))
        if min(counts) < 0:
            return
        self.counts = list(map(add, self.counts, counts)) if self.counts else counts
        for sums, buckets in ((self.run, second.run), (self.total, second.total)):
            for bucket, jobs in buckets.items():
                sums[bucket] += jobs
        spent = _spent_between(first, second)
        if spent is not None:
            self.spent = (self.spent or 0) + spent


def _spent_between(first: Sample, second: Sample) -> int | None:
    """Return what was spent between two samples; None if it is not known, or was reset."""
    days = second.at // DAY - first.at // DAY
    if days == 0:
        parts = [(first.spent, second.spent)]
    elif days == 1:
        parts = [(first.spent, second.spent_before), (0, second.spent)]
    else:
        return None
    spent = 0
    for before, after in parts:
        if before is None or after is None or after < before:
            return None
        spent += after - before
    return spent


def _series(samples: Samples) -> Series:
    grid = _GRIDS[samples.span]
    last = samples.now // grid.step
    numbers = range(last - grid.seconds // grid.step + 1, last + 1)
    intervals: dict[int, _Interval] = defaultdict(_Interval)
    for sample in samples.samples:
        intervals[sample.at // grid.step].gauges = sample.gauges
    for first, second in pairwise(samples.samples):
        # Neighbors that are farther apart leave a gap: when something happened between them is not known.
        if second.at - first.at <= grid.step:
            intervals[first.at // grid.step].add_pair(first, second)
    rows = [intervals[number] for number in numbers]
    return Series(
        span=samples.span,
        now=samples.now,
        step=grid.step,
        times=[number * grid.step for number in numbers],
        is_gap=[row.gauges is None for row in rows],
        counts=_columns(SAMPLED_COUNTERS, [row.counts for row in rows]),
        gauges=_columns(GAUGES, [row.gauges for row in rows]),
        spent_usd=[None if row.spent is None else row.spent / MICROS for row in rows],
        run_seconds=_percentiles([row.run for row in rows]),
        total_seconds=_percentiles([row.total for row in rows]),
    )


def _columns(
    names: Sequence[str], rows: Sequence[Sequence[int] | None]
) -> dict[str, list[int | None]]:
    return {name: [row[n] if row else None for row in rows] for n, name in enumerate(names)}


def _percentiles(rows: Sequence[Sequence[int]]) -> dict[str, list[float | None]]:
    return {name: [percentile(counts, share) for counts in rows] for name, share in SHARES.items()}


def percentile(counts: Sequence[int], share: float) -> float | None:
    """Estimate a percentile, in seconds, of durations that were counted in buckets; None: none was counted.

    Within a bucket the durations are taken as evenly spread. Of the last bucket only its lower bound is known.
    """
    sums = list(accumulate(counts))
    if not sums or not sums[-1]:
        return None
    rank = share * sums[-1]
    bucket = bisect_left(sums, rank)
    if bucket >= len(DURATION_BOUNDS):
        return DURATION_BOUNDS[-1]
    lower, upper = DURATION_BOUNDS[bucket - 1] if bucket else 0.0, DURATION_BOUNDS[bucket]
    below = sums[bucket] - counts[bucket]
    return lower + (upper - lower) * (rank - below) / counts[bucket]
