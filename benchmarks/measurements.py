"""Measurements: those of `aragora-q bench`, then memory, a deep backlog, cold starts, fleets, model calls.

Called by `benchmarks/run.py`. Every measurement leaves the server of the testbed empty.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import uvloop

from aragora_q import bench
from aragora_q.base import Job
from aragora_q.bench import CONCURRENCY, Result, Testbed, new_jobs
from aragora_q.redis.scripts import BATCH_LIMIT, batched
from aragora_q.streams.queue import RedisStreamsQueue
from benchmarks import gates, labels, models

ENQUEUE_BATCH = 10_000
SETTLE_SECONDS = 0.5
"""After a worker is registered, until it does nothing but wait for jobs."""

FLEETS = {"fleet_100": 100, "fleet_300": 300, "fleet_1000": 1_000}
"""Numbers of idle workers, each compared with one worker."""

FLEET_WINDOW_SECONDS, FLEET_JOBS = 1.0, 20
"""A window of the measurement of a fleet, and the jobs that every second window has."""

LONG_JOBS = {"long_jobs_small": 1_000, "long_jobs_large": 250_000}
"""Payload sizes in bytes of jobs that run while nothing happens."""

LONG_JOB_WORKERS, LONG_JOB_CONCURRENCY = 200, 10


@dataclass(frozen=True)
class Sizes:
    """Numbers of repetitions and jobs. The defaults take about seven minutes."""

    repeats: int = 5
    measurements: dict[bench.Measurement, int] = field(
        default_factory=lambda: dict(bench.MEASUREMENTS)
    )
    memory: int = 20_000
    shallow_backlog: int = 2_000
    deep_backlog: int = 100_000
    windows: int = 10
    starts: int = 15
    fleet_windows: int = 12
    fleet_settle_seconds: float = 3.0
    fleet_divisor: int = 1
    """Fleets have this many times fewer workers than their measurements say."""
    label_windows: int = 15
    label_jobs: int = 1_000
    large_group: int = 100_000
    gate_calls: int = 5_000
    model_calls: int = 50


FULL = Sizes(repeats=7, deep_backlog=1_000_000)


def run(testbed: Testbed, sizes: Sizes) -> Iterator[Result]:
    """Yield every result as soon as it is measured."""
    yield from bench.run(testbed, sizes.repeats, sizes.measurements)
    yield from memory(testbed, sizes.memory)
    yield from backlog(testbed, sizes)
    yield idle_worker(testbed, sizes.repeats)
    yield from cold_starts(testbed, sizes.starts)
    yield from idle_fleets(testbed, sizes)
    yield from long_jobs(testbed, sizes)
    yield from label_costs(testbed, sizes)
    yield from gate_costs(testbed, sizes)
    yield from models.calls(sizes.repeats, sizes.model_calls)


def memory(testbed: Testbed, count: int) -> Iterator[Result]:
    """Measure the server's memory per job, without the stream of events, whose length is capped."""
    for name, title, kind in (
        ("", "", "bare"),
        ("grouped_", ", with a group", "grouped"),
        ("labeled_", ", with group, tenant and two tags", "small"),
    ):
        for state, used in _memory(testbed, count, labels.KINDS[kind]):
            yield Result(
                f"{name}{state}_bytes", f"Redis memory per {state} job{title}", "B", [used]
            )


def _memory(
    testbed: Testbed, count: int, job_labels: dict[str, Any]
) -> Iterator[tuple[str, float]]:
    """Yield a state and the bytes of a job in it."""
    events = with_queue(testbed, _keys).events

    def used_bytes() -> int:
        used = testbed.client.info("memory")["used_memory"]
        return int(used) - int(testbed.client.memory_usage(events, samples=0) or 0)

    empty_bytes = used_bytes()
    _enqueue(testbed, [Job(payload=bench.PAYLOAD, **job_labels) for _ in range(count)])
    yield "waiting", (used_bytes() - empty_bytes) / count
    testbed.run_all_jobs()
    yield "finished", (used_bytes() - empty_bytes) / count
    testbed.client.flushall()


async def _keys(queue: RedisStreamsQueue) -> Any:
    return queue.connection.keys


