"""Every worker metric follows the rules of Prometheus and of this project."""

import re
import shutil
import subprocess

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aragora_q.observability.worker_metrics import OUTCOMES, WorkerMetrics

FOREIGN = ("process_", "python_")
IDENTITIES = {"job", "job_id", "worker", "worker_id", "id", "pid", "host"}


@pytest.fixture
def text():
    """A scrape of a worker after each kind of event."""
    metrics = WorkerMetrics("debates")
    for outcome in OUTCOMES:
        metrics.attempts[outcome].inc()
    metrics.redis_errors("RedisUnreachable").inc()
    metrics.attempt_duration.observe(1.0)
    metrics.queue_latency.observe(0.1)
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
