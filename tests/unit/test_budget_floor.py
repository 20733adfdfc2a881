"""A job that no window of a configured budget has room for is refused before it is enqueued."""

import pytest

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import InvalidPayload
from aragora_q.gates.policy import Need, check_floor

NEEDS = [
    Need("claude", "anthropic", 0.5),
    Need("gpt", "openai", 0.25),
    Need("claude", "anthropic", 0.5),
]


def _check(needs=NEEDS, **budget):
    config = QueueConfig(budgets={"b": {"window": "day", **budget}})
    check_floor(config, Job({}, id="j", tenant="acme"), needs)


@pytest.mark.parametrize(
    ("scope", "limit_usd"),
    [
        ("all", 1.25),
        ("queue", 1.25),
        ("queue:debates", 1.25),
        ("tenant", 1.25),
        ("tenant:acme", 1.25),
        ("provider", 1.0),
        ("provider:openai", 0.25),
        ("agent", 1.0),
        ("agent:gpt", 0.25),
        ("tenant:other", 0.01),
        ("queue:other", 0.01),
        ("group", 0.01),
        ("provider:local", 0.01),
    ],
)
def test_what_counts_must_fit_the_limit(scope, limit_usd):
    """The calls in the budget's scope, to the cent; a budget that does not apply refuses nothing."""
    _check(scope=scope, limit_usd=limit_usd)
    if limit_usd == 0.01:
        return
    with pytest.raises(InvalidPayload) as refused:
        _check(scope=scope, limit_usd=limit_usd - 0.01)
    assert refused.value.exit_code == 65
    assert f"(scope {scope})" in str(refused.value)
    assert "more than budgets.b.limit_usd" in str(refused.value)
    _check(scope=scope, limit_usd=limit_usd - 0.01, on_full="warn")
    with pytest.raises(InvalidPayload):
        _check(scope=scope, limit_usd=limit_usd - 0.01, on_full="fail")


def test_a_job_without_known_needs_is_not_refused():
    """One whose prices are unknown, or that is not a debate."""
    _check(needs=[], limit_usd=0.01)
