"""What a configuration says of budgets, providers and prices, as scripts and other workers read it."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from aragora_q import codec
from aragora_q.config.settings import BudgetConfig, QueueConfig

MICROS = 1_000_000


def micro_usd(usd: float | None) -> int | None:
    """Return US dollars as whole micro-dollars, rounded up; None stays None."""
    return None if usd is None else math.ceil(round(usd * MICROS, 3))


def budget_rule(budget: BudgetConfig) -> dict[str, Any]:
    """Return a budget as scripts read it."""
    kind, _, value = budget.scope.partition(":")
    return {
        "kind": kind,
        "value": value,
        "window": budget.window,
        "limit": math.floor(round(budget.limit_usd * MICROS, 3)),
        "on_full": budget.on_full,
    }


def declaration(config: QueueConfig) -> bytes:
    """Return what a worker declares; empty if its configuration says nothing of money and providers."""
    prices = getattr(config, "prices", {})
    if not (config.budgets or config.providers or prices):
        return b""
    named = {name: price.model_dump(mode="json") for name, price in sorted(prices.items())}
    return codec.encode({
        "budgets": {name: budget_rule(each) for name, each in sorted(config.budgets.items())},
        "providers": {
            name: each.model_dump(mode="json", exclude_none=True)
            for name, each in sorted(config.providers.items())
        },
        "prices": hashlib.sha256(codec.encode(named)).hexdigest()[:8],
    })  # fmt: skip