def backlog(testbed: Testbed, sizes: Sizes) -> Iterator[Result]:
    """Measure whether a deep backlog slows the worker or `stats`.

    Only a fifth of the deep backlog is drained: the server's table of keys may double on the way, and
    while its entries move (some 70,000 jobs at a million), each job costs the server 50 % more.
    """
    size = sizes.shallow_backlog
    with testbed.worker("noop"):
        shallow, shallow_stats = [], []
        for _ in range(sizes.windows + 1):
            with _paused(testbed):
                jobs = new_jobs(size)
                _enqueue(testbed, jobs)
                shallow_stats.append(_stats_ms(testbed))
            _wait_until_completed(testbed, jobs)
            shallow.append(_rate(testbed, jobs))
        with _paused(testbed):
            first: list[Job] = []
            for number in range(0, sizes.deep_backlog, ENQUEUE_BATCH):
                jobs = new_jobs(min(ENQUEUE_BATCH, sizes.deep_backlog - number))
                _enqueue(testbed, jobs)
                if len(first) < sizes.deep_backlog // 5:
                    first += jobs
            deep_stats = [_stats_ms(testbed) for _ in range(sizes.windows)]
        _wait_until_completed(testbed, first)
    # Larger windows: consecutive windows of one long drain overlap by the jobs in flight.
    deep = [_rate(testbed, window) for window in batched(first, size * 5 // 2)]
    shallow_rate = [median(shallow[1:])] * len(deep)
    yield Result("deep_drain", "drain rate, deep / shallow backlog", "jobs/s", deep, shallow_rate)
    yield Result("deep_stats", "stats, deep / shallow backlog", "ms", deep_stats, shallow_stats[1:])
    testbed.client.flushall()


@contextmanager
def _paused(testbed: Testbed) -> Iterator[None]:
    with_queue(testbed, lambda queue: queue.pause())
    yield
    with_queue(testbed, lambda queue: queue.pause(paused=False))


def _stats_ms(testbed: Testbed) -> float:
    async def measure(queue: RedisStreamsQueue) -> float:
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            await queue.get_queue_stats()
            seconds.append(time.perf_counter() - began)
        return median(seconds) * 1000

    return float(with_queue(testbed, measure))


def _rate(testbed: Testbed, jobs: list[Job]) -> float:
    async def rate(queue: RedisStreamsQueue) -> float:
        return bench.completed_per_second(testbed, queue, jobs)

    return float(with_queue(testbed, rate))


def _wait_until_completed(testbed: Testbed, jobs: list[Job]) -> None:
    """Wait for the last jobs: jobs start in this order, but those in flight may end in any order."""

    async def wait(queue: RedisStreamsQueue) -> None:
        for job in jobs[-2 * CONCURRENCY :]:
            await bench.completed(queue, job.id)

    with_queue(testbed, wait)


def idle_worker(testbed: Testbed, repeats: int) -> Result:
    """Measure the resident memory of a worker process that waits for its first job."""
    megabytes = []
    for _ in range(repeats):
        with testbed.worker("noop") as process:
            with_queue(testbed, bench.worker_is_registered)
            time.sleep(SETTLE_SECONDS)
            status = Path(f"/proc/{process.pid}/status").read_text()
            [kibibytes] = [
                line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")
            ]
            megabytes.append(int(kibibytes) * 1024 / 1e6)
        testbed.client.flushall()
    return Result("idle_rss", "worker resident memory, idle", "MB", megabytes)


def cold_starts(testbed: Testbed, repeats: int) -> Iterator[Result]:
    """Measure whole processes, as a shell starts them, against an interpreter that does nothing."""
    script = Path(sys.executable).with_name("aragora-q")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "aragora_q"]
    server = ["--redis-url", testbed.url]
    _enqueue(testbed, [Job(payload=bench.PAYLOAD, id="known")])
    commands = {
        "version": [*program, "--version"],
        "help": [*program, "--help"],
        "status": [*program, "status", "known", *server],
        "enqueue": [
            *program,
            "enqueue",
            "Is this fast?",
            "--agents",
            "demo,demo",
            "--quiet",
            *server,
        ],
    }
    baseline = [sys.executable, "-c", "pass"]
    for command in commands.values():
        process_ms(command)
    measured: dict[str, list[float]] = {name: [] for name in (*commands, "baseline")}
    for _ in range(repeats):
        measured["baseline"].append(process_ms(baseline))
        for name, command in commands.items():
            measured[name].append(process_ms(command))
    for name, command in commands.items():
        title = f"aragora-q {command[len(program)]} / python -c pass"
        yield Result(f"start_{name}", title, "ms", measured[name], measured["baseline"])
    testbed.client.flushall()


def idle_fleets(testbed: Testbed, sizes: Sizes) -> Iterator[Result]:
    """Measure what a job costs the server, and its client, when many workers wait for it.

    Seconds with and without jobs alternate: what the idle fleet itself costs is subtracted, and shown.
    """
    one = _measure_fleet(testbed, sizes, 1)
    for name, size in FLEETS.items():
        workers = max(1, size // sizes.fleet_divisor)
        fleet = _measure_fleet(testbed, sizes, workers)
        title = f"Redis CPU per job, {workers:,} / 1 idle workers"
        yield Result(name, title, "ms", fleet.job_ms, one.job_ms)
        if name == "fleet_300":
            title = f"awaited enqueue p50, {workers:,} / 1 idle workers"
            yield Result("fleet_enqueue", title, "ms", [fleet.enqueue_ms], [one.enqueue_ms])
    title = f"Redis CPU, {workers:,} idle workers, no jobs"
    yield Result("fleet_idle", title, "%", fleet.idle_percent)


@dataclass
class _Fleet:
    """What an idle fleet costs the server, and a job beyond that; one value per pair of windows."""

    idle_percent: list[float]
    job_ms: list[float]
    enqueue_ms: float


def _measure_fleet(testbed: Testbed, sizes: Sizes, workers: int) -> _Fleet:
    idle_percent, job_ms, enqueue_ms = [], [], list[float]()

    async def enqueue(queue: RedisStreamsQueue) -> None:
        began = time.monotonic()
        for number in range(FLEET_JOBS):
            await asyncio.sleep(
                began + number * FLEET_WINDOW_SECONDS / FLEET_JOBS - time.monotonic()
            )
            sent = time.perf_counter()
            await queue.enqueue(Job(payload=bench.PAYLOAD))
            enqueue_ms.append((time.perf_counter() - sent) * 1000)
        await asyncio.sleep(began + FLEET_WINDOW_SECONDS - time.monotonic())

    async def measure(queue: RedisStreamsQueue) -> None:
        for _ in range(sizes.fleet_windows):
            idle = await _server_load(testbed, asyncio.sleep(FLEET_WINDOW_SECONDS))
            busy = await _server_load(testbed, enqueue(queue))
            idle_percent.append(idle * 100)
            job_ms.append((busy - idle) * FLEET_WINDOW_SECONDS / FLEET_JOBS * 1000)

    with _fleet(testbed, sizes, workers, concurrency=3), testbed.pinned():
        with_queue(testbed, measure)
    return _Fleet(idle_percent, job_ms, median(enqueue_ms))


def long_jobs(testbed: Testbed, sizes: Sizes) -> Iterator[Result]:
    """Measure the server's load while many jobs run and nothing else happens."""
    workers = max(1, LONG_JOB_WORKERS // sizes.fleet_divisor)
    count = workers * LONG_JOB_CONCURRENCY
    windows = range(sizes.fleet_windows * 2)

    async def measure(_queue: RedisStreamsQueue) -> list[float]:
        window = FLEET_WINDOW_SECONDS
        return [100 * await _server_load(testbed, asyncio.sleep(window)) for _ in windows]

    for name, size in LONG_JOBS.items():
        payload = {"hold": "x" * size}
        for batch in batched(range(count)):
            _enqueue(testbed, [Job(payload=payload) for _ in batch])
        with _fleet(testbed, sizes, workers, LONG_JOB_CONCURRENCY), testbed.pinned():
            _wait_until_started(testbed, count)
            time.sleep(sizes.fleet_settle_seconds)
            loads = with_queue(testbed, measure)
        title = f"Redis CPU, {count:,} running jobs of {size // 1000} KB"
        yield Result(name, title, "%", [mean(loads)])  # renewals come in bursts


def label_costs(testbed: Testbed, sizes: Sizes) -> Iterator[Result]:
    """Measure what labels and a large group cost the server, in single calls and in batches."""
    for calls, size in (("single", 1), ("batch", BATCH_LIMIT)):
        jobs = max(size, sizes.label_jobs if size > 1 else sizes.label_jobs // 10)
        with testbed.pinned():
            samples = uvloop.run(
                labels.measure(testbed, sizes.label_windows, jobs, size, sizes.large_group)
            )
        yield from labels.results(samples, calls)


def gate_costs(testbed: Testbed, sizes: Sizes) -> Iterator[Result]:
    """Measure what a paid call costs the server and the worker."""
    with testbed.pinned():
        costs = uvloop.run(gates.measure(testbed, sizes.label_windows, sizes.gate_calls))
    yield from gates.results(costs)


@contextmanager
def _fleet(testbed: Testbed, sizes: Sizes, workers: int, concurrency: int) -> Iterator[None]:
    """Run a fleet; afterwards kill it and empty the server."""
    arguments = (testbed.url, str(workers), str(concurrency))
    with testbed.pinned():
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.fleet", *arguments])
    try:
        registered = with_queue(testbed, _keys).workers
        while testbed.client.zcard(registered) < workers:
            if process.poll() is not None:
                raise RuntimeError(f"the fleet of {workers} workers ended: {process.returncode}")
            time.sleep(0.1)
        time.sleep(sizes.fleet_settle_seconds)
        yield
    finally:
        process.kill()
        process.wait()
        testbed.client.flushall()


def _wait_until_started(testbed: Testbed, count: int) -> None:
    counters = with_queue(testbed, _keys).counters
    while int(testbed.client.hget(counters, "started") or 0) < count:
        time.sleep(0.1)


async def _server_load(testbed: Testbed, work: Awaitable[object]) -> float:
    """Return which part of a core the server uses while `work` is awaited."""
    began, used = time.monotonic(), _server_cpu_seconds(testbed)
    await work
    used = _server_cpu_seconds(testbed) - used
    return used / (time.monotonic() - began)


def _server_cpu_seconds(testbed: Testbed) -> float:
    used = testbed.client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def process_ms(command: list[str], **options: Any) -> float:
    """Run a command to its end and return how many milliseconds it took."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return (time.perf_counter() - began) * 1000


def _enqueue(testbed: Testbed, jobs: list[Job]) -> None:
    with_queue(testbed, lambda queue: queue.enqueue_many(jobs))


def with_queue(testbed: Testbed, work: Callable[[RedisStreamsQueue], Awaitable[Any]]) -> Any:
    """Return the result of `work` with a queue on the testbed's server."""

    async def run() -> Any:
        async with testbed.queue() as queue:
            return await work(queue)

    return uvloop.run(run())
