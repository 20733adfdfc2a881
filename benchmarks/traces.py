"""What traces cost: measurements with spans sent to a receiver on loopback, and without.

Called by `measurements.py`. Run as a program, this module is the receiver, which discards everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import uvloop

from aragora_q import bench
from aragora_q.bench import AGENTS, NOOP, QUESTION, Place, Result, Samples, Testbed, new_job
from aragora_q.config.settings import QueueConfig
from aragora_q.observability import otel
from aragora_q.streams.queue import RedisStreamsQueue
from benchmarks import processes

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TITLES = {
    "traces_drain": ("drain, with / without traces", "jobs/s"),
    "traces_single": ("single awaited enqueue, with / without traces", "jobs/s"),
    "traces_start": ("aragora-q enqueue, with / without traces", "ms"),
}


def on_and_off(
    testbed: Testbed, repeats: int, drained: int, enqueued: int, starts: int
) -> Iterator[Result]:
    """Measure with and without traces, in turn."""
    with _receiver() as url:
        counts = {partial(drain, url): drained, partial(single, url): enqueued}
        yield from bench.run(testbed, repeats, counts, TITLES)
        yield from bench.run(testbed, starts, {partial(start, url): 1}, TITLES)


async def drain(url: str, testbed: Testbed, place: Place, count: int) -> Samples:
    """Measure the drain of one worker process."""

    async def rate() -> float:
        found, _ = await bench.drain_by_workers(testbed, [place], count, count, 1, NOOP)
        await place.client.flushall()
        return found

    with _sent_to(url):
        traced = await rate()
    return {"traces_drain": (traced, await rate())}


async def single(url: str, testbed: Testbed, place: Place, count: int) -> Samples:
    """Measure awaited enqueues in a separate process, because a process that traces cannot stop tracing."""

    def rate() -> float:
        with testbed.separate_processes() as pool:
            return pool.apply(_enqueue, (place.queue.config.redis_url, count))

    with _sent_to(url):
        traced = rate()
    return {"traces_single": (traced, rate())}


def _enqueue(redis_url: str, count: int) -> float:
    """Return how many jobs a second are enqueued."""

    async def measure() -> float:
        queue = RedisStreamsQueue(QueueConfig(redis_url=redis_url))
        try:
            await queue.enqueue(new_job())
            began = time.perf_counter()
            for _ in range(count):
                await queue.enqueue(new_job())
            return count / (time.perf_counter() - began)
        finally:
            await queue.close()

    with otel.exporting():
        return uvloop.run(measure())


async def start(url: str, testbed: Testbed, _place: Place, _count: int) -> Samples:
    """Time the whole command `enqueue`, which sends its span before it ends."""
    command = [*processes.PROGRAM, "enqueue", QUESTION, "--agents", ",".join(AGENTS), "--quiet"]
    with testbed.pinned():
        traced, plain = (
            processes.process_ms(
                command, env=processes.environment(REDIS_URL=testbed.url, **variables)
            )
            for variables in ({ENDPOINT: url}, {})
        )
    return {"traces_start": (traced, plain)}


@contextmanager
def _sent_to(url: str) -> Iterator[None]:
    """Let processes that the body starts send their spans to `url`."""
    os.environ[ENDPOINT] = url
    try:
        yield
    finally:
        del os.environ[ENDPOINT]


@contextmanager
def _receiver() -> Iterator[str]:
    """Run the receiver; yield its address."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class _Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Print nothing."""


def main() -> None:
    """Receive until killed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Receiver) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
