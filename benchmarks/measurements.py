"""The measures, one function each: repetitions of ours and of the floor take turns.

Called by `aragora-q bench` and `bench/run.py`. Every measure leaves the stand's server empty.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop

from aragora_q.base import Job, JobStatus
from aragora_q.bench import floor
from aragora_q.bench.client import config, new_jobs
from aragora_q.bench.figures import Figure
from aragora_q.bench.jobs import payload
from aragora_q.bench.stand import Stand
from aragora_q.scripts import batched
from aragora_q.streams import RedisStreamsQueue

CONCURRENCY = 100
LOAD_BATCH = 10_000
SCORES = 1_000
"""How many completion times are asked for at once."""

WAIT_SECONDS = 120.0
SETTLING_SECONDS = 0.5
"""After a worker has signed on, until it has nothing left to do but wait."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured. The defaults take about two minutes."""

    repeats: int = 5
    drain: int = 20_000
    bulk: int = 20_000
    single: int = 3_000
    latency: int = 500
    memory: int = 20_000
    few: int = 2_000
    many: int = 100_000
    windows: int = 10
    starts: int = 15


FULL = Sizes(repeats=7, many=1_000_000)


def run(stand: Stand, sizes: Sizes) -> Iterator[Figure]:
    """Every figure, as it is measured."""
    yield drain(stand, sizes)
    for name in ("bulk", "single"):
        yield clients(stand, name, getattr(sizes, name), sizes.repeats)
    yield from latency(stand, sizes)
    yield from memory(stand, sizes.memory)
    yield from backlog(stand, sizes)
    yield idle_worker(stand, sizes.repeats)
    yield from cold_starts(stand, sizes.starts)


def drain(stand: Stand, sizes: Sizes) -> Figure:
    """Jobs per second that one worker process takes from start to recorded outcome."""
    ours, bare = [], []
    for _ in range(sizes.repeats):
        seconds = stand.answer(
            stand.python("aragora_q.bench.floor", "drain", stand.port, sizes.drain)
        )
        bare.append(sizes.drain / seconds)
        stand.flush()
        jobs = new_jobs(sizes.drain)
        _enqueue(stand, jobs)
        with stand.worker("noop", CONCURRENCY, "--burst") as worker:
            worker.finish()
        ours.append(_completed_rate(stand, jobs))
        stand.flush()
    return Figure("drain", ours, bare)


def _completed_rate(stand: Stand, jobs: list[Job]) -> float:
    """By the server's own record: from the first job's start to the last one's completion."""
    keys = RedisStreamsQueue(config(stand.port)).connection.keys
    began_ms = int(stand.client.hget(keys.job(jobs[0].id), "started_at"))
    ended_ms = max(
        max(stand.client.zmscore(keys.completed, [job.id for job in batch]))
        for batch in batched(jobs, SCORES)
    )
    return float(len(jobs) / ((ended_ms - began_ms) / 1000))


def clients(stand: Stand, name: str, count: int, repeats: int) -> Figure:
    """Jobs per second that one client puts in: `bulk`, or one awaited after the other, `single`."""
    rates: dict[str, list[float]] = {"client": [], "floor": []}
    for _ in range(repeats):
        for side, measured in rates.items():
            process = stand.python(f"aragora_q.bench.{side}", name, stand.port, count)
            measured.append(count / stand.answer(process))
            stand.flush()
    return Figure(name, rates["client"], rates["floor"])


def latency(stand: Stand, sizes: Sizes) -> tuple[Figure, Figure]:
    """From the call of enqueue to the first line of the executor, in a worker that waits for work."""
    ours: list[list[float]] = []
    bare: list[list[float]] = []
    for _ in range(sizes.repeats):
        bare.append(_floor_ages(stand, sizes.latency))
        stand.flush()
        with stand.worker("clock", CONCURRENCY):
            ours.append(_with_queue(stand, lambda queue: _start_ages(queue, sizes.latency)))
        stand.flush()

    def percentile(ages: list[float], percent: int) -> float:
        return quantiles(ages, n=100)[percent - 1] * 1000

    return tuple(  # type: ignore[return-value]
        Figure(
            f"latency_p{percent}",
            [percentile(ages, percent) for ages in ours],
            [percentile(ages, percent) for ages in bare],
        )
        for percent in (50, 99)
    )


def _floor_ages(stand: Stand, count: int) -> list[float]:
    receiver = stand.python("aragora_q.bench.floor", "receive", stand.port, count)

    async def send_all() -> None:
        client = floor.connect(stand.port)
        await _until(lambda: client.exists(floor.STREAM))
        for _ in range(count):
            await floor.send(client)
            await asyncio.sleep(PAUSE_SECONDS)
        await client.aclose()

    uvloop.run(send_all())
    ages: list[float] = stand.answer(receiver)
    return ages


async def _start_ages(queue: RedisStreamsQueue, count: int) -> list[float]:
    await _until(queue.tracker.worker_ids)
    sent: dict[str, int] = {}
    for _ in range(count):
        job = Job(payload=payload())
        sent[job.id] = time.monotonic_ns()
        await queue.enqueue(job)
        await asyncio.sleep(PAUSE_SECONDS)
    ages = []
    for job_id, sent_ns in sent.items():
        await _until(partial(_is_completed, queue, job_id))
        done = await queue.get_job(job_id)
        ages.append((done.result["started_ns"] - sent_ns) / 1e9)  # type: ignore[union-attr,index]
    return ages


PAUSE_SECONDS = 0.005
"""Between two jobs of the latency measure: long enough for both sides to be waiting again."""


