"""Measure this queue against a hand-written baseline. Used by `aragora-q bench` and `benchmarks/`.

Both run in turn on a private server, which has one CPU; clients and workers share another. The baseline
is the least work that a queue on Redis Streams can do, with redis-py, hiredis and uvloop: no fences,
counters, indexes, retries, leases, metrics or logs. No other module of the product imports this one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import redis
import redis.asyncio
import redis.backoff
import redis.retry
import uvloop

from aragora_q.base import Job, JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Executor
from aragora_q.errors import ConfigError
from aragora_q.process import child_environment
from aragora_q.redis.scripts import batched
from aragora_q.streams.queue import RedisStreamsQueue

SERVERS = ("redis-server", "valkey-server")
STOP_SECONDS, RUN_SECONDS = 60.0, 600.0
BATCH, CONCURRENCY, WARM_UP_JOBS, SCORES_PER_CALL = 100, 100, 500, 1_000
PAUSE_SECONDS = 0.005
"""Between two jobs of the latency measurement: the client and the worker are both waiting again."""

PAYLOAD = {"text": "x" * 289}
ENTRY = {"payload": json.dumps(PAYLOAD, separators=(",", ":"))}  # 300 bytes
RESULT, RESULT_BYTES = {"done": True}, b'{"done":true}'
STREAM, GROUP, RESULT_TTL_SECONDS = "baseline:stream", "baseline", 7 * 86_400

Samples = dict[str, tuple[float, float]]
"""The queue's and the baseline's value of each result."""


@dataclass(frozen=True)
class Result:
    """Values of the queue and of the baseline, one per repetition; some results have no baseline."""

    name: str
    title: str
    unit: str
    ours: Sequence[float]
    baseline: Sequence[float] = ()

    @property
    def values(self) -> list[float]:
        """Ratios to the baseline; the queue's values if there is no baseline."""
        if not self.baseline:
            return list(self.ours)
        return [ours / baseline for ours, baseline in zip(self.ours, self.baseline, strict=True)]

    def cells(self) -> list[str]:
        """Return the cells of a table's row under HEAD."""
        factor = " x" if self.baseline else ""
        return [
            self.title,
            f"{_number(median(self.ours))} {self.unit}",
            f"{_number(median(self.baseline))} {self.unit}" if self.baseline else "",
            f"{_number(median(self.values))}{factor}",
            f"{_number(min(self.values))} to {_number(max(self.values))}",
        ]


HEAD = ["measurement", "aragora-q", "baseline", "ratio or value", "range"]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def find_server(path: str | None = None) -> str:
    """Return the server program `path`, or the first of SERVERS on PATH. Raises ConfigError."""
    candidates = (path,) if path else SERVERS
    for name in candidates:
        if found := shutil.which(name):
            return found
    raise ConfigError(
        f"server program not found: {' or '.join(candidates)}",
        hint="install redis-server, or name a server program with --server PATH",
    )


