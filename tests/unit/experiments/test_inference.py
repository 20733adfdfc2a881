"""Intervals and tests of an evaluation: against published examples, SciPy's own functions, and simulations."""

from math import comb

import pytest

from aragora_q.errors import ConfigError
from aragora_q.experiments import inference

np = pytest.importorskip("numpy", reason="the extra eval is not installed, as in make test-pythons")
stats = pytest.importorskip("scipy.stats")


def share(right, n):
    """The interval of a share."""
    return inference.mean_interval({1: right, 0: n - right}, 0, 1)


@pytest.mark.parametrize(("right", "n"), [(35, 50), (1, 2), (49, 50), (3, 1000), (6_250, 10_000)])
def test_the_bootstrap_of_a_share_is_binomial(right, n):
    """n draws with replacement from n outcomes, `right` of them right: the percentiles of that sum."""
    interval = share(right, n)
    low, high = stats.binom.ppf([0.025, 0.975], n, right / n) / n
    assert (interval.low, interval.high, interval.method) == (low, high, "bootstrap")


def test_the_interval_is_that_of_drawn_bootstraps():
    """SciPy's bootstrap of paired differences, by 20,000 draws, ends within one question of ours."""
    wins, losses, n = 12, 4, 50
    interval = inference.mean_interval({1: wins, -1: losses, 0: n - wins - losses}, -1, 1)
    outcomes = np.repeat([1, -1, 0], [wins, losses, n - wins - losses])
    drawn = stats.bootstrap(
        (outcomes,), np.mean, n_resamples=20_000, method="percentile", rng=7
    ).confidence_interval
    assert interval.low == pytest.approx(drawn.low, abs=1 / n + 1e-9)
    assert interval.high == pytest.approx(drawn.high, abs=1 / n + 1e-9)
    other = inference.mean_interval({-1: wins, 1: losses, 0: n - wins - losses}, -1, 1)
    assert (other.low, other.high) == (-interval.high, -interval.low)


def test_equal_outcomes_have_the_exact_interval():
    """All of 10 right: from 0.025^(1/10) (Clopper and Pearson); differences that are all 0 may be others."""
    least = 0.025 ** (1 / 10)
    assert share(10, 10) == inference.Interval(pytest.approx(least), 1.0, "exact")
    assert share(0, 10) == inference.Interval(0.0, pytest.approx(1 - least), "exact")
    same = inference.mean_interval({0: 10}, -1, 1)
    assert (same.low, same.high) == (pytest.approx(least - 1), pytest.approx(1 - least))
    better = inference.mean_interval({1: 10}, -1, 1)
    assert (better.low, better.high, better.method) == (pytest.approx(2 * least - 1), 1.0, "exact")
    assert share(0, 0) is None


@pytest.mark.parametrize(("accuracy", "least"), [(0.5, 0.93), (0.7, 0.92), (0.85, 0.9)])
def test_intervals_of_50_questions_cover_the_truth(accuracy, least):
    """Of 2,000 simulated runs of 50 questions, about 95 % have an interval with the true accuracy in it."""
    runs = np.random.default_rng(18).binomial(50, accuracy, size=2_000)
    known = {right: share(int(right), 50) for right in set(runs.tolist())}
    covered = sum(known[right].low <= accuracy <= known[right].high for right in runs.tolist())
    assert least <= covered / len(runs) <= 0.985


def test_intervals_of_differences_cover_the_truth():
    """Arms that are right on 80 % and 66 % of questions, not independently: the difference of 14 points."""
    chances = [0.20, 0.06, 0.74]  # only one right, only the other, both or neither
    runs = np.random.default_rng(18).multinomial(50, chances, size=1_000)
    covered = 0
    for wins, losses, others in runs.tolist():
        interval = inference.mean_interval({1: wins, -1: losses, 0: others}, -1, 1)
        covered += interval.low <= 0.14 <= interval.high
    assert 0.91 <= covered / len(runs) <= 0.985


def test_mcnemar_by_hand():
    """The two tails of a fair coin: 1 of 9 is 2 · (1 + 9) / 2^9; without discordant questions, 1."""
    assert inference.mcnemar(1, 8) == pytest.approx(20 / 512)
    assert inference.mcnemar(8, 1) == pytest.approx(20 / 512)
    assert inference.mcnemar(6, 0) == pytest.approx(2 / 64)
    assert inference.mcnemar(5, 5) == 1.0
    assert inference.mcnemar(0, 0) == 1.0
    by_hand = 2 * sum(comb(184, k) for k in range(60)) / 2**184
    assert inference.mcnemar(59, 125) == pytest.approx(by_hand)


def test_holm_by_hand():
    """0.01, 0.04, 0.03, 0.005: times 4, 3, 2, 1 in ascending order, and never below the one before."""
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert inference.holm([0.5, 0.5]) == [1.0, 1.0]
    assert inference.holm([]) == []


def test_how_many_questions_a_difference_needs():
    """As many as the exact test asks for: one fewer would not be below the level."""
    for tests in (1, 3, 6, 15):
        needed = inference.needed_to_differ(tests, 0.05)
        assert (
            tests * inference.mcnemar(needed, 0) < 0.05 <= tests * inference.mcnemar(needed - 1, 0)
        )


def test_without_scipy_an_evaluation_is_refused(monkeypatch):
    """It names the extra."""
    inference.require()
    monkeypatch.setattr(inference, "find_spec", lambda _name: None)
    assert not inference.is_installed()
    with pytest.raises(ConfigError, match="SciPy") as raised:
        inference.require()
    assert "aragora-q[eval]" in raised.value.hint
