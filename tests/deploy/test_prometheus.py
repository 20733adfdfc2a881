"""Rules, alerts and dashboard, against promtool and against a real Prometheus that scrapes a real
worker and exporter.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import servers
import yaml
from waiting import wait_until_sync

TREE = Path(__file__).parents[2]
RULES = TREE / "deploy/prometheus"
DASHBOARD = json.loads((TREE / "deploy/grafana/aragora-q.json").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SCALING = yaml.safe_load((TREE / "deploy/kubernetes/keda/scaledobject.yaml").read_text())["spec"]
QUERIES = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *(trigger["metadata"]["query"] for trigger in SCALING["triggers"]),
]

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
    runbook = TREE / alert["annotations"]["runbook_url"]
    assert runbook.read_text().startswith(f"# {alert['alert']}\n")
    cases = yaml.safe_load((RULES / "tests.yml").read_text())["tests"]
    names = {case["name"]: case["promql_expr_test"][0]["exp_samples"] for case in cases}
    assert names[f"{alert['alert']} fires"]
    assert names[f"{alert['alert']} is silent"] == []


def ask(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return reply.read().decode()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """URLs of a Prometheus, a worker and an exporter; a few jobs have run, one has failed."""
    directory = tmp_path_factory.mktemp("prometheus")
    started = []
    try:
        redis = servers.Server(servers.debian_redis(), "--maxmemory", "100mb").start()
    except servers.Unavailable as reason:
        pytest.skip(str(reason))
    worker, exporter, prometheus = (servers.free_port() for _ in range(3))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("REDIS_", "ARAGORA_"))},
        "REDIS_URL": redis.url,
        "HOME": str(directory),
    }
    log = (directory / "log").open("ab")

    def spawn(*command):
        started.append(
            subprocess.Popen(command, env=environment, cwd=directory, stdout=log, stderr=log)
        )

    def cli(*words):
        return [sys.executable, "-m", "aragora_q", *words]

    def call(*words):
        subprocess.run(cli(*words), env=environment, cwd=directory, check=True, capture_output=True)

    configuration = yaml.safe_load((RULES / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(RULES / name) for name in configuration["rule_files"]]
    for job, port in zip(configuration["scrape_configs"], (exporter, worker), strict=True):
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    try:
        spawn(*cli("worker", "--exec", "cat", "--metrics-port", str(worker)))
        spawn(*cli("exporter", "--listen", f"127.0.0.1:{exporter}"))
        spawn(
            "prometheus", f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{prometheus}",
        )  # fmt: skip
        call("reap", "--quiet")
        call("purge", "--quiet")
        url = f"http://127.0.0.1:{prometheus}"
        wait_until_sync(lambda: value(url, 'up{job="aragora-q-workers"} == 1'), 60, "a scrape")
        for question in ("One?", "Two?", "Three?"):
            call(
                "enqueue",
                question,
                "--agents",
                "demo:bold,demo:careful",
                "--wait",
                "--timeout",
                "30",
            )
        yield url, f"http://127.0.0.1:{worker}", f"http://127.0.0.1:{exporter}"
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(30)
        redis.stop()
        log.close()


def value(url, query):
    """What Prometheus answers to a query; empty until it is up."""
    try:
        reply = ask(f"{url}/api/v1/query?query={urllib.parse.quote(query)}")
    except OSError:
        return []
    return json.loads(reply)["data"]["result"]


@pytest.mark.parametrize("query", QUERIES)
def test_panel_has_data(scraped, query):
    """Every query of dashboard and autoscaling returns numbers from a real worker and exporter."""
    query = query.replace("$__rate_interval", "1m").replace("$queue", "debates")
    found = wait_until_sync(lambda: value(scraped[0], query), 30, query)
    wait_until_sync(
        lambda: any(row["value"][1] != "NaN" for row in value(scraped[0], query)), 30, query
    )
    assert found


def test_healthy_system_is_silent(scraped):
    """No alert fires where all is well, except that this server keeps no append-only file."""
    pending = value(scraped[0], "ALERTS")
    assert {row["metric"]["alertname"] for row in pending} <= {"AragoraQNoAppendOnlyFile"}


def test_alerts_name_real_metrics(scraped):
    """Every metric that a rule or alert names is one that worker or exporter really serve."""
    served = ask(f"{scraped[1]}/metrics") + ask(f"{scraped[2]}/metrics")
    names = set(re.findall(r"^(aragora_q_\w+)", served, re.MULTILINE))
    text = (RULES / "alerts.yml").read_text() + (RULES / "rules.yml").read_text()
    named = set(re.findall(r"(?<![:\w])aragora_q_\w+", text))
    assert named <= names


@pytest.mark.parametrize("source", [1, 2], ids=["worker", "exporter"])
def test_metrics_follow_the_rules(scraped, source):
    """promtool finds no fault in what is served."""
    done = promtool("check", "metrics", input=ask(f"{scraped[source]}/metrics"))
    assert (done.returncode, done.stderr) == (0, "")
