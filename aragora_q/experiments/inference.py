"""What counts of right and wrong answers show: intervals and tests. The only importer of SciPy.

Used by `evaluation`. SciPy is the extra `eval`; it is imported when a function is called. Outcomes come as
counts, so that ten thousand questions cost no more than fifty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from aragora_q.errors import ConfigError

CONFIDENCE = 0.95

HOW_TO_INSTALL = (
    "pip install 'aragora-q[eval]'; with the Debian package, apt-get install python3-scipy"
)


@dataclass(frozen=True)
class Interval:
    """A confidence interval of 95 %."""

    low: float
    high: float
    method: str
    """`bootstrap`; `exact` (binomial) if all outcomes are equal, where a bootstrap has no width."""


def is_installed() -> bool:
    """Return True if SciPy is installed."""
    return find_spec("scipy") is not None


def require() -> None:
    """Raise ConfigError if SciPy is not installed: there would be no intervals and no tests."""
    if not is_installed():
        raise ConfigError(
            "an evaluation needs SciPy, which is not installed",
            hint=HOW_TO_INSTALL,
        )


def mean_interval(outcomes: Mapping[int, int], least: int, most: int) -> Interval | None:
    """Return the interval of the mean of outcomes from `least` to `most`, counted by value; None without any.

    The percentile interval of the bootstrap (Efron 1979; Efron and Tibshirani 1993, chapter 13): the 2.5th
    and the 97.5th percentile of the mean of n outcomes that are drawn from the n with replacement. Their sum
    takes few values, so its distribution is computed, as the n-th power of its generating function, not
    sampled. So it needs no seed and has no sampling error.

    If all n outcomes are equal, at most a share u of others is plausible, 1 - u being the exact lower limit
    of Clopper and Pearson (1934) for n of n; they may be anything from `least` to `most`.
    """
    counts = {value: count for value, count in outcomes.items() if count}
    n = sum(counts.values())
    if not n:
        return None
    if len(counts) == 1:
        [value] = counts
        others = 1 - _least_share_of_all(n)
        return Interval(value - others * (value - least), value + others * (most - value), "exact")
    import numpy as np  # noqa: PLC0415 - an extra, slow to import
    from scipy import fft  # noqa: PLC0415 - likewise

    shares = np.zeros(most - least + 1)
    for value, count in counts.items():
        shares[value - least] = count / n
    sums = n * (most - least) + 1
    size = fft.next_fast_len(sums, real=True)
    chances = fft.irfft(fft.rfft(shares, size) ** n, size)[:sums]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.searchsorted(np.cumsum(chances), [tail, 1 - tail])
    return Interval(float(least * n + low) / n, float(least * n + high) / n, "bootstrap")


def _least_share_of_all(n: int) -> float:
    from scipy.stats import binomtest  # noqa: PLC0415 - an extra, slow to import

    interval = binomtest(n, n).proportion_ci(confidence_level=CONFIDENCE, method="exact")
    return float(interval.low)


def mcnemar(one: int, other: int) -> float:
    """Return the p-value of McNemar's test (1947) in its exact form.

    Of the questions on which exactly one of two arms is right, one arm is right on `one`, the other on
    `other`. If the arms are equally good, each is as likely as the other: the two-sided binomial test.
    """
    from scipy.stats import binomtest  # noqa: PLC0415 - an extra, slow to import

    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, so that the chance of any false finding stays below the level.

    Holm (1979): the k-th smallest of m is multiplied by m - k + 1, and is not smaller than those before it.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    ordered = sorted(range(len(p_values)), key=p_values.__getitem__)
    for done, place in enumerate(ordered):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = least
    return adjusted


def needed_to_differ(tests: int, level: float) -> int:
    """Return on how many questions one arm has to be right and the other wrong, and on none the reverse.

    Fewer cannot be a difference at `level`, of as many tests: the smallest b with tests · 2 · 0.5^b < level.
    """
    needed = 1
    while tests * 2 * 0.5**needed >= level:
        needed += 1
    return needed
