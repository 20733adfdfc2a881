"""All measurements by name. Called by `benchmarks/run.py`. Each leaves the server of the testbed empty."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import uvloop

from aragora_q import bench, codec
from aragora_q.base import Job
from aragora_q.bench import CONCURRENCY, NOOP, Place, Result, Samples, Testbed, new_jobs
from aragora_q.redis.scripts import BATCH_LIMIT, batched
from aragora_q.streams.queue import RedisStreamsQueue
from benchmarks import drains, executors, gates, labels, models, processes, traces
from benchmarks.queues import enqueue, with_queue

SCORES_PER_CALL = 1_000

FLEETS = {"fleet_100": 100, "fleet_300": 300, "fleet_1000": 1_000}
"""Numbers of idle workers, each compared with one worker."""

FLEET_WINDOW_SECONDS, FLEET_JOBS = 1.0, 20
"""A window of the measurement of a fleet, and the jobs that every second window has."""

LONG_JOBS = {"long_jobs_small": 1_000, "long_jobs_large": 250_000}
"""Payload sizes in bytes of jobs that run while nothing happens."""

LONG_JOB_WORKERS, LONG_JOB_CONCURRENCY = 200, 10

ENQUEUE_TITLES = {"lines": ("enqueue of a file of JSON lines / pipelined XADD", "jobs/s")}


@dataclass(frozen=True)
class Sizes:
    """Numbers of repetitions and jobs. The defaults are those of `make bench`."""

    repeats: int = 7
    long_repeats: int = 3
    """Repetitions of what takes long: a deep backlog, a cluster, debates."""
    drain: int = 20_000
    bulk: int = 20_000
    single: int = 3_000
    latency: int = 500
    lines: int = 100_000
    large_results: int = 5_000
    cluster: int = 2_500
    """Jobs in each queue."""
    memory: int = 100_000
    shallow_backlog: int = 2_000
    deep_backlog: int = 1_000_000
    """A fifth of it is drained."""
    windows: int = 10
    starts: int = 15
    debates: int = 300
    reply_seconds: float = 6.0
    """How long the models of the debates think at least: all debates have begun by then."""
    fleet_windows: int = 12
    fleet_settle_seconds: float = 3.0
    fleet_divisor: int = 1
    """Fleets have this many times fewer workers than their measurements say."""
    label_windows: int = 15
    label_jobs: int = 1_000
    large_group: int = 100_000
    gate_calls: int = 5_000
    model_calls: int = 50


QUICK = Sizes(
    repeats=1, long_repeats=1, drain=200, bulk=200, single=20, latency=5, lines=200, large_results=50,
    cluster=20, memory=200, shallow_backlog=100, deep_backlog=400, windows=2, starts=1, debates=20,
    reply_seconds=1.0, fleet_windows=1, fleet_settle_seconds=0.2, fleet_divisor=100, label_windows=1,
    label_jobs=100, large_group=200, gate_calls=20, model_calls=1,
)  # fmt: skip
"""Shows within two minutes whether everything runs. The results mean little."""


def run(testbed: Testbed, sizes: Sizes, names: Sequence[str] = ()) -> Iterator[Result]:
    """Yield every result as soon as it is measured; only those of `names`, if there are any."""
    processes.compile_all()
    for name, measure in MEASUREMENTS.items():
        if not names or name in names:
            yield from measure(testbed, sizes)


def _compare(
    measurement: bench.Measurement,
    titles: dict[str, tuple[str, str]],
    testbed: Testbed,
    sizes: Sizes,
) -> Iterator[Result]:
    count = getattr(sizes, COUNTS.get(measurement, measurement.__name__))
    yield from bench.run(testbed, sizes.repeats, {measurement: count}, titles)


async def lines(testbed: Testbed, place: Place, count: int) -> Samples:
    """Compare `aragora-q enqueue FILE --quiet`, from start to end, with pipelined XADD."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "debates.jsonl")
        file.write_bytes((codec.encode(bench.PAYLOAD) + b"\n") * count)

        async def enqueue_lines() -> None:
            command = [*processes.PROGRAM, "enqueue", str(file), "--quiet"]
            process = await asyncio.create_subprocess_exec(
                *command,
                stdout=subprocess.DEVNULL,
                env=processes.environment(REDIS_URL=testbed.url),
            )
            if code := await process.wait():
                raise RuntimeError(f"{command}: exit code {code}")

        ours = await bench.seconds(testbed, enqueue_lines())
    return {"lines": (count / ours, count / await bench.seconds(testbed, bench.add(place, count)))}


def memory(testbed: Testbed, sizes: Sizes) -> Iterator[Result]:
    """Measure the server's memory per job, without the stream of events, whose length is capped."""
    small = f"{executors.__name__}:small"
    list(_memory(testbed, 100, {}, small))  # the server keeps the scripts, which are of no job
    for name, title, kind, executor in (
        ("", "", "bare", small),
        ("grouped_", ", with a group", "grouped", NOOP),
        ("labeled_", ", with group, tenant and two tags", "small", NOOP),
    ):
        for state, used in _memory(testbed, sizes.memory, labels.KINDS[kind], executor):
            size = ", result of 100 bytes" if executor == small and state == "finished" else ""
            yield Result(
                f"{name}{state}_bytes", f"Redis memory per {state} job{title}{size}", "B", [used]
            )


