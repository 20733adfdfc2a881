"""A private server, workers, an exporter and a Prometheus that scrapes them.

Tests run every query of the dashboard, of the rules and of autoscaling on it. Only this module expands
Grafana's variables in queries.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from support.paths import ROOT, TESTS
from support.servers import free_port

from aragora_q.bench import Testbed, find_server

RULES = ROOT / "deploy/prometheus"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/aragora-q.json").read_text())
QUEUE = "debates"
MEMORY_LIMIT = "64mb"
SCRAPE_SECONDS = 1
RATE_SECONDS = 4 * SCRAPE_SECONDS
"""Value of Grafana's $__rate_interval for this scrape interval."""
START_SECONDS = 60.0
STOP_SECONDS = 30.0

Series = tuple[str, dict[float, float]]
"""A legend, and values by Unix time in seconds."""


def expand(query: str) -> str:
    """Return a panel's query as Grafana sends it. Raises ValueError for an unknown variable."""
    query = query.replace("$__rate_interval", f"{RATE_SECONDS}s").replace("$queue", QUEUE)
    if "$" in query:
        raise ValueError(f"unknown variable in {query}")
    return query


def legend(target: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Return a series' name: the target's format with `{{label}}` replaced by the label's value."""
    return re.sub(r"{{(\w+)}}", lambda match: labels[match[1]], target["legendFormat"])


class Prometheus:
    """HTTP client of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _get(self, path: str, **parameters: object) -> list[Any]:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=60) as reply:
            result: list[Any] = json.load(reply)["data"]["result"]
        return result

    def now(self, query: str) -> list[Any]:
        """Return the result of an instant query; an empty list until Prometheus is up."""
        try:
            return self._get("query", query=query)
        except OSError:
            return []

    def panel(self, panel: Mapping[str, Any], start: float, end: float) -> list[Series]:
        """Return every series of a panel between two Unix times, without NaN."""
        return [
            (
                legend(target, row["metric"]),
                {at: float(text) for at, text in row["values"] if math.isfinite(float(text))},
            )
            for target in panel["targets"]
            for row in self._get(
                "query_range",
                query=expand(target["expr"]), start=start, end=end, step=SCRAPE_SECONDS,
            )
        ]  # fmt: skip


class MonitoredStack:
    """All processes. In Prometheus, the instances of the workers are `worker-1`, `worker-2` and so on.

    `settings` is the file of settings that workers and commands read; the exporter has none.
    """

    def __init__(
        self, worker_options: tuple[str, ...], workers: int, lease_ms: int, settings: str
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="aragora-q-monitored-"))
        self._testbed = Testbed(find_server())
        self._testbed.client.config_set("maxmemory", MEMORY_LIMIT)
        self._processes: list[subprocess.Popen[bytes]] = []
        own = ("REDIS_", "ARAGORA_")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(own)},
            "REDIS_URL": self._testbed.url,
            "ARAGORA_QUEUE_CLAIM_IDLE_MS": str(lease_ms),
            "HOME": str(self.directory),
            "PYTHONPATH": f"{ROOT}:{TESTS}",
        }
        self.redis_url = self._testbed.url
        exporter, prometheus, *ports = (free_port() for _ in range(workers + 2))
        self.exporter_url = f"http://127.0.0.1:{exporter}"
        self.worker_urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.prometheus = Prometheus(f"http://127.0.0.1:{prometheus}")
        self._spawn(*self._cli("exporter", "--listen", f"127.0.0.1:{exporter}"), cwd="/")
        (self.directory / "aragora-q.toml").write_text(settings)
        self.workers = [
            self._spawn(*self._cli("worker", *worker_options, "--metrics-port", port))
            for port in ports
        ]
        self._start_prometheus(prometheus, exporter, ports)

    def _cli(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "aragora_q", *map(str, arguments)]

    def _spawn(self, *command: str, cwd: str | None = None) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self._environment, cwd=cwd or self.directory, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    def _start_prometheus(self, port: int, exporter: int, workers: list[int]) -> None:
        """Use the packaged configuration with other ports and intervals."""
        configuration = yaml.safe_load((RULES / "prometheus.yml").read_text())
        interval = f"{SCRAPE_SECONDS}s"
        configuration["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
        configuration["rule_files"] = [str(RULES / name) for name in configuration["rule_files"]]
        queue_job, worker_job = configuration["scrape_configs"]
        queue_job["static_configs"] = [{"targets": [f"127.0.0.1:{exporter}"]}]
        worker_job["static_configs"] = [
            {"targets": [f"127.0.0.1:{worker}"], "labels": {"instance": f"worker-{number}"}}
            for number, worker in enumerate(workers, 1)
        ]
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self._spawn(
            "prometheus", f"--config.file={self.directory}/prometheus.yml",
            f"--storage.tsdb.path={self.directory}/data", f"--web.listen-address=127.0.0.1:{port}",
        )  # fmt: skip

    def call(self, *arguments: str) -> None:
        """Run an aragora-q command to its end. Raises CalledProcessError if it fails."""
        subprocess.run(
            self._cli(*arguments), env=self._environment, cwd=self.directory, check=True,
            capture_output=True,
        )  # fmt: skip

    def is_scraped(self) -> bool:
        """Return True when Prometheus has scraped the exporter and every worker."""
        return len(self.prometheus.now("up == 1")) == 1 + len(self.workers)

    def close(self) -> None:
        """Stop every process and delete all data."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(STOP_SECONDS)
        self._testbed.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def monitored_stack(
    *worker_options: str, workers: int = 1, lease_ms: int = 60_000, settings: str = ""
) -> Iterator[MonitoredStack]:
    """Start the stack and wait for the first scrapes. Raises TimeoutError if they do not succeed."""
    stack = MonitoredStack(worker_options, workers, lease_ms, settings)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not stack.is_scraped():
            if time.monotonic() > deadline:
                raise TimeoutError((stack.directory / "log").read_text()[-2000:])
            time.sleep(0.1)
        yield stack
    finally:
        stack.close()
