"""Processes as users start them: commands, the console next to them, and workers with their memory.

Called by `measurements.py`. Byte code is there, as after an installation by pip. Memory is the resident set of
a process and of its children, in MB of 1,000,000 bytes.
"""

from __future__ import annotations

import compileall
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aragora_q
from aragora_q import bench
from aragora_q.bench import AGENTS, QUESTION, Result, Testbed, free_port
from aragora_q.job import create_debate_job
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.roles import Role
from aragora_q.web.tokens import new_token, token_line
from benchmarks import executors, models
from benchmarks.queues import enqueue, with_queue

SCRIPT = Path(sys.executable).with_name("aragora-q")
PROGRAM = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "aragora_q"]
NOTHING = [sys.executable, "-c", "pass"]
START_SECONDS = 60.0

MODEL = "openai-chat:m"
LIBRARIES = (
    # the worker: command line, settings, Redis, event loop, metrics
    "typer", "pydantic_settings", "redis.asyncio", "hiredis", "uvloop", "prometheus_client",
    # the extra `llm`: what a client of MODEL needs
    "pydantic_ai.models.openai", "pydantic_ai.providers.openai",
)  # fmt: skip
"""What a worker with an agent of the extra `llm` cannot run without."""


def compile_all() -> None:
    """Write byte code, which pip does when it installs."""
    compileall.compile_dir(Path(aragora_q.__file__).parent, quiet=1)


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of commands."""
    return {**os.environ, **variables}


def process_ms(command: list[str], **options: Any) -> float:
    """Run a command to its end and return how many milliseconds it took."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return (time.perf_counter() - began) * 1000


def starts(testbed: Testbed, repeats: int) -> Iterator[Result]:
    """Measure whole commands, as a shell starts them, and requests to a console that runs, against an
    interpreter that does nothing.
    """
    enqueue(testbed, [create_debate_job(QUESTION, AGENTS, job_id="known")])
    testbed.run_all_jobs()
    agents = ["--agents", ",".join(AGENTS)]
    commands = {
        "version": ["--version"],
        "help": ["--help"],
        "status": ["status", "known"],
        "enqueue": ["enqueue", QUESTION, *agents, "--quiet"],
        "wait": ["wait", "known"],
        "list": ["list"],
        "stats": ["stats"],
    }

    def run(arguments: list[str]) -> Callable[[], float]:
        return lambda: process_ms(
            [*PROGRAM, *arguments],
            env=environment(REDIS_URL=testbed.url),
            stderr=subprocess.DEVNULL,
        )

    measured: dict[str, Callable[[], float]] = {
        "baseline": lambda: process_ms(NOTHING),
        **{name: run(arguments) for name, arguments in commands.items()},
    }
    titles = {name: f"aragora-q {command[0]}" for name, command in commands.items()}
    with testbed.pinned(), _console(testbed) as api:
        measured |= {f"http_{name}": call for name, call in api.items()}
        titles |= {f"http_{name}": f"HTTP API, {name}" for name in api}
        for each in measured.values():  # warms up
            each()
        rounds = [{name: each() for name, each in measured.items()} for _ in range(repeats)]
    baseline = [each["baseline"] for each in rounds]
    for name, title in titles.items():
        values = [each[name] for each in rounds]
        yield Result(f"start_{name}", f"{title} / python -c pass", "ms", values, baseline)
    testbed.client.flushall()


@contextmanager
def _console(testbed: Testbed) -> Iterator[dict[str, Callable[[], float]]]:
    """Run a console; yield what sends a request, on a new connection, and returns how many ms that took."""
    port, token = free_port(), new_token()
    jobs = "/api/v1/queues/debates/jobs"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"question": QUESTION, "agents": AGENTS})

    def request(method: str, path: str, body: str | None = None) -> float:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return (time.perf_counter() - began) * 1000

    with tempfile.TemporaryDirectory() as directory:
        tokens = Path(directory, "tokens")
        tokens.write_text(f"{token_line('benchmark', Role.PRODUCER, token)}\n")
        tokens.chmod(0o600)
        variables = {
            "REDIS_URL": testbed.url,
            "ARAGORA_QUEUE_WEB_PRODUCER_REDIS_URL": testbed.url,
            "ARAGORA_QUEUE_WEB_TOKENS_FILE": str(tokens),
        }
        command = [*PROGRAM, "web", "--listen", f"127.0.0.1:{port}"]
        with started(command, environment(**variables)) as process:
            _until(lambda: _accepts(port), process)
            yield {
                "enqueue": lambda: request("POST", jobs, body),
                "status": lambda: request("GET", f"{jobs}/known"),
            }


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Wait for a process. Raises RuntimeError if it ends, TimeoutError."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended: {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process.args!r} is not ready")
        time.sleep(0.02)