def _memory(
    testbed: Testbed, count: int, job_labels: dict[str, Any], executor: str
) -> Iterator[tuple[str, float]]:
    """Yield a state and the bytes of a job in it."""
    events = with_queue(testbed, _keys).events

    def used_bytes() -> int:
        used = testbed.client.info("memory")["used_memory"]
        return int(used) - int(testbed.client.memory_usage(events, samples=0) or 0)

    empty_bytes = used_bytes()
    enqueue(testbed, [Job(payload=bench.PAYLOAD, **job_labels) for _ in range(count)])
    yield "waiting", (used_bytes() - empty_bytes) / count
    testbed.run_all_jobs(executor)
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
    with testbed.worker(NOOP):
        shallow, shallow_stats = [], []
        for _ in range(sizes.windows + 1):
            with _paused(testbed):
                jobs = new_jobs(size)
                enqueue(testbed, jobs)
                shallow_stats.append(_stats_ms(testbed))
            _wait_until_completed(testbed, jobs)
            shallow.append(_rate(testbed, jobs))
        with _paused(testbed):
            first: list[Job] = []
            for number in range(0, sizes.deep_backlog, bench.ENQUEUE_JOBS):
                jobs = new_jobs(min(bench.ENQUEUE_JOBS, sizes.deep_backlog - number))
                enqueue(testbed, jobs)
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
    """Return the rate from the first job's start to the last completion, by the server's clock."""
    keys = with_queue(testbed, _keys)
    first = with_queue(testbed, lambda queue: queue.get_job(jobs[0].id))
    ended_ms = max(
        max(testbed.client.zmscore(keys.completed, [job.id for job in batch]))
        for batch in batched(jobs, SCORES_PER_CALL)
    )
    return float(len(jobs) / (ended_ms / 1000 - first.started_at))


def _wait_until_completed(testbed: Testbed, jobs: list[Job]) -> None:
    """Wait for the last jobs: jobs start in this order, but those in flight may end in any order."""

    async def wait(queue: RedisStreamsQueue) -> None:
        for job in jobs[-2 * CONCURRENCY :]:
            await bench.completed(queue, job.id)

    with_queue(testbed, wait)


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
            enqueue(testbed, [Job(payload=payload) for _ in batch])
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
        yield from labels.results(samples, calls, sizes.large_group)


def gate_costs(testbed: Testbed, sizes: Sizes) -> Iterator[Result]:
    """Measure what a paid call costs the server and the worker."""
    with testbed.pinned():
        costs = uvloop.run(gates.measure(testbed, sizes.label_windows, sizes.gate_calls))
    yield from gates.results(costs, sizes.gate_calls)


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
    began, used = time.monotonic(), testbed.cpu_seconds()
    await work
    used = testbed.cpu_seconds() - used
    return used / (time.monotonic() - began)


COUNTS: dict[bench.Measurement, str] = {
    drains.drain_processes: "drain",
    drains.server_cpu: "drain",
    drains.drain_large: "large_results",
}
"""Where the size of a measurement has another name."""

MEASUREMENTS: dict[str, Callable[[Testbed, Sizes], Iterator[Result]]] = {
    **{each.__name__: partial(_compare, each, bench.TITLES) for each in bench.MEASUREMENTS},
    "lines": partial(_compare, lines, ENQUEUE_TITLES),
    **{
        each.__name__: partial(_compare, each, drains.TITLES)
        for each in (drains.server_cpu, drains.drain_processes, drains.drain_large)
    },
    "drain_others": lambda testbed, sizes: drains.on_others(testbed, sizes.repeats, sizes.drain),
    "drain_cluster": lambda testbed, sizes: drains.in_cluster(
        testbed, sizes.long_repeats, sizes.cluster
    ),
    "drain_deep": lambda testbed, sizes: drains.deep(
        testbed, sizes.long_repeats, sizes.deep_backlog // 5, sizes.deep_backlog
    ),
    "memory": memory,
    "backlog": backlog,
    "idle": lambda testbed, sizes: processes.idle_worker(testbed, sizes.repeats),
    "ready": lambda testbed, sizes: processes.ready(testbed, sizes.repeats),
    "debates": lambda testbed, sizes: processes.debates(
        testbed, sizes.long_repeats, sizes.debates, sizes.reply_seconds
    ),
    "starts": lambda testbed, sizes: processes.starts(testbed, sizes.starts),
    "traces": lambda testbed, sizes: traces.on_and_off(
        testbed, sizes.repeats, sizes.drain, sizes.single, sizes.starts
    ),
    "fleets": idle_fleets,
    "long_jobs": long_jobs,
    "labels": label_costs,
    "gates": gate_costs,
    "calls": lambda _, sizes: models.calls(sizes.repeats, sizes.model_calls),
}