def free_port() -> int:
    """Return an unused loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Testbed:
    """A private server without persistence, pinned to one CPU, and workers, pinned to another."""

    def __init__(self, program: str) -> None:
        self._cpus = sorted(os.sched_getaffinity(0))
        self._directory = Path(tempfile.mkdtemp(prefix="aragora-q-bench-"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._server = self._start(
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self._directory), cpu=self._cpus[0],
        )  # fmt: skip
        # The server is not ready yet: the first command is retried for 20 s.
        retry = redis.backoff.ConstantBackoff(0.02), 1_000
        self.client: Any = redis.Redis(port=self.port, protocol=2, retry=redis.retry.Retry(*retry))
        try:
            self.client.ping()
        except BaseException:
            self.close()
            raise

    def _start(self, *command: str, cpu: int) -> subprocess.Popen[bytes]:
        with (self._directory / "log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command, stdout=log, stderr=log, env=child_environment()
            )
        os.sched_setaffinity(process.pid, {cpu})
        return process

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Pin this process to the workers' CPU."""
        os.sched_setaffinity(0, self._cpus[-1:])
        try:
            yield
        finally:
            os.sched_setaffinity(0, self._cpus)

    @contextmanager
    def worker(self, executor: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker process with default logging and metrics."""
        process = self._start(
            sys.executable, "-m", "aragora_q", "worker", "--redis-url", self.url,
            "--executor", f"{__name__}:{executor}", "--concurrency", str(CONCURRENCY), *options,
            cpu=self._cpus[-1],
        )  # fmt: skip
        try:
            yield process
        finally:
            _stop(process)

    def run_all_jobs(self) -> None:
        """Run a worker process until the queue is empty. Raises RuntimeError if the worker fails."""
        with self.worker("noop", "--burst") as process:
            if process.wait(RUN_SECONDS):
                raise RuntimeError((self._directory / "log").read_text()[-500:])

    def separate_process(self) -> ProcessPoolExecutor:
        """Return an executor of one process, pinned to the workers' CPU."""
        pool = ProcessPoolExecutor(
            1, get_context("spawn"), os.sched_setaffinity, (0, self._cpus[-1:])
        )
        before = dict(os.environ)
        os.environ |= child_environment()  # the pool has no option for the environment
        try:
            pool.submit(os.getpid).result()  # starts the process
        finally:
            os.environ.clear()
            os.environ |= before
        return pool

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[RedisStreamsQueue]:
        """Open a queue with default settings."""
        queue = RedisStreamsQueue(QueueConfig(redis_url=self.url))
        try:
            yield queue
        finally:
            await queue.close()

    def close(self) -> None:
        """Stop the server and delete its data."""
        self.client.close()
        _stop(self._server)
        shutil.rmtree(self._directory, ignore_errors=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def noop() -> Executor:
    """Return an executor that does nothing."""

    async def execute(_job: Job) -> Mapping[str, Any]:
        return RESULT

    return execute


def clock() -> Executor:
    """Return an executor whose result is the time of the machine's monotonic clock."""

    async def execute(_job: Job) -> Mapping[str, Any]:
        return {"started_ns": time.monotonic_ns()}

    return execute


def new_jobs(count: int) -> list[Job]:
    """Return jobs with the measured payload."""
    return [Job(payload=PAYLOAD) for _ in range(count)]


async def completed(queue: RedisStreamsQueue, job_id: str) -> Job:
    """Wait until a job is completed and return it."""
    while True:
        job = await queue.get_job(job_id)
        if job is not None and job.status is JobStatus.COMPLETED:
            return job
        await asyncio.sleep(0.01)


async def worker_is_registered(queue: RedisStreamsQueue) -> None:
    """Wait until a worker is registered."""
    while not await queue.tracker.worker_ids():  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.01)


def completed_per_second(testbed: Testbed, queue: RedisStreamsQueue, jobs: Sequence[Job]) -> float:
    """Return the rate from the first job's start to the last completion, by the server's clock."""
    keys = queue.connection.keys
    began_ms = int(testbed.client.hget(keys.job(jobs[0].id), "started_at"))
    ended_ms = max(
        max(testbed.client.zmscore(keys.completed, [job.id for job in batch]))
        for batch in batched(jobs, SCORES_PER_CALL)
    )
    return float(len(jobs) / (ended_ms - began_ms) * 1000)


def connect(port: int) -> Any:
    """Return redis-py's client in its fastest configuration: RESP2, no timer for each reply."""
    return redis.asyncio.Redis(port=port, protocol=2, socket_timeout=None)


async def _seconds(testbed: Testbed, work: Awaitable[Any]) -> float:
    with testbed.pinned():
        began = time.perf_counter()
        await work
        return time.perf_counter() - began


async def _add(client: Any, count: int) -> None:
    for first in range(0, count, BATCH):
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(BATCH, count - first)):
            pipeline.xadd(STREAM, ENTRY)
        await pipeline.execute()


async def bulk(testbed: Testbed, queue: RedisStreamsQueue, client: Any, count: int) -> Samples:
    """Compare `enqueue_many`, including checks and JSON, with pipelined XADD."""
    ours = await _seconds(testbed, queue.enqueue_many(new_jobs(count)))
    return {"bulk": (count / ours, count / await _seconds(testbed, _add(client, count)))}


async def single(testbed: Testbed, queue: RedisStreamsQueue, client: Any, count: int) -> Samples:
    """Compare one awaited `enqueue` after another with one awaited XADD after another."""

    async def enqueue(jobs: list[Job]) -> None:
        for job in jobs:
            await queue.enqueue(job)

    async def add() -> None:
        for _ in range(count):
            await client.xadd(STREAM, ENTRY)

    ours = await _seconds(testbed, enqueue(new_jobs(count)))
    return {"single": (count / ours, count / await _seconds(testbed, add()))}