@contextmanager
def started(command: list[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; afterwards kill it and its children."""
    process = subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        bench.send(process, signal.SIGKILL)
        process.wait()


def idle_worker(testbed: Testbed, repeats: int) -> Iterator[Result]:
    """Measure the memory of a worker that waits for its first job. Its executor imports nothing else."""
    megabytes = []
    for _ in range(repeats):
        with testbed.worker(f"{executors.__name__}:small") as process:
            with_queue(testbed, bench.workers_are_registered)
            time.sleep(bench.SETTLE_SECONDS)
            megabytes.append(memory(process.pid, "VmRSS"))
        testbed.client.flushall()
    yield Result("idle_rss", "worker memory, idle", "MB", megabytes)


def memory(pid: int, name: str) -> float:
    """Return the sum of VmRSS, or of its peak VmHWM, of all processes in the session of `pid`, in MB."""
    total = 0
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            session = directory.joinpath("stat").read_text().rpartition(")")[2].split()[3]
            if int(session) == pid:
                status = directory.joinpath("status").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in status if line.startswith(name))
        except OSError:
            continue  # it has ended
    return total * 1024 / 1e6


def ready(testbed: Testbed, repeats: int) -> Iterator[Result]:
    """Measure how long a worker with an agent of the extra `llm` takes until it tells systemd that it is
    ready, against a process that imports LIBRARIES.
    """
    imports = [sys.executable, "-c", f"import os, {', '.join(LIBRARIES)}; os._exit(0)"]
    ours, baseline = [], []
    with testbed.pinned():
        for each in range(repeats + 1):
            ours.append(_ready_ms(testbed))
            baseline.append(process_ms(imports))
            if each == 0:  # warms up
                ours, baseline = [], []
    yield Result("ready", "worker with llm ready / its imports", "ms", ours, baseline)


def _ready_ms(testbed: Testbed) -> float:
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
    ):
        notices.bind(f"{directory}/notify")
        notices.settimeout(START_SECONDS)
        began = time.perf_counter()
        with _llm_worker(testbed, directory, 1, NOTIFY_SOCKET=f"{directory}/notify"):
            while b"READY=1" not in notices.recv(65_536):
                pass
            return (time.perf_counter() - began) * 1000


@contextmanager
def _llm_worker(
    testbed: Testbed, directory: str, port: int, *options: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker whose agents ask a provider on `port`."""
    settings = Path(directory, "aragora-q.toml")
    table = (
        f'model = "{MODEL}"\nbase_url = "http://127.0.0.1:{port}/v1"\napi_key_env = "BENCH_KEY"\n'
    )
    settings.write_text("".join(f"[agents.{name}]\n{table}" for name in models.AGENTS))
    command = [*PROGRAM, "worker", "--config", str(settings), *options]
    known = environment(REDIS_URL=testbed.url, BENCH_KEY="none", **variables)
    with started(command, known) as process:
        yield process


def debates(testbed: Testbed, repeats: int, count: int, reply_seconds: float) -> Iterator[Result]:
    """Measure the peak memory of a worker that runs debates at once, whose models answer on loopback.

    Each debate has three agents, which agree: it ends after their first answers. All are under way before the
    first answer; the answers, of 500 words as streams of 500 events, come one by one.
    """
    megabytes = []
    for _ in range(repeats):
        with (
            models.provider(reply_seconds) as port,
            tempfile.TemporaryDirectory() as directory,
            _llm_worker(testbed, directory, port, "--concurrency", str(count)) as process,
        ):
            jobs = [create_debate_job(QUESTION, list(models.AGENTS)) for _ in range(count)]
            enqueue(testbed, jobs)
            for state in ("running", "completed"):
                _until(lambda state=state: _counts(testbed)[state] == count, process)  # type: ignore[misc]
            megabytes.append(memory(process.pid, "VmHWM"))
        testbed.client.flushall()
    yield Result("debates_300", f"worker memory, peak of {count} debates at once", "MB", megabytes)


def _counts(testbed: Testbed) -> dict[str, Any]:
    async def read(queue: RedisStreamsQueue) -> dict[str, Any]:
        return await queue.get_queue_stats()

    return with_queue(testbed, read)
