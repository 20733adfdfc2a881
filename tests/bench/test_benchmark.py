"""The benchmark runs from end to end; what it measures, and that it is fast enough, is not tested."""

from statistics import median

import pytest
from support import servers

from aragora_q.bench import measures
from aragora_q.bench.figures import PROMISES, Figure
from aragora_q.bench.stand import Stand, find_server
from aragora_q.errors import ConfigError

TINY = measures.Sizes(
    repeats=1, drain=200, bulk=200, single=20, latency=5, memory=200, few=100, many=400, windows=2,
    starts=1,
)  # fmt: skip


def test_measures_every_promise():
    """One run gives a figure above zero for each promise, and leaves the server empty."""
    stand = Stand(str(servers.any_server()))
    try:
        found = list(measures.run(stand, TINY))
        assert stand.client.dbsize() == 0
    finally:
        stand.close()
    assert [figure.key for figure in found] == list(PROMISES)
    for figure in found:
        assert median(figure.ours) > 0, figure
        assert not figure.floor or median(figure.floor) > 0, figure


@pytest.mark.parametrize(
    ("key", "ours", "floor", "verdict"),
    [
        ("drain", [140], [100], "aim"),
        ("drain", [80], [100], "must"),
        ("drain", [70], [100], "missed"),
        ("drain", [140, 70, 10], [100, 100, 10], "must"),
        ("latency_p50", [1.2], [1], "aim"),
        ("latency_p50", [1.9], [1], "must"),
        ("latency_p50", [2.1], [1], "missed"),
        ("waiting_bytes", [590], [], "must"),
    ],
)
def test_verdict_is_of_the_median_ratio(key, ours, floor, verdict):
    """More is better for rates, less for times and sizes; a figure with a floor is judged by its ratio."""
    assert Figure(key, ours, floor).verdict == verdict


def test_without_a_server_it_says_what_to_install():
    """A missing server program is an error of configuration, with the remedy."""
    with pytest.raises(ConfigError, match="no-such-server") as refused:
        find_server("no-such-server")
    assert "--server" in refused.value.hint
