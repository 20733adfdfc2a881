"""Measure a console under load: `python -m benchmarks.web [STREAMS [REQUESTS_PER_SECOND [SECONDS]]]`.

A real `aragora-q web` on a server with jobs, while a worker runs demo debates. Some clients keep event streams
open, others read the API at a fixed rate; the time of an answer counts from the moment at which its request was
due. The clients have a lower priority than the console, because they share its processors. Prints a table;
`PROFILE=FILE` writes a profile of the console, for `python -m pstats FILE`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import cast

import uvloop

from aragora_q.base import Job
from aragora_q.bench import Testbed, find_server, free_port
from aragora_q.config.settings import QueueConfig
from aragora_q.process import child_environment
from aragora_q.streams.queue import RedisStreamsQueue

STREAMS, REQUESTS_PER_SECOND, SECONDS = 500, 200, 30.0
FINISHED_JOBS, WAITING_JOBS = 100, 2_000
CONNECTIONS = 32
"""Connections on which requests wait for each other."""

ADDRESSES = [f"127.0.0.{n}" for n in range(2, 12)]
"""Clients' addresses: each may have a hundred streams."""

NICENESS = 10
SETTLE_SECONDS = 2.0
"""After the streams were opened."""

WHOLE_OF_TEN = 8
"""Of ten streams, those that follow the whole queue."""

API = "/api/v1/queues/debates"
PATHS = [
    "jobs?limit=50",
    "jobs/j{}",
    "jobs?status=completed&limit=50",
    "stats",
    "jobs/j{}/debate",
    "workers",
]
"""Reads of the API in turn; the number of a job takes the place of `{}`."""


class Stream(asyncio.Protocol):
    """One client of the events."""

    def __init__(self, path: str) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.is_open = False
        self.events = self.gaps = self.bytes = 0
        self.lags: list[float] = []
        """Time from each event to its arrival in seconds, of the first one of each packet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self.is_open = self.is_open or data.startswith(b"HTTP/1.1 200")
        self.bytes += len(data)
        self.events += data.count(b'data: {"event_id"')
        self.gaps += data.count(b"event: gap")
        _, found, rest = data.partition(b'"at":')
        if found:
            self.lags.append(time.time() - int(rest.partition(b",")[0]) / 1000)

    def connection_lost(self, _: Exception | None) -> None:
        self.is_open = False


@dataclass
class Answers:
    """The times of answers in ms by path, and how often each status was the answer."""

    times: dict[str, list[float]] = field(default_factory=lambda: {path: [] for path in PATHS})
    statuses: Counter[int] = field(default_factory=Counter)


class Client:
    """One connection for requests, one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        if not hasattr(self, "_reader"):
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return int(head[9:12]), await self._reader.readexactly(int(length))

    def close(self) -> None:
        """Close the connection."""
        if hasattr(self, "_writer"):
            self._writer.close()


