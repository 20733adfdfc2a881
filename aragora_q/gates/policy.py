"""What a configuration says of budgets, providers and prices, as scripts and other workers read it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from aragora_q import codec
from aragora_q.base import MAX_HOLD_BY_BYTES, Job
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import BudgetConfig
from aragora_q.errors import InvalidPayload
from aragora_q.formats import dollars
from aragora_q.money import limit_micros


def holder_name(ref: str) -> str:
    """Return the name of a budget and its value as a job that it holds keeps it: a long one ends in a hash."""
    data = ref.encode()
    if len(data) <= MAX_HOLD_BY_BYTES:
        return ref
    digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:8]
    room = MAX_HOLD_BY_BYTES - len(f"~{digest}")
    return f"{data[:room].decode(errors='ignore')}~{digest}"


def budget_rule(budget: BudgetConfig) -> dict[str, Any]:
    """Return a budget as scripts read it."""
    kind, _, value = budget.scope.partition(":")
    return {
        "kind": kind,
        "value": value,
        "window": budget.window,
        "limit": limit_micros(budget.limit_usd),
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
        "prices": hashlib.sha256(codec.encode(named)).hexdigest()[:8] if named else "",
    })  # fmt: skip


class Need(NamedTuple):
    """What calls of one agent cost at least."""

    agent: str
    provider: str
    usd: float


def check_floor(config: QueueConfig, job: Job, needs: Sequence[Need]) -> None:
    """Check that a job can be done within each window of the budgets of `config` that apply to it.

    Raises:
        InvalidPayload: it needs more than the limit of one that holds or fails.
    """
    of_job = {"all": "all", "queue": config.queue, "tenant": job.tenant, "group": job.group}
    for name, budget in sorted(config.budgets.items()):
        if budget.on_full == "warn":
            continue
        kind, _, value = budget.scope.partition(":")
        sums: dict[str | None, float] = {}
        for need in needs:
            counts_for = {**of_job, "provider": need.provider, "agent": need.agent}[kind]
            sums[counts_for] = sums.get(counts_for, 0.0) + need.usd
        for counts_for, usd in sums.items():
            applies = counts_for is not None and value in ("", counts_for)
            if applies and usd > budget.limit_usd:
                raise InvalidPayload(
                    f"job {job.id}: needs at least {dollars(usd)}, more than budgets.{name}.limit_usd, "
                    f"{dollars(budget.limit_usd)} (scope {budget.scope})",
                    hint="ask fewer agents or cheaper ones, or raise the budget",
                )
