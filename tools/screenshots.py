"""Take pictures of every page of the console, in light and dark; `--docs` writes those of the documentation.

The queue has a busy afternoon: debates of demo agents, which real workers run on an embedded server, at made-up
prices. The samples of the two hours before are made up, too: the charts would be empty otherwise. For
`make screenshots`. Needs Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from aragora_q import create_default_executor
from aragora_q.bench import free_port
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Executor
from aragora_q.executors.debate import demo
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import DURATION_BOUNDS, SAMPLED_COUNTERS
from aragora_q.samples import GAUGES

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, HEIGHT = 1280, 860
QUALITY = 80
START_SECONDS, RUN_SECONDS = 60.0, 180.0
SMALL = 150
"""Small debates that have ended."""

UNDER_WAY = (
    "Should the queue keep finished debates for a month or for a year?",
    "Should we shard the search index by tenant?",
    "Is one region enough for the next year?",
)

CONFIGURATION = """\
default_agents = ["optimist", "skeptic", "analyst"]
[agents]
optimist = { model = "demo:bold" }
skeptic = { model = "demo:careful" }
analyst = { model = "demo:curious" }
[prices]
optimist = { input_usd_per_million = 10, output_usd_per_million = 50 }
skeptic = { input_usd_per_million = 10, output_usd_per_million = 50 }
analyst = { input_usd_per_million = 18, output_usd_per_million = 90 }
[budgets.month]
limit_usd = 40
window = "month"
[budgets.tenants]
limit_usd = 8
window = "day"
scope = "tenant"
[schedules.week]
cron = "30 6 * * MON"
time_zone = "Europe/Berlin"
job = { question = "What should we do differently after last week?", rounds = 1 }
"""

QUESTIONS = (
    ("Should we move the billing service to Postgres 18 before the holidays?", "architecture", "acme"),
    ("Is it worth rewriting the importer in Rust?", "architecture", "acme"),
    ("Should support answer on weekends?", "policy", "globex"),
    ("Is the outage of November 12 understood well enough to close it?", "postmortems", "acme"),
    ("Should a small team start with microservices or with a monolith?", "architecture", "initech"),
    ("May the release go out although two tests are flaky?", "releases", "acme"),
    ("Should we require two reviews for changes of the schema?", "policy", "acme"),
    ("Is a four-day on-call rotation better than a week?", "policy", "globex"),
    ("Should the public API drop version 1 in March?", "releases", "initech"),
    ("Is caching at the edge worth its cost for the search page?", "architecture", "globex"),
    ("Should incident reviews be open to the whole company?", "postmortems", "initech"),
    ("Can the nightly job be replaced by a stream?", "architecture", "acme"),
)  # fmt: skip

PAGES = {
    "overview": "/", "jobs": "/jobs", "filtered": "/jobs?status=completed&group=architecture",
    "debate": "/jobs/monolith", "running": "/jobs/running-0", "failed-job": "/jobs/no-schema",
    "held-job": "/jobs/costly", "groups": "/groups", "group": "/groups/architecture", "workers": "/workers",
    "experiment": "/groups/primes", "table": "/groups/primes/table", "compare": "/groups/primes/compare",
    "evaluation": "/groups/primes/eval", "money": "/money?by=agent", "failed": "/failed", "held": "/held",
    "schedules": "/schedules", "schedule": "/schedules/week", "webhooks": "/webhooks",
    "new": "/new", "login": "/login", "missing": "/jobs/none",
}  # fmt: skip

PICTURES = (
    ("overview", "light", 960, "console-overview"),
    ("debate", "light", 905, "console-debate"),
    ("running", "dark", 900, "console-running"),
    ("evaluation", "light", 808, "console-evaluation"),
)
"""Those of the documentation: page, theme, height in pixels, name of the file."""


ODD = range(71, 151, 2)
ARMS = (
    "one agents=optimist",
    "vote agents=optimist,skeptic,analyst debate=never",
    "debate rounds=2",
)
"""An experiment: which of these numbers are prime is asked in three ways."""


async def slow_agents() -> Executor:
    """Return the executor of debates whose agents think for seconds: they run while pictures are taken."""
    demo.PAUSE_SECONDS = 2.5
    return await create_default_executor()


class Stack:
    """A console and workers on an embedded server of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        hidden = ("REDIS_", "ARAGORA_", "XDG_")
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(hidden)},
            "HOME": str(directory),
            "REDIS_URL": "embedded://",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "ARAGORA_QUEUE_WEB_TOKENS_FILE": str(directory / "tokens"),
            "ARAGORA_QUEUE_WEB_LISTEN": self.address,
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def call(self, *words: str, stdin: str = "") -> str:
        """Run a command to its end; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "aragora_q", *words], env=self._environment, cwd=self.directory,
            input=stdin, capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{' '.join(words)} failed: {done.stderr}")
        return done.stdout

    def start(self, *words: str) -> None:
        """Start a process that ends with the stack."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "aragora_q", *words], env=self._environment, cwd=self.directory,
                stdout=log, stderr=log,
            )  # fmt: skip
        self._processes.append(process)

    def wait_for_console(self) -> None:
        """Wait until the console serves pages."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://{self.address}/healthz", timeout=5).close()
            except urllib.error.HTTPError:
                time.sleep(0.2)  # Redis does not answer yet
            except OSError:
                time.sleep(0.2)
            else:
                return
        sys.exit(f"the console does not start: {(self.directory / 'log').read_text()[-2000:]}")

    def close(self) -> None:
        """Kill all processes, and wait for the end of the embedded server, which nothing uses any more."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        deadline = time.monotonic() + START_SECONDS
        while any(self.directory.rglob("valkey.sock")) and time.monotonic() < deadline:
            time.sleep(0.2)


