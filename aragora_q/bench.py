"""Measure this queue against a hand-written baseline. Used by `aragora-q bench` and `benchmarks/`.

Both run in turn on a private server, which has one CPU; clients and workers share another. The baseline
is the least work that a queue on Redis Streams can do, with redis-py, hiredis and uvloop: no fences,
counters, indexes, retries, leases, metrics or logs. No other module of the product imports this one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import redis
import redis.asyncio
import redis.backoff
import redis.retry
import uvloop

from aragora_q import codec
from aragora_q.base import Job, JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Executor
from aragora_q.errors import ConfigError
from aragora_q.job import create_debate_job
from aragora_q.process import child_environment
from aragora_q.streams.queue import RedisStreamsQueue

SERVERS = ("redis-server", "valkey-server")
START_SECONDS, STOP_SECONDS, RUN_SECONDS = 20.0, 60.0, 600.0
BATCH, CONCURRENCY, WARM_UP_JOBS, ENQUEUE_JOBS = 100, 100, 500, 10_000
PAUSE_SECONDS = 0.005
"""Between two jobs of the latency measurement: the client and the worker are both waiting again."""

SETTLE_SECONDS = 0.5
"""After a worker is registered, until it does nothing but wait for jobs."""

POLL_SECONDS = 0.02

AGENTS = ["demo:bold", "demo:careful", "demo:curious"]
QUESTION = ("Should we split the service, and if so, which part of it first? Why? " * 3)[:198]
"""Of a debate whose payload has 300 bytes as JSON."""


def new_job() -> Job:
    """Return a job as users make it, with the measured payload."""
    return create_debate_job(QUESTION, AGENTS)


PAYLOAD = new_job().payload
ENTRY = {"payload": codec.encode(PAYLOAD)}
RESULT, RESULT_TTL_SECONDS = {"done": True}, 7 * 86_400
NOOP = f"{__name__}:noop"
GROUP = "baseline"


def new_jobs(count: int) -> list[Job]:
    """Return jobs with the measured payload, where making them is not measured."""
    return [Job(payload=PAYLOAD) for _ in range(count)]


Samples = dict[str, tuple[float, ...]]
"""The queue's value of each result, and the baseline's if there is one."""


class Place(NamedTuple):
    """A queue, and a client of the server that has its keys. The baseline's keys have the same hash tag."""

    queue: RedisStreamsQueue
    client: Any

    @property
    def prefix(self) -> str:
        """Of the baseline's keys."""
        return f"{{{self.queue.config.queue}}}:"

    @property
    def stream(self) -> str:
        """The baseline's stream."""
        return f"{self.prefix}stream"

    @property
    def port(self) -> int:
        """Port of the server."""
        port: int = self.client.connection_pool.connection_kwargs["port"]
        return port


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


