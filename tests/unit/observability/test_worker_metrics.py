"""Every worker metric follows the rules of Prometheus and of this project."""

import re
import shutil
import subprocess
from typing import get_args

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support.paid_calls import call

from aragora_q.context import NOT_BILLED, CallOutcome, Settlement
from aragora_q.observability.worker_metrics import MAX_MODELS, OUTCOMES, WorkerMetrics
from aragora_q.redis import scripts

FOREIGN = ("process_", "python_")
IDENTITIES = {"job", "job_id", "worker", "worker_id", "id", "pid", "host"}


GPT = {"provider": "openai", "model": "openai:gpt"}


def samples(metrics, name):
    """Values of a metric by its labels other than the queue, in alphabetical order of their names."""
    text = generate_latest(metrics.registry).decode()
    return {
        tuple(value for label, value in sorted(sample.labels.items()) if label != "queue"): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"aragora_q_{name}"
    }


@pytest.fixture
def text():
    """A scrape of a worker after each kind of event."""
    metrics = WorkerMetrics("debates")
    for outcome in OUTCOMES:
        metrics.attempts[outcome].inc()
    metrics.redis_errors("RedisUnreachable").inc()
    metrics.attempt_duration.observe(1.0)
    metrics.queue_latency.observe(0.1)
    metrics.calls.granted(call(**GPT), 0.1)
    for outcome in get_args(CallOutcome):
        metrics.calls.settled(call(is_fallback=True, **GPT), Settlement(outcome, cost_usd=0.1))
    return generate_latest(metrics.registry).decode()


def test_names_follow_the_rules(text):
    """Prefix, `_total` for counters, base units, no identity as a label, a help text for each."""
    families = [
        family
        for family in text_string_to_metric_families(text)
        if not family.name.startswith(FOREIGN)
    ]
    assert len(families) > 8
    for family in families:
        assert re.fullmatch(r"aragora_q_[a-z_]+", family.name)
        assert not re.search(r"_(ms|millis|milliseconds|minutes|kb|mb)(_|$)", family.name)
        assert family.documentation.endswith(".")
        labels = {label for sample in family.samples for label in sample.labels}
        assert not labels & IDENTITIES
        if family.type == "counter":
            names = {sample.name for sample in family.samples}
            assert any(name.endswith("_total") for name in names)


def test_every_outcome_exists_from_the_start():
    """A counter that appears only with its first failure cannot be used in alerts."""
    text = generate_latest(WorkerMetrics("debates").registry).decode()
    for outcome in OUTCOMES:
        assert re.search(
            rf'^aragora_q_attempts_total{{outcome="{outcome}",queue="debates"}} 0.0$',
            text,
            re.MULTILINE,
        )


def test_longest_bucket_is_an_hour(text):
    """Debates take minutes: durations of up to an hour are distinguished."""
    for name in ("attempt_duration", "queue_latency"):
        bounds = re.findall(rf'aragora_q_{name}_seconds_bucket{{le="([0-9.]+)"', text)
        assert float(bounds[-1]) == 3600.0


def test_promtool_accepts_them(text):
    """The scrape as a whole passes `promtool check metrics`."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    ours = [line for line in checked.stderr.splitlines() if not line.startswith(FOREIGN)]
    assert not ours


def test_calls_are_counted_as_they_are_booked():
    """Prices, tokens and outcomes; an unknown price is the reserved one, or counted as unpriced; never 0."""
    metrics = WorkerMetrics("debates")
    metrics.calls.settled(call(**GPT), Settlement("ok", 100, 20, 10, 0.25))
    metrics.calls.settled(call(**GPT), Settlement("timeout"))
    metrics.calls.settled(call(**GPT), Settlement("rate_limited"))
    metrics.calls.settled(call(**GPT), Settlement("not_sent"))
    metrics.calls.settled(
        call(provider="openai", model="x:y", max_cost_usd=None), Settlement("timeout")
    )
    gpt, other = ("openai:gpt", "openai"), ("x:y", "openai")
    assert samples(metrics, "spend_usd_total") == {gpt: 1.25}
    assert samples(metrics, "unpriced_calls_total") == {other: 1}
    assert samples(metrics, "calls_total") == {
        ("openai:gpt", outcome, "openai"): 1 for outcome in ("ok", "timeout", "rate_limited")
    } | {("x:y", "timeout", "openai"): 1}
    assert samples(metrics, "tokens_total")["cached", "openai:gpt", "openai"] == 10
    assert samples(metrics, "tokens_total")["input", "openai:gpt", "openai"] == 100


def test_calls_of_fallbacks_are_counted_by_agent():
    """Those that were sent."""
    metrics = WorkerMetrics("debates")
    metrics.calls.settled(call(agent="claude", is_fallback=True), Settlement("ok", 1, 1, 0, 0.1))
    metrics.calls.settled(call(agent="claude", is_fallback=True), Settlement("not_sent"))
    metrics.calls.settled(call(agent="gpt"), Settlement("ok", 1, 1, 0, 0.1))
    assert samples(metrics, "fallback_calls_total") == {("claude",): 1}


def test_money_exists_before_the_first_call_is_booked():
    """An alert on an increase notices the first call without a price."""
    metrics = WorkerMetrics("debates")
    metrics.calls.granted(call(**GPT), 0.0)
    assert samples(metrics, "unpriced_calls_total") == {("openai:gpt", "openai"): 0}
    assert samples(metrics, "spend_usd_total") == {("openai:gpt", "openai"): 0}


def test_models_that_jobs_name_do_not_grow_the_scrape_without_end():
    """After MAX_MODELS pairs of provider and model, others are one; known ones go on."""
    metrics = WorkerMetrics("debates")
    for number in range(MAX_MODELS + 50):
        metrics.calls.settled(call(model=f"m{number}"), Settlement("ok", cost_usd=1.0))
    metrics.calls.settled(call(model="m0"), Settlement("ok", cost_usd=1.0))
    spent = samples(metrics, "spend_usd_total")
    assert len(spent) == MAX_MODELS + 1
    assert (spent["other", "other"], spent["m0", "anthropic"]) == (50, 2)


def test_scripts_and_metrics_agree_on_what_is_not_billed():
    """Both count the same outcomes as free of charge."""
    [table] = re.findall(
        r"^local NOT_BILLED = \{(.*?)\}$", scripts.body("gate_settle"), re.MULTILINE | re.DOTALL
    )
    assert set(re.findall(r"(\w+) = true", table)) == NOT_BILLED