async def drain(testbed: Testbed, queue: RedisStreamsQueue, client: Any, count: int) -> Samples:
    """Compare a worker, from a job's start to its recorded outcome, with a loop of pipelines:
    XREADGROUP COUNT 100, then XACK, XDEL, HSET and EXPIRE for each job.
    """

    async def run_baseline() -> None:
        done = 0
        while done < count:
            [[_, entries]] = await client.xreadgroup(GROUP, GROUP, {STREAM: ">"}, count=BATCH)
            pipeline = client.pipeline(transaction=False)
            for entry_id, _ in entries:
                key = b"baseline:job:" + entry_id
                pipeline.xack(STREAM, GROUP, entry_id)
                pipeline.xdel(STREAM, entry_id)
                pipeline.hset(key, mapping={"status": "completed", "result": RESULT_BYTES})
                pipeline.expire(key, RESULT_TTL_SECONDS)
            await pipeline.execute()
            done += len(entries)

    jobs = new_jobs(count)
    await queue.enqueue_many(jobs)
    await asyncio.to_thread(testbed.run_all_jobs)
    ours = completed_per_second(testbed, queue, jobs)
    await client.flushall()
    await client.xgroup_create(STREAM, GROUP, mkstream=True)
    await _add(client, count)
    return {"drain": (ours, count / await _seconds(testbed, run_baseline()))}


async def latency(testbed: Testbed, queue: RedisStreamsQueue, client: Any, count: int) -> Samples:
    """Compare the time from the call of `enqueue` until an idle worker's executor runs with the time
    from XADD until a blocked XREADGROUP returns.
    """
    jobs, sent_ns = new_jobs(count), {}
    with testbed.worker("clock"):
        await worker_is_registered(queue)
        for job in jobs:
            sent_ns[job.id] = time.monotonic_ns()
            await queue.enqueue(job)
            await asyncio.sleep(PAUSE_SECONDS)
        results = {job.id: (await completed(queue, job.id)).result or {} for job in jobs}
    ours = [(results[job_id]["started_ns"] - sent) / 1e6 for job_id, sent in sent_ns.items()]

    await client.flushall()
    with testbed.separate_process() as process:
        ages = asyncio.get_running_loop().run_in_executor(process, _receive, testbed.port, count)
        while not await client.exists(STREAM):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)
        for _ in range(count):
            await asyncio.sleep(PAUSE_SECONDS)
            await client.xadd(STREAM, {**ENTRY, "sent_ns": time.monotonic_ns()})
        percentiles = quantiles(ours, n=100), quantiles(await ages, n=100)
    return {f"latency_p{n}": (percentiles[0][n - 1], percentiles[1][n - 1]) for n in (50, 99)}


def _receive(port: int, count: int) -> list[float]:
    """Return the age in ms of each entry when XREADGROUP returns it; runs in a separate process."""

    async def receive() -> list[float]:
        ages: list[float] = []
        async with connect(port) as client:
            await client.xgroup_create(STREAM, GROUP, mkstream=True)
            while len(ages) < count:
                [[_, entries]] = await client.xreadgroup(GROUP, GROUP, {STREAM: ">"}, block=0)
                now_ns = time.monotonic_ns()
                ages += [(now_ns - int(entry[b"sent_ns"])) / 1e6 for _, entry in entries]
        return ages

    return uvloop.run(receive())


Measurement = Callable[[Testbed, RedisStreamsQueue, Any, int], Awaitable[Samples]]
MEASUREMENTS: dict[Measurement, int] = {drain: 20_000, bulk: 20_000, single: 3_000, latency: 500}
"""Each measurement and its number of jobs."""

TITLES = {
    "drain": ("drain, one worker process", "jobs/s"),
    "bulk": ("bulk enqueue", "jobs/s"),
    "single": ("single awaited enqueue", "jobs/s"),
    "latency_p50": ("enqueue to start, idle worker, p50", "ms"),
    "latency_p99": ("enqueue to start, idle worker, p99", "ms"),
}


def run(
    testbed: Testbed, repeats: int, measurements: Mapping[Measurement, int] = MEASUREMENTS
) -> Iterator[Result]:
    """Run every measurement `repeats` times; the server is empty before and after each run."""

    async def measure(measurement: Measurement, count: int) -> Samples:
        async with (
            asyncio.timeout(RUN_SECONDS),
            testbed.queue() as queue,
            connect(testbed.port) as client,
        ):
            await queue.enqueue_many(new_jobs(WARM_UP_JOBS))
            await _add(client, WARM_UP_JOBS)
            await client.flushall()
            samples = await measurement(testbed, queue, client, count)
            await client.flushall()
        return samples

    for measurement, count in measurements.items():
        runs = [uvloop.run(measure(measurement, count)) for _ in range(repeats)]
        for name in runs[0]:
            ours, baseline = zip(*(samples[name] for samples in runs), strict=True)
            yield Result(name, *TITLES[name], ours, baseline)