@contextmanager
def console(url: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a console."""
    profile = os.environ.get("PROFILE")
    program = ["-m", "cProfile", "-o", profile] if profile else []
    process = subprocess.Popen(
        [sys.executable, *program, "-m", "aragora_q", "web", "--listen", f"127.0.0.1:{port}"],
        env=child_environment()
        | {"REDIS_URL": url, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT if profile else signal.SIGTERM)
        process.wait(30)


@contextmanager
def worker(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker, which runs debates of demo agents."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aragora_q", "worker", "--concurrency", "4"],
        env=child_environment()
        | {"REDIS_URL": url, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def first_page(client: Client) -> float:
    """Return how long it takes until the first page is complete."""
    started_at = time.monotonic()
    while True:
        try:
            status, body = await client.get("/")
        except OSError:
            await asyncio.sleep(0.005)
            continue
        if status != 200 or not body.rstrip().endswith(b"</html>"):
            print(f"the first page has status {status}", file=sys.stderr)
        return time.monotonic() - started_at


async def fill(queue: RedisStreamsQueue, worker: subprocess.Popen[bytes]) -> None:
    """Enqueue debates, and wait until some of them have ended. Raises RuntimeError if the worker fails."""
    payload = {"question": "Tea or coffee?", "agents": ["demo", "demo", "demo"], "rounds": 2}
    jobs = [Job(payload, id=f"j{n}") for n in range(FINISHED_JOBS + WAITING_JOBS)]
    await queue.enqueue_many(jobs)
    while (stats := await queue.get_queue_stats())["completed"] < FINISHED_JOBS:
        if worker.poll() is not None or stats["failed"]:
            raise RuntimeError("the worker ended, or debates fail")
        await asyncio.sleep(0.2)


async def send_requests(port: int, per_second: int, seconds: float) -> Answers:
    """Send requests at a fixed rate and return the times of their answers."""
    answers = Answers()
    numbers = iter(range(int(per_second * seconds)))
    begin = time.monotonic()

    async def send() -> None:
        client = Client(port)
        for number in numbers:
            due = begin + number / per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            path = PATHS[number % len(PATHS)]
            status, _ = await client.get(f"{API}/{path.format(number % FINISHED_JOBS)}")
            answers.times[path].append((time.monotonic() - due) * 1000)
            answers.statuses[status] += 1
        client.close()

    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))
    return answers


async def open_streams(port: int, count: int) -> list[Stream]:
    """Open streams: half of pages, half of the API; a fifth of them follow one job."""
    streams = []
    for n in range(count):
        path = ("/events", f"{API}/events")[n % 2]
        stream = Stream(f"{path}?job=j{FINISHED_JOBS + n}" if n % 10 >= WHOLE_OF_TEN else path)
        await asyncio.get_running_loop().create_connection(
            partial(_return, stream),
            "127.0.0.1",
            port,
            local_addr=(ADDRESSES[n % len(ADDRESSES)], 0),
        )
        streams.append(stream)
    await asyncio.sleep(SETTLE_SECONDS)
    return streams


def _return(stream: Stream) -> Stream:
    return stream


async def measure(testbed: Testbed, count: int, per_second: int, seconds: float) -> None:
    """Run the load and print what it took."""
    queue, port = RedisStreamsQueue(QueueConfig(redis_url=testbed.url)), free_port()
    with worker(testbed.url) as running:
        await fill(queue, running)
        with console(testbed.url, port) as process:
            client = Client(port)
            show("first page", f"{await first_page(client):.2f} s after the start of the process")
            client.close()
            os.nice(NICENESS)
            alone = memory(process.pid)
            streams = await open_streams(port, count)
            opened, cpu, begin = count_open(streams), cpu_seconds(process.pid), time.monotonic()
            answers = await send_requests(port, per_second, seconds)
            took = time.monotonic() - begin
            cpu = cpu_seconds(process.pid) - cpu
            gaps = sum(stream.gaps for stream in streams)
            whole = [each for n, each in enumerate(streams) if n % 2 and n % 10 < WHOLE_OF_TEN]
            events = sum(stream.events for stream in whole) / max(1, len(whole)) / took
            clients = testbed.client.client_list()
            readers = sum(each["cmd"] == "xread" for each in clients)
            most = memory(process.pid, "VmHWM")
            show("streams", f"{opened} opened, {count_open(streams)} at the end, {gaps} gaps")
            sent = sum(stream.bytes for stream in streams) / took / 1e6
            show("events", f"{events:.0f}/s for each stream of all, {sent:.1f} MB/s in all")
            lags = [lag * 1000 for stream in streams for lag in stream.lags]
            show("from event to client", spread(lags))
            statuses = dict(answers.statuses)
            show("requests", f"{answers.statuses.total() / took:.0f}/s, by status {statuses}")
            for path, values in answers.times.items():
                show(f"  {path}", spread(values))
            show("  all", spread([each for values in answers.times.values() for each in values]))
            show("processor", f"{cpu / took:.0%} of one")
            show("memory", f"{alone:.0f} MB without streams, {most:.0f} MB at most")
            show("Redis", f"{readers} reader of events, {len(clients)} connections of all")
    await queue.close()


def show(name: str, text: str) -> None:
    """Print a row."""
    print(f"{name:<30}  {text}", flush=True)


def count_open(streams: Sequence[Stream]) -> int:
    """Return the number of streams that are open."""
    return sum(stream.is_open for stream in streams)


def spread(values: Sequence[float]) -> str:
    """Return median, 99th percentile and maximum of times in ms."""
    if len(values) < 2:
        return "none"
    cuts = quantiles(values, n=100)
    return f"p50 {cuts[49]:6.1f} ms   p99 {cuts[98]:6.1f} ms   max {max(values):6.1f} ms   n {len(values):,}"


def memory(pid: int, name: str = "VmRSS") -> float:
    """Return the memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str]) -> None:
    """Measure with the numbers on the command line."""
    numbers = [float(text) for text in arguments]
    count, per_second, seconds = (
        *numbers,
        *(STREAMS, REQUESTS_PER_SECOND, SECONDS)[len(numbers) :],
    )
    testbed = Testbed(find_server())
    try:
        uvloop.run(measure(testbed, int(count), int(per_second), float(seconds)))
    finally:
        testbed.close()


if __name__ == "__main__":
    main(sys.argv[1:])