@contextmanager
def stack() -> Iterator[Stack]:
    """Yield a stack in a directory that is deleted afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="aragora-q-pictures-"))
    (directory / "aragora-q.toml").write_text(CONFIGURATION, encoding="utf-8")
    running = Stack(directory)
    try:
        yield running
    finally:
        running.close()
        shutil.rmtree(directory, ignore_errors=True)


def fill(running: Stack) -> None:
    """Make the afternoon: most debates have ended; some run, wait, are held, failed or cancelled."""
    ended = [
        {
            "question": question,
            "group": group,
            "tenant": tenant,
            "rounds": 2,
            "tags": {"env": "prod"},
        }
        for question, group, tenant in QUESTIONS
    ]
    ended[4] |= {"id": "monolith", "debate": "always"}
    ended[0:0] = [
        {
            "question": f"Is ticket {4_211 + 7 * n} a duplicate of {3_902 + 5 * n}?",
            "group": "triage",
            "tenant": "globex",
            "rounds": 1,
        }
        for n in range(SMALL)
    ]
    schema = {"type": "object", "properties": {"n": {"not": {}}}, "required": ["n"]}
    ended.append(
        {
            "question": "How many invoices are wrong?",
            "answer_form": schema,
            "id": "no-schema",
            "tenant": "acme",
        }
    )
    running.call("enqueue", "-", stdin=_lines(ended))
    arms = [word for arm in ARMS for word in ("--arm", arm)]
    asked = [
        {
            "question": f"Is {n} a prime number?",
            "expected": all(n % each for each in range(3, n, 2)),
        }
        for n in ODD
    ]
    running.call("sweep", "-", "--group", "primes", *arms, "--yes", stdin=_lines(asked))
    running.call(
        "worker", "--burst", "--worker-id", "web1-1", "--concurrency", "16", "--metrics-port", "0"
    )
    waiting = [
        {
            "question": question.replace("Should", "Next quarter, should"),
            "group": group,
            "tenant": tenant,
            "priority": -1,
        }
        for question, group, tenant in QUESTIONS[5:10]
    ]
    waiting[0] |= {"id": "cancelled"}
    waiting[1] |= {"id": "held"}
    later = {
        "question": "Is the migration still on schedule?",
        "delay_seconds": 5_400,
        "tenant": "initech",
    }
    costly = {
        "question": "Which of the two vendors?",
        "id": "costly",
        "approve_above_usd": 0.01,
        "rounds": 10,
    }
    under_way = [
        {"question": question, "id": f"running-{n}", "group": "architecture", "tenant": "acme"}
        for n, question in enumerate(UNDER_WAY)
    ]
    for each in under_way:
        each |= {"rounds": 8, "debate": "always"}
    running.call("enqueue", "-", stdin=_lines([*under_way, *waiting, later, costly]))
    running.call("hold", "held", "--reason", "waits for the prices of December")
    running.call("cancel", "cancelled", "--reason", "asked twice")
    running.call("budget", "set", "month", "60/month", "--reason", "end of the year")
    slow = ("--executor", "tools.screenshots:slow_agents", "--metrics-port", "0")
    running.start("worker", "--worker-id", "web2-1", "--concurrency", str(len(UNDER_WAY)), *slow)


def _lines(jobs: Sequence[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, jobs))


async def write_samples(url: str) -> None:
    """Write a sample for each minute of the last two hours, as maintenance does; some are missing."""
    connection = Connection(QueueConfig(redis_url=url))
    try:
        await _write_samples(connection)
    finally:
        await connection.close()


async def _write_samples(connection: Connection) -> None:
    rng = random.Random(11)  # noqa: S311 - not for secrets
    now = int((await connection.execute("TIME"))[0]) // 60 * 60
    await connection.execute("UNLINK", connection.keys.samples_minute)
    totals, spent = dict.fromkeys(SAMPLED_COUNTERS, 400), 2_000_000
    for ago in range(125, 0, -1):
        load = 1.4 + 1.1 * math.sin(ago / 17) + rng.random()
        ended, failed = int(load + rng.random() - 0.6), int(rng.random() < 0.01)
        for name, change in {
            "enqueued": ended,
            "started": ended,
            "completed": ended,
            "failed": failed,
        }.items():
            totals[name] += change
        spent += ended * rng.randrange(8_000, 14_000)
        gauges = {"waiting": load * 2, "running": load + 1, "delayed": 1, "held": 2, "workers": 2}
        counts = [*totals.values(), *(int(gauges[name]) for name in GAUGES), spent, 0]
        run, total = ([0] * len(DURATION_BOUNDS) for _ in range(2))
        for _ in range(ended):
            run[min(9, max(2, int(rng.gauss(5, 1.2))))] += 1
            total[min(11, max(3, int(rng.gauss(6.5, 1.4))))] += 1
        if 48 < ago < 56:
            continue
        await connection.execute(
            "XADD", connection.keys.samples_minute, f"{(now - ago * 60) * 1000}-0",
            "counts", _words(counts), "run", _words([0, *run]), "total", _words([0, *total]),
        )  # fmt: skip


def _words(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def take(running: Stack, token: str, directory: Path, *, is_docs: bool) -> None:
    """Take the pictures."""
    whole = [(page, theme, 0, f"{page}-{theme}") for page in PAGES for theme in ("light", "dark")]
    chromium = shutil.which("chromium") or sys.exit("no Chromium: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(
            base_url=f"http://{running.address}", viewport={"width": WIDTH, "height": HEIGHT}
        )
        page.goto("/login")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        page.goto("/jobs/running-0")
        page.locator(".seats tbody td.cell").nth(5).wait_for()
        for name, theme, height, file in PICTURES if is_docs else whole:
            page.emulate_media(color_scheme=theme)
            page.goto(PAGES[name])
            if is_docs:
                page.get_by_text("Live", exact=True).wait_for()
            _save(page, directory / f"{file}.webp", height)
        browser.close()


def _save(page: Page, path: Path, height: int) -> None:
    """Write the upper part of a page, or all of it if the height is 0. Playwright itself knows no WebP."""
    height = height or page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    session = page.context.new_cdp_session(page)
    picture = session.send(
        "Page.captureScreenshot",
        {"format": "webp", "quality": QUALITY, "clip": clip, "captureBeyondViewport": True},
    )
    session.detach()
    path.write_bytes(base64.b64decode(picture["data"]))


def main() -> None:
    """Fill the queue, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--docs", action="store_true", help="the pictures of the documentation only"
    )
    parser.add_argument("directory", type=Path, nargs="?", default=DOCS)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with stack() as running:
        token = running.call("token", "ann", "--role", "operator").strip()
        running.start("web")
        running.wait_for_console()
        fill(running)
        state = running.directory / ".local/state"
        os.environ |= {"HOME": str(running.directory), "XDG_STATE_HOME": str(state)}
        asyncio.run(write_samples("embedded://"))
        take(running, token, options.directory, is_docs=options.docs)


if __name__ == "__main__":
    main()
