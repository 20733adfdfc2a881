"""Samples become series: differences between neighbors, gaps, resets, midnights, percentiles."""

import pytest

from aragora_q import samples
from aragora_q.redis.keys import DURATION_BOUNDS, SAMPLED_COUNTERS
from aragora_q.samples import BUCKETS, DAY, Sample, Samples

NOW = 1_800_000_000 + 30
MINUTE_OF_NOW = NOW - 30 - (NOW - 30) % 60


def sample(at, completed=0, *, waiting=0, spent=0, spent_before=0, run=None):
    counters = tuple(completed * (name == "completed") for name in SAMPLED_COUNTERS)
    gauges = (waiting, 0, 0, 0, 1)
    return Sample(at, counters, gauges, spent, spent_before, run or {}, run or {})


def series(*found, span="2h", now=NOW):
    return Samples(span, now, found).series()


def minutes_ago(n, completed=0, **fields):
    return sample(MINUTE_OF_NOW - 60 * n, completed, **fields)


def test_counts_are_differences_of_neighbors():
    """What happened between two samples belongs to the minute of the first; the last one is still open."""
    found = series(minutes_ago(2, 10, waiting=5), minutes_ago(1, 13, waiting=4), minutes_ago(0, 13))
    assert len(found.times) == 120
    assert found.times[-1] == MINUTE_OF_NOW
    assert found.counts["completed"][-4:] == [None, 3, 0, None]
    assert found.gauges["waiting"][-4:] == [None, 5, 4, 0]
    assert found.is_gap[-4:] == [True, False, False, False]


def test_a_gap_stays_a_gap():
    """Neighbors with a missing sample between them say nothing of either minute; a reset is not a spike."""
    found = series(minutes_ago(5, 10), minutes_ago(3, 900), minutes_ago(2, 901), minutes_ago(1, 3))
    assert found.counts["completed"][-6:] == [None, None, 1, None, None, None]
    assert found.is_gap[-6:] == [False, True, False, False, False, True]


def test_long_spans_add_up_samples():
    """An interval of half an hour bridges a missing minute, not a missing hour; a day adds up its hours."""
    begin = NOW - NOW % 1800 - 4 * 1800
    found = series(
        *(sample(begin + 60 * n, n) for n in range(31) if n != 7),
        sample(begin + 3 * 1800, 5000),
        span="48h",
    )
    assert len(found.times) == 96
    assert found.counts["completed"][-5:] == [30, None, None, None, None]
    days = NOW - NOW % DAY - 2 * DAY
    found = series(*(sample(days + 3600 * n, 2 * n) for n in range(49)), span="90d")
    assert len(found.times) == 90
    assert found.counts["completed"][-3:] == [48, 48, None]


def test_spending_goes_on_at_midnight():
    """The rest of the day before is counted; what could not be read is not known, a reset neither."""
    midnight = NOW - NOW % DAY
    rows = [
        sample(midnight - 120, spent=1_000_000),
        sample(midnight - 60, spent=3_000_000),
        sample(midnight, spent=500_000, spent_before=4_000_000),
        sample(midnight + 60, spent=None),
        sample(midnight + 120, spent=700_000),
        sample(midnight + 180, spent=100_000),
    ]
    found = series(*rows, now=midnight + 200)
    assert found.spent_usd[-6:] == [2.0, 1.5, None, None, None, None]
    assert found.counts["completed"][-6:] == [0, 0, 0, 0, 0, None]


def test_percentiles_come_from_buckets():
    """Of the jobs of an interval only; None if no job was completed in it."""
    found = series(
        minutes_ago(3, run={0: 50}),
        minutes_ago(2, run={6: 10}),
        minutes_ago(1),
    )
    [*_, between, after, _, _] = found.run_seconds["p50"]
    assert after is None
    assert between == pytest.approx((DURATION_BOUNDS[5] + DURATION_BOUNDS[6]) / 2)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([], 0.5, None),
        ([0] * BUCKETS, 0.5, None),
        ([4], 0.5, 0.5),
        ([1, 0, 0, 1], 0.5, 1.0),
        ([0] * (BUCKETS - 1) + [9], 0.5, 86_400),
    ],
)
def test_percentile(counts, share, expected):
    """Evenly spread within a bucket; of the last one, the lower bound."""
    assert samples.percentile(counts, share) == (expected and pytest.approx(expected))
