"""The stand: a private server on one core, what is measured on the other.

Used by `measures`. The server is a real one, started for the run on a free loopback port, without
AOF, its data in a directory that goes away with it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from aragora_q.errors import ConfigError

START_SECONDS = 20.0
STOP_SECONDS = 60.0
SERVERS = ("redis-server", "valkey-server")


def find_server(path: str | None = None) -> str:
    """The server program to measure on: `path`, or the first of SERVERS on PATH. Raises ConfigError."""
    candidates = (path,) if path else SERVERS
    for name in candidates:
        if found := shutil.which(name):
            return found
    raise ConfigError(
        f"no server to measure on: {' or '.join(candidates)} is no program here",
        hint="install redis-server, or name one with --server PATH",
    )


def cores() -> tuple[int, int] | None:
    """The server's core and everybody else's; None where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else None


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Stand:
    """A running server, and a way to run processes beside it."""

    def __init__(self, program: str) -> None:
        self._cores = cores()
        self._directory = Path(tempfile.mkdtemp(prefix="aragora-q-bench-"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._server = self._popen(
            [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--appendonly", "no", "--dir", str(self._directory)], core=0,
        )  # fmt: skip
        self.client: Any = redis.Redis(port=self.port, protocol=2)
        self._await_server()

    def _await_server(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline or self._server.poll() is not None:
                    raise
                time.sleep(0.01)
            else:
                return

    def _popen(self, command: list[str], *, core: int, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
        process = subprocess.Popen(command, **options)  # noqa: S603 - our own programs
        if self._cores:
            os.sched_setaffinity(process.pid, {self._cores[core]})
        return process

    def python(self, module: str, *args: str | int) -> subprocess.Popen[bytes]:
        """A measuring process: `python -m module args`, its standard output to be read."""
        command = [sys.executable, "-m", module, *map(str, args)]
        return self._popen(command, core=1, stdout=subprocess.PIPE, stderr=None)

    def answer(self, process: subprocess.Popen[bytes]) -> Any:
        """The JSON that a measuring process ends with."""
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        return json.loads(out)

    @contextmanager
    def worker(self, executor: str, concurrency: int, *flags: str) -> Iterator[Worker]:
        """The product's own worker process, with its default logging (into a file) and metrics."""
        command = [
            sys.executable, "-m", "aragora_q", "worker", "--redis-url", self.url,
            "--executor", f"aragora_q.bench.jobs:{executor}", "--concurrency", str(concurrency), *flags,
        ]  # fmt: skip
        with (self._directory / "worker.log").open("wb") as log:
            worker = Worker(self._popen(command, core=1, stderr=log), Path(log.name))
        try:
            yield worker
        finally:
            worker.stop()

    def flush(self) -> None:
        """Begin again with an empty server."""
        self.client.flushall()

    def used_bytes(self) -> int:
        """Memory the server has in use."""
        return int(self.client.info("memory")["used_memory"])

    def close(self) -> None:
        """Stop the server."""
        self.client.close()
        self._server.terminate()
        self._server.wait(STOP_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)


class Worker:
    """A worker process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def finish(self) -> None:
        """Wait for the end of a burst."""
        if self._process.wait(600):
            raise RuntimeError(f"the worker failed: {self._log.read_text()[-500:]}")

    def rss_bytes(self) -> int:
        """Its resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kib) * 1024

    def stop(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
