"""Count the debates of an arm: what they came to, and what they took. Used by `comparison` and `evaluation`.

Pure: rows go in. docs/reference/cli-json.md describes the fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import fsum
from statistics import fmean, median

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from aragora_q.base import LIVE, JobStatus
from aragora_q.experiments.rows import Row
from aragora_q.money import USD_DIGITS


class ArmJson(TypedDict):
    """The debates of an arm, counted. `arm` is null for debates without one; numbers are null if not known."""

    arm: str | None
    debates: int
    completed: int
    failed: int
    cancelled: int
    live: int
    verdicts: int
    expected: int
    right: int
    consensus: int
    dissent: int
    agreement: float | None
    rounds: float | None
    cost_usd: float | None
    cost_usd_per_debate: float | None
    unpriced_calls: int
    calls: int
    taken_over: int
    tokens: int
    median_seconds: float | None


def arm_json(arm: str, rows: Sequence[Row]) -> ArmJson:
    """Return what the debates of an arm came to, and what they took."""
    statuses = Counter(row.status for row in rows)
    completed = [row for row in rows if row.status is JobStatus.COMPLETED]
    costs = _known(row.cost_usd for row in rows)
    seconds = _known(row.seconds for row in completed)
    return {
        "arm": arm or None,
        "debates": len(rows),
        "completed": statuses[JobStatus.COMPLETED],
        "failed": statuses[JobStatus.FAILED],
        "cancelled": statuses[JobStatus.CANCELLED],
        "live": sum(statuses[status] for status in LIVE),
        "verdicts": sum(row.verdict is not None for row in rows),
        "expected": sum(row.is_right is not None for row in rows),
        "right": sum(row.is_right is True for row in rows),
        "consensus": sum(row.is_consensus is True for row in rows),
        "dissent": sum(bool(row.dissent) for row in rows),
        "agreement": mean(row.agreement for row in rows),
        "rounds": mean(row.rounds for row in completed),
        "cost_usd": round(fsum(costs), USD_DIGITS) if costs else None,
        "cost_usd_per_debate": mean((row.full_cost_usd for row in rows), USD_DIGITS),
        "unpriced_calls": sum(row.unpriced_calls for row in rows),
        "calls": sum(row.calls for row in rows),
        "taken_over": sum(row.taken_over for row in rows),
        "tokens": sum(row.tokens for row in rows),
        "median_seconds": median(seconds) if seconds else None,
    }


def mean(values: Iterable[float | None], digits: int | None = None) -> float | None:
    """Return the mean of the values that are known, rounded to so many digits; None if none is known."""
    known = _known(values)
    if not known:
        return None
    return fmean(known) if digits is None else round(fmean(known), digits)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
