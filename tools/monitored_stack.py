"""A queue that Prometheus watches, whole and private: server, workers, exporter, Prometheus.

`dashboard.py` draws what the dashboard shows of it; a test asks it all that dashboard, rules and
autoscaling ask. Here alone panels are read and their queries filled in as Grafana does.
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

from aragora_q.bench.stand import Stand, find_server, free_port

TREE = Path(__file__).parents[1]
RULES = TREE / "deploy/prometheus"
DASHBOARD: dict[str, Any] = json.loads((TREE / "deploy/grafana/aragora-q.json").read_text())
QUEUE = "debates"
MEMORY_LIMIT = "64mb"
SCRAPE_SECONDS = 1
RATE_SECONDS = 4 * SCRAPE_SECONDS
"""What Grafana makes of $__rate_interval, where points are as close as scrapes."""
START_SECONDS = 60.0
STOP_SECONDS = 30.0

Series = tuple[str, dict[float, float]]
"""A legend, and values by Unix time."""


def filled_in(query: str) -> str:
    """A panel's query as Grafana sends it. Raises ValueError if it has a variable that is not known."""
    query = query.replace("$__rate_interval", f"{RATE_SECONDS}s").replace("$queue", QUEUE)
    if "$" in query:
        raise ValueError(f"a variable is left in {query}")
    return query


def legend(target: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """A series' name: `{{label}}` in the target's format is the label's value."""
    return re.sub(r"{{(\w+)}}", lambda found: labels[found[1]], target["legendFormat"])


class Prometheus:
    """A running Prometheus, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _ask(self, path: str, **parameters: object) -> list[Any]:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - loopback
            found: list[Any] = json.load(reply)["data"]["result"]
        return found

    def now(self, query: str) -> list[Any]:
        """What an instant query finds; nothing until Prometheus is up."""
        try:
            return self._ask("query", query=query)
        except OSError:
            return []

    def panel(self, panel: Mapping[str, Any], start: float, end: float) -> list[Series]:
        """Every series that a panel shows between two Unix times; no value is NaN."""
        return [
            (
                legend(target, row["metric"]),
                {at: float(text) for at, text in row["values"] if math.isfinite(float(text))},
            )
            for target in panel["targets"]
            for row in self._ask(
                "query_range",
                query=filled_in(target["expr"]), start=start, end=end, step=SCRAPE_SECONDS,
            )
        ]  # fmt: skip


class Watched:
    """The running whole. Workers are `worker-1`, `worker-2`, … to Prometheus."""

    def __init__(self, worker_options: tuple[str, ...], workers: int, lease_ms: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="aragora-q-watched-"))
        self._stand = Stand(find_server())
        self._stand.client.config_set("maxmemory", MEMORY_LIMIT)
        self._processes: list[subprocess.Popen[bytes]] = []
        own = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}
        self._environment = {
            **{name: value for name, value in own.items() if not name.startswith("ARAGORA_")},
            "REDIS_URL": self._stand.url,
            "ARAGORA_QUEUE_CLAIM_IDLE_MS": str(lease_ms),
            "HOME": str(self.directory),
            "PYTHONPATH": str(TREE),
        }
        self.redis_url = self._stand.url
        exporter, prometheus, *ports = (free_port() for _ in range(workers + 2))
        self.exporter_url = f"http://127.0.0.1:{exporter}"
        self.worker_urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.prometheus = Prometheus(f"http://127.0.0.1:{prometheus}")
        self._spawn(*self._cli("exporter", "--listen", f"127.0.0.1:{exporter}"))
        self.workers = [
            self._spawn(*self._cli("worker", *worker_options, "--metrics-port", port))
            for port in ports
        ]
        self._start_prometheus(prometheus, exporter, ports)

    def _cli(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "aragora_q", *map(str, words)]

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self._environment, cwd=self.directory, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    def _start_prometheus(self, port: int, exporter: int, workers: list[int]) -> None:
        """With the configuration that we ship, but for ports and pace."""
        configuration = yaml.safe_load((RULES / "prometheus.yml").read_text())
        pace = f"{SCRAPE_SECONDS}s"
        configuration["global"] = {"scrape_interval": pace, "evaluation_interval": pace}
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

    def call(self, *words: str) -> None:
        """Run a command of ours to its end. Raises CalledProcessError if it fails."""
        subprocess.run(
            self._cli(*words), env=self._environment, cwd=self.directory, check=True,
            capture_output=True,
        )  # fmt: skip

    def is_scraped(self) -> bool:
        """Whether Prometheus has heard of everybody."""
        return len(self.prometheus.now("up == 1")) == 1 + len(self.workers)

    def close(self) -> None:
        """End every process and forget all data."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(STOP_SECONDS)
        self._stand.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def watched(*worker_options: str, workers: int = 1, lease_ms: int = 60_000) -> Iterator[Watched]:
    """Starts the whole and waits for the first scrapes. Raises TimeoutError if they do not come."""
    whole = Watched(worker_options, workers, lease_ms)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not whole.is_scraped():
            if time.monotonic() > deadline:
                raise TimeoutError((whole.directory / "log").read_text()[-2000:])
            time.sleep(0.1)
        yield whole
    finally:
        whole.close()