HEAD = ["measurement", "aragora-q", "baseline", "ratio", "range"]
LEGEND = (
    "The ratio is the median over repetitions of aragora-q / baseline; higher is better for rates, "
    "lower for latencies. The baseline is the least that a queue on Redis Streams can do, written by hand: "
    "docs/performance.md describes it."
)


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
    """A private server, pinned to one CPU, and workers, pinned to another.

    The server keeps no file, unless `options` of the server program say so. Raises ConfigError if the
    program does not start as a server.
    """

    def __init__(self, program: str, *options: str) -> None:
        self.program = program
        self._cpus = sorted(os.sched_getaffinity(0))
        self._directory = Path(tempfile.mkdtemp(prefix="aragora-q-bench-"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        no_retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        self.client: Any = redis.Redis(port=self.port, protocol=2, retry=no_retry)
        self._server: subprocess.Popen[bytes] | None = None
        try:
            self._server = self._start(
                program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(self._directory), *options, cpu=self._cpus[0],
            )  # fmt: skip
            self.server = self._wait_for_server(self._server)
        except OSError as error:
            self.close()
            raise self._no_server(error.strerror or str(error)) from None
        except BaseException:
            self.close()
            raise

    def _wait_for_server(self, process: subprocess.Popen[bytes]) -> str:
        """Return the name and version of the server when it answers. Raises ConfigError if it never does."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                info = self.client.info("server")
            except redis.RedisError as error:
                if process.poll() is not None:
                    said = (self._directory / "log").read_text(errors="replace").split("\n")
                    last = next(filter(str.strip, reversed(said)), "")[:200]
                    code = f"it ended with exit code {process.returncode}"
                    raise self._no_server(f"{code}: {last}" if last else code) from None
                if time.monotonic() > deadline:
                    raise self._no_server(f"it does not answer: {error}") from None
                time.sleep(POLL_SECONDS)
            else:
                version = info.get("valkey_version")
                return f"Valkey {version}" if version else f"Redis {info['redis_version']}"

    def _no_server(self, reason: str) -> ConfigError:
        return ConfigError(f"`{self.program}` did not start as a Redis server: {reason}")

    def _start(self, *command: str, cpu: int) -> subprocess.Popen[bytes]:
        """Start a process in a new session: signals reach its children, too."""
        with (self._directory / "log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command, stdout=log, stderr=log, env=child_environment(), start_new_session=True
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
    def worker(
        self, executor: str, *options: str, config: QueueConfig | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker process with default logging and metrics; `config` names another queue or server."""
        url, queue = (config.redis_url, config.queue) if config else (self.url, "debates")
        process = self._start(
            sys.executable, "-m", "aragora_q", "worker", "--redis-url", url, "--queue", queue,
            "--executor", executor, "--concurrency", str(CONCURRENCY), *options, cpu=self._cpus[-1],
        )  # fmt: skip
        try:
            yield process
        finally:
            _stop(process)

    def run_all_jobs(self, executor: str = NOOP) -> None:
        """Run a worker process until the queue is empty. Raises RuntimeError if the worker fails."""
        with self.worker(executor, "--burst") as process:
            if process.wait(RUN_SECONDS):
                raise RuntimeError((self._directory / "log").read_text()[-500:])

    def separate_processes(self, count: int = 1) -> Pool:
        """Return processes that are pinned to the workers' CPU. Leaving the context kills them."""
        before = dict(os.environ)
        os.environ |= child_environment()  # a pool has no option for the environment
        try:
            return get_context("spawn").Pool(count, os.sched_setaffinity, (0, self._cpus[-1:]))
        finally:
            os.environ.clear()
            os.environ |= before

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[RedisStreamsQueue]:
        """Open a queue with default settings."""
        queue = RedisStreamsQueue(QueueConfig(redis_url=self.url))
        try:
            yield queue
        finally:
            await queue.close()

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server has used."""
        used = self.client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])

    def close(self) -> None:
        """Stop the server and delete its data."""
        self.client.close()
        if self._server:
            _stop(self._server)
        shutil.rmtree(self._directory, ignore_errors=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process in order, or else kill it and its children."""
    process.terminate()
    send(process, signal.SIGCONT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        send(process, signal.SIGKILL)
        process.wait()


def send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process of a testbed and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


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


async def completed(queue: RedisStreamsQueue, job_id: str) -> Job:
    """Wait until a job is completed and return it."""
    while True:
        job = await queue.get_job(job_id)
        if job is not None and job.status is JobStatus.COMPLETED:
            return job
        await asyncio.sleep(0.01)


async def workers_are_registered(queue: RedisStreamsQueue, count: int = 1) -> None:
    """Wait until so many workers are registered."""
    while len(await queue.tracker.worker_ids()) < count:  # noqa: ASYNC110 - they are other processes
        await asyncio.sleep(0.01)


def connect(port: int) -> Any:
    """Return redis-py's client in its fastest configuration: RESP2, no timer for each reply."""
    return redis.asyncio.Redis(port=port, protocol=2, socket_timeout=None)


async def seconds(testbed: Testbed, work: Awaitable[Any]) -> float:
    """Return how long `work` takes on the workers' CPU."""
    with testbed.pinned():
        began = time.perf_counter()
        await work
        return time.perf_counter() - began


async def add(place: Place, count: int) -> None:
    """Enqueue as the baseline does: pipelines of XADD."""
    for first in range(0, count, BATCH):
        pipeline = place.client.pipeline(transaction=False)
        for _ in range(min(BATCH, count - first)):
            pipeline.xadd(place.stream, ENTRY)
        await pipeline.execute()


async def bulk(testbed: Testbed, place: Place, count: int) -> Samples:
    """Compare making jobs and `enqueue_many` with pipelined XADD."""

    async def enqueue() -> None:
        await place.queue.enqueue_many(new_job() for _ in range(count))

    ours = await seconds(testbed, enqueue())
    return {"bulk": (count / ours, count / await seconds(testbed, add(place, count)))}


async def single(testbed: Testbed, place: Place, count: int) -> Samples:
    """Compare making a job and an awaited `enqueue`, one after another, with one awaited XADD after another."""

    async def enqueue() -> None:
        for _ in range(count):
            await place.queue.enqueue(new_job())

    async def add_one_by_one() -> None:
        for _ in range(count):
            await place.client.xadd(place.stream, ENTRY)

    ours = await seconds(testbed, enqueue())
    return {"single": (count / ours, count / await seconds(testbed, add_one_by_one()))}


async def drain(testbed: Testbed, place: Place, count: int) -> Samples:
    """Compare a worker, from a job's start to its recorded outcome, with `_run_baseline`."""
    return {"drain": await drain_rates(testbed, [place], count)}


async def drain_rates(
    testbed: Testbed,
    places: Sequence[Place],
    count: int,
    *,
    backlog: int | None = None,
    executor: str = NOOP,
    result: Mapping[str, Any] = RESULT,
    processes: int = 1,
) -> tuple[float, float]:
    """Return the jobs per second of workers with `executor`, which returns `result`, and of the baseline.

    In each place, `processes` of them drain the first `count` jobs of `backlog` (by default, of `count`).
    """
    sizes = count, backlog or count, processes
    ours, _ = await drain_by_workers(testbed, places, *sizes, executor)
    for place in places:
        await place.client.flushall()
    return ours, await _drain_by_baseline(testbed, places, *sizes, codec.encode(result))


async def drain_by_workers(
    testbed: Testbed,
    places: Sequence[Place],
    count: int,
    backlog: int,
    processes: int,
    executor: str,
) -> tuple[float, float]:
    """Return the jobs per second, and the CPU time of the testbed's server for each in µs.

    The workers wait for jobs, and are stopped while these are enqueued: all of them begin at the same moment.
    """
    with ExitStack() as stack:
        workers = [
            stack.enter_context(testbed.worker(executor, config=place.queue.config))
            for place in places
            for _ in range(processes)
        ]
        for place in places:
            await workers_are_registered(place.queue, processes)
        await asyncio.sleep(SETTLE_SECONDS)
        for worker in workers:
            send(worker, signal.SIGSTOP)
        for place in places:
            for first in range(0, backlog, ENQUEUE_JOBS):
                await place.queue.enqueue_many(new_jobs(min(ENQUEUE_JOBS, backlog - first)))
        began_ms, used = time.time() * 1000, testbed.cpu_seconds()  # the servers' clock, too
        for worker in workers:
            send(worker, signal.SIGCONT)
        ended_ms = max([await _completed_at_ms(place, count) for place in places])
        used = testbed.cpu_seconds() - used
    return len(places) * count / (ended_ms - began_ms) * 1000, used / count * 1e6


async def _completed_at_ms(place: Place, count: int) -> float:
    """Wait for the end of job number `count` and return its time."""
    index = place.queue.connection.keys.completed
    while await place.client.zcard(index) < count:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(POLL_SECONDS)
    [(_, ended_ms)] = await place.client.zrange(index, count - 1, count - 1, withscores=True)
    return float(ended_ms)


async def _drain_by_baseline(
    testbed: Testbed,
    places: Sequence[Place],
    count: int,
    backlog: int,
    processes: int,
    result: bytes,
) -> float:
    """Return the jobs per second; all processes begin at the same moment."""
    for place in places:
        await place.client.xgroup_create(place.stream, GROUP, mkstream=True)
        await add(place, backlog)
    with testbed.separate_processes(len(places) * processes) as pool:
        runs = [
            _call(pool, _run_baseline, place.port, place.prefix, place.stream, count, result)
            for place in places
            for _ in range(processes)
        ]
        for place in places:
            while await _waiting_clients(place.client) < processes:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(POLL_SECONDS)
        for place in places:
            await place.client.rpush(f"{place.prefix}go", *range(processes))
        began, ended = zip(*await asyncio.gather(*runs), strict=True)
    return float(len(places) * count / (max(ended) - min(began)))


async def _waiting_clients(client: Any) -> int:
    return int((await client.info("clients"))["blocked_clients"])


def _call(pool: Pool, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    """Call a function in another process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    pool.apply_async(
        function,
        arguments,
        callback=lambda value: loop.call_soon_threadsafe(done.set_result, value),
        error_callback=lambda error: loop.call_soon_threadsafe(done.set_exception, error),
    )
    return done


def _run_baseline(
    port: int, prefix: str, stream: str, most: int, result: bytes
) -> tuple[float, float]:
    """Drain a stream in a loop of pipelines: XREADGROUP COUNT 100, then for each job XACK, XDEL, HSET, EXPIRE.

    Runs in a separate process. Ends after `most` jobs; returns when it began and ended.
    """

    async def run() -> tuple[float, float]:
        done, consumer = 0, str(os.getpid())
        async with connect(port) as client:
            await client.blpop(f"{prefix}go")
            began = time.monotonic()
            while done < most:
                reply = await client.xreadgroup(GROUP, consumer, {stream: ">"}, count=BATCH)
                if not reply:
                    break
                [[_, entries]] = reply
                pipeline = client.pipeline(transaction=False)
                for entry_id, _ in entries:
                    key = f"{prefix}job:{entry_id.decode()}"
                    pipeline.xack(stream, GROUP, entry_id)
                    pipeline.xdel(stream, entry_id)
                    pipeline.hset(key, mapping={"status": "completed", "result": result})
                    pipeline.expire(key, RESULT_TTL_SECONDS)
                await pipeline.execute()
                done += len(entries)
            return began, time.monotonic()

    return uvloop.run(run())


async def latency(testbed: Testbed, place: Place, count: int) -> Samples:
    """Compare the time from the call of `enqueue` until an idle worker's executor runs with the time
    from XADD until a blocked XREADGROUP returns.
    """
    queue, client = place
    jobs, sent_ns = new_jobs(count), {}
    with testbed.worker(f"{__name__}:clock"):
        await workers_are_registered(queue)
        for job in jobs:
            sent_ns[job.id] = time.monotonic_ns()
            await queue.enqueue(job)
            await asyncio.sleep(PAUSE_SECONDS)
        results = {job.id: (await completed(queue, job.id)).result or {} for job in jobs}
    ours = [(results[job_id]["started_ns"] - sent) / 1e6 for job_id, sent in sent_ns.items()]

    await client.flushall()
    with testbed.separate_processes() as pool:
        ages = _call(pool, _receive, place.port, place.stream, count)
        while not await client.exists(place.stream):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)
        for _ in range(count):
            await asyncio.sleep(PAUSE_SECONDS)
            await client.xadd(place.stream, {**ENTRY, "sent_ns": time.monotonic_ns()})
        percentiles = quantiles(ours, n=100), quantiles(await ages, n=100)
    return {f"latency_p{n}": (percentiles[0][n - 1], percentiles[1][n - 1]) for n in (50, 99)}


def _receive(port: int, stream: str, count: int) -> list[float]:
    """Return the age in ms of each entry when XREADGROUP returns it; runs in a separate process."""

    async def receive() -> list[float]:
        ages: list[float] = []
        async with connect(port) as client:
            await client.xgroup_create(stream, GROUP, mkstream=True)
            while len(ages) < count:
                [[_, entries]] = await client.xreadgroup(GROUP, GROUP, {stream: ">"}, block=0)
                now_ns = time.monotonic_ns()
                ages += [(now_ns - int(entry[b"sent_ns"])) / 1e6 for _, entry in entries]
        return ages

    return uvloop.run(receive())


Measurement = Callable[[Testbed, Place, int], Awaitable[Samples]]
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
    testbed: Testbed,
    repeats: int,
    measurements: Mapping[Measurement, int] = MEASUREMENTS,
    titles: Mapping[str, tuple[str, str]] = TITLES,
) -> Iterator[Result]:
    """Run every measurement `repeats` times; the server is empty before and after each run."""

    async def measure(measurement: Measurement, count: int) -> Samples:
        async with (
            asyncio.timeout(RUN_SECONDS),
            testbed.queue() as queue,
            connect(testbed.port) as client,
        ):
            place = Place(queue, client)
            await queue.enqueue_many(new_jobs(WARM_UP_JOBS))
            await add(place, WARM_UP_JOBS)
            await client.flushall()
            samples = await measurement(testbed, place, count)
            await client.flushall()
        return samples

    for measurement, count in measurements.items():
        runs = [uvloop.run(measure(measurement, count)) for _ in range(repeats)]
        for name in runs[0]:
            values = zip(*(samples[name] for samples in runs), strict=True)
            yield Result(name, *titles[name], *values)