async def _is_completed(queue: RedisStreamsQueue, job_id: str) -> bool:
    return await queue.get_status(job_id) is JobStatus.COMPLETED


def memory(stand: Stand, count: int) -> Iterator[Figure]:
    """Bytes of the server's memory per job: all that is kept of it, but for the capped tail of events."""
    events = RedisStreamsQueue(config(stand.port)).connection.keys.events

    def kept_bytes() -> int:
        return stand.used_bytes() - int(stand.client.memory_usage(events, samples=0) or 0)

    empty = kept_bytes()
    _enqueue(stand, new_jobs(count))
    yield Figure("waiting_bytes", [(kept_bytes() - empty) / count])
    with stand.worker("noop", CONCURRENCY, "--burst") as worker:
        worker.finish()
    yield Figure("finished_bytes", [(kept_bytes() - empty) / count])
    stand.flush()


def backlog(stand: Stand, sizes: Sizes) -> Iterator[Figure]:
    """Whether a deep backlog slows the worker or `stats`: few jobs at a time, then a fifth of many.

    A fifth, because the server's table of keys may double on the way: while its entries move, which at
    a million takes some 70,000 jobs, each job costs the server half as much again.
    """
    with stand.worker("noop", CONCURRENCY):
        few, few_stats = [], []
        for _ in range(sizes.windows + 1):
            with _paused(stand):
                jobs = new_jobs(sizes.few)
                _enqueue(stand, jobs)
                few_stats.append(_stats_ms(stand))
            _await_completed(stand, jobs)
            few.append(_completed_rate(stand, jobs))
        with _paused(stand):
            first: list[Job] = []
            for number in range(0, sizes.many, LOAD_BATCH):
                jobs = new_jobs(min(LOAD_BATCH, sizes.many - number))
                _enqueue(stand, jobs)
                if len(first) < sizes.many // 5:
                    first += jobs
            many_stats = [_stats_ms(stand) for _ in range(sizes.windows)]
        # Wider windows: those of one long drain overlap by the jobs in flight, the few's stand alone.
        windows = list(batched(first, sizes.few * 5 // 2))
        _await_completed(stand, first)
    many = [_completed_rate(stand, window) for window in windows]
    yield Figure("deep_drain", many, [median(few[1:])] * len(many))
    yield Figure("deep_stats", many_stats, few_stats[1:])
    stand.flush()


@contextmanager
def _paused(stand: Stand) -> Iterator[None]:
    """No job starts while jobs are put in place."""
    _with_queue(stand, lambda queue: queue.pause())
    yield
    _with_queue(stand, lambda queue: queue.pause(paused=False))


def _stats_ms(stand: Stand) -> float:
    async def timed(queue: RedisStreamsQueue) -> float:
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            await queue.get_queue_stats()
            taken.append(time.perf_counter() - began)
        return median(taken) * 1000

    return float(_with_queue(stand, timed))


def _await_completed(stand: Stand, jobs: list[Job]) -> None:
    """Until all have ended, which were started in this order: the last may end before those beside it."""

    async def all_completed(queue: RedisStreamsQueue) -> None:
        for job in jobs[-2 * CONCURRENCY :]:
            await _until(partial(_is_completed, queue, job.id), 0.05)

    _with_queue(stand, all_completed)


def idle_worker(stand: Stand, repeats: int) -> Figure:
    """Resident memory of a worker process that waits for its first job."""
    measured = []
    for _ in range(repeats):
        with stand.worker("noop", CONCURRENCY) as worker:
            _with_queue(stand, lambda queue: _until(queue.tracker.worker_ids))
            time.sleep(SETTLING_SECONDS)
            measured.append(worker.rss_bytes() / 1e6)
        stand.flush()
    return Figure("idle_rss", measured)


def cold_starts(stand: Stand, repeats: int) -> Iterator[Figure]:
    """Whole processes, from the shell's view, against the bare interpreter."""
    script = Path(sys.executable).with_name("aragora-q")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "aragora_q"]
    to_server = ["--redis-url", stand.url]
    _with_queue(stand, lambda queue: queue.enqueue(Job(payload=payload(), id="known")))
    commands = {
        "start_version": [*program, "--version"],
        "start_help": [*program, "--help"],
        "start_status": [*program, "status", "known", *to_server],
        "start_enqueue": [
            *program, "enqueue", "Is this fast?", "--agents", "demo,demo", "--quiet", *to_server
        ],
    }  # fmt: skip
    bare = [sys.executable, "-c", "pass"]
    for command in commands.values():
        _process_ms(command)
    taken: dict[str, list[float]] = {key: [] for key in (*commands, "bare")}
    for _ in range(repeats):
        taken["bare"].append(_process_ms(bare))
        for key, command in commands.items():
            taken[key].append(_process_ms(command))
    for key in commands:
        yield Figure(key, taken[key], taken["bare"])
    stand.flush()


def _process_ms(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
    return (time.perf_counter() - began) * 1000


def _enqueue(stand: Stand, jobs: list[Job]) -> None:
    _with_queue(stand, lambda queue: queue.enqueue_many(jobs))


def _with_queue(stand: Stand, work: Callable[[RedisStreamsQueue], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        queue = RedisStreamsQueue(config(stand.port))
        try:
            return await work(queue)
        finally:
            await queue.close()

    return uvloop.run(go())


async def _until(condition: Callable[[], Awaitable[Any]], pause_seconds: float = 0.01) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came of it within {WAIT_SECONDS:.0f} s")
        await asyncio.sleep(pause_seconds)
