"""Rules, alerts and dashboard, against promtool and against a real Prometheus that scrapes a real
worker and exporter.
"""

import asyncio
import re
import shutil
import subprocess
import time
import urllib.request

import pytest
import yaml
from support import paid_jobs
from support.certificates import Certificates
from support.monitored_stack import DASHBOARD, RULES, monitored_stack
from support.paths import ROOT
from support.servers import Unavailable
from support.wait import wait_until_sync

ALERTS = [
    rule
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SCALING = yaml.safe_load((ROOT / "deploy/kubernetes/keda/scaledobject.yaml").read_text())["spec"]

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus"
    ),
]


def promtool(*arguments, **options):
    return subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, cwd=RULES, **options
    )


@pytest.mark.parametrize(
    "check", [("check", "config", "prometheus.yml"), ("test", "rules", "tests.yml")]
)
def test_promtool_is_content(check):
    """Configuration and rules are valid, and every unit test of an alert passes."""
    done = promtool(*check)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alert_is_complete(alert):
    """Each alert has a severity, a runbook that exists, a firing and a silent case."""
    assert alert["labels"]["severity"] in {"warning", "critical"}
    runbook = ROOT / alert["annotations"]["runbook_url"]
    assert runbook.read_text().startswith(f"# {alert['alert']}\n")
    cases = yaml.safe_load((RULES / "tests.yml").read_text())["tests"]
    names = {case["name"]: case["promql_expr_test"][0]["exp_samples"] for case in cases}
    assert names[f"{alert['alert']} fires"]
    assert names[f"{alert['alert']} is silent"] == []


def ask(url):
    with urllib.request.urlopen(url, timeout=60) as reply:
        return reply.read().decode()


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    """The target of a webhook."""
    receivers = pytest.importorskip("support.receivers", reason="requirements/dev.txt is not there")
    try:
        certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    except Unavailable as reason:
        pytest.skip(str(reason))
    with receivers.receiving(certificates) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def whole(receiver, tmp_path_factory):
    """Prometheus, a worker and an exporter; there is a schedule, a few jobs have run, and one is reported."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    secret = tmp_path_factory.mktemp("secrets") / "ops"
    secret.write_text(receiver.secret)
    settings = f"""
        [webhooks.ops]
        url = "{receiver.url}"
        secret_file = "{secret}"
        ca_file = "{receiver.certificates["ca.crt"]}"
        allow_networks = ["127.0.0.0/8"]
        [schedules.daily]
        cron = "0 6 * * *"
        job = {{payload = {{n = 1}}}}
    """
    with monitored_stack("--executor", "support.paid_jobs:executor", settings=settings) as running:
        running.call("reap", "--quiet")
        running.call("purge", "--quiet")
        asyncio.run(paid_jobs.run(running))
        running.call(
            "enqueue",
            "What?",
            "--agents",
            "demo:bold,demo:careful",
            "--notify",
            "ops",
            "--wait",
            "--quiet",
        )
        yield running


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_panel_has_data(whole, panel):
    """Every query of a panel returns numbers from a real worker and exporter, and each has its legend."""

    def is_full():
        end = time.time()
        answers = [
            whole.prometheus.panel({"targets": [target]}, end - 60, end)
            for target in panel["targets"]
        ]
        return all(any(points for _, points in series) for series in answers) and answers

    for series in wait_until_sync(is_full, 60, panel["title"]):
        assert all(name and "{" not in name for name, _ in series)


@pytest.mark.parametrize("trigger", SCALING["triggers"], ids=lambda trigger: trigger["type"])
def test_autoscaling_has_data(whole, trigger):
    """What Kubernetes scales by is a number that the exporter really serves."""
    assert wait_until_sync(lambda: whole.prometheus.now(trigger["metadata"]["query"]), 60, "data")


def test_healthy_system_is_silent(whole):
    """No alert fires where all is well, except that this server keeps no append-only file."""

    def is_silent():
        pending = whole.prometheus.now("ALERTS")
        return {row["metric"]["alertname"] for row in pending} <= {"AragoraQNoAppendOnlyFile"}

    wait_until_sync(lambda: whole.is_scraped() and is_silent(), 60, "scrapes in time, and silence")


def test_alerts_name_real_metrics(whole):
    """Every metric that a rule or alert names is one that worker or exporter really serve."""
    served = "".join(ask(f"{url}/metrics") for url in (whole.exporter_url, *whole.worker_urls))
    names = set(re.findall(r"^(aragora_q_\w+)", served, re.MULTILINE))
    text = (RULES / "alerts.yml").read_text() + (RULES / "rules.yml").read_text()
    named = set(re.findall(r"(?<![:\w])aragora_q_\w+", text))
    assert named <= names


@pytest.mark.parametrize("source", ["worker", "exporter"])
def test_metrics_follow_the_rules(whole, source):
    """promtool finds no fault in what is served."""
    url = whole.exporter_url if source == "exporter" else whole.worker_urls[0]
    done = promtool("check", "metrics", input=ask(f"{url}/metrics"))
    assert (done.returncode, done.stderr) == (0, "")
