"""US dollars as whole micro-dollars, in which Redis and all limits count, and what spending is counted by."""

from __future__ import annotations

import math

MICROS = 1_000_000
"""Micro-dollars of a US dollar."""

USD_DIGITS = 9
"""Decimals of US dollars in results and quotes: one token may cost 1e-8."""

_ERROR_MICROS = 0.0005
_ERROR_SHARE = 1e-15
"""What an amount may differ from a whole number of micro-dollars by the error of a float; the larger counts."""

LITTLE_SHARE = 0.1
"""Part of a budget that is little: while no more is used, it takes a job whatever that is expected to cost.
Small jobs that always come must not keep a large one out of each window.
"""

ROW_NAMES = ("queue", "tenant", "group", "agent", "provider", "model")
"""What a row of spending names, in the order of `gates.lua`."""

SPENT_BY = ("day", *ROW_NAMES)
"""What spending can be shown by."""

SPENT_DAYS = 7
"""Days of spending that are shown if none are named."""


def cost_micros(usd: float) -> int:
    """Return what something costs, in micro-dollars, rounded up."""
    return math.ceil(_micros(usd))


def limit_micros(usd: float) -> int:
    """Return what something may cost, in micro-dollars, rounded down."""
    return math.floor(_micros(usd))


def _micros(usd: float) -> float:
    micros = usd * MICROS
    whole = round(micros)
    is_whole = math.isclose(micros, whole, rel_tol=_ERROR_SHARE, abs_tol=_ERROR_MICROS)
    return whole if is_whole else micros
