"""What is measured of one queue: each on an empty server, the client or the worker on the other CPU."""

from __future__ import annotations

import json
import os
import shlex
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aragora_q.bench import Testbed
from benchmarks.peers.installing import PROGRAMS, Installed
from benchmarks.peers.table import Peer

SINGLE_JOBS, BULK_JOBS, BYTES_JOBS, LATENCY_JOBS = 2_000, 20_000, 2_000, 50
STARTS = 3
"""Starts of a command in one repetition."""

SETTLE_SECONDS = 0.5
"""After the last job, until the worker does nothing but wait for jobs."""

RUN_SECONDS, STOP_SECONDS, POLL_SECONDS = 180.0, 3.0, 0.02
RUN = struct.Struct("=q")  # as programs/peer.py writes it


class Memory(NamedTuple):
    """Of all processes of a worker: resident, and with shared pages divided among those that share them."""

    rss_mb: float
    pss_mb: float
    processes: int


@dataclass(frozen=True)
class Rig:
    """A server, the directory of the file that jobs write to, and the environment of one queue's programs."""

    testbed: Testbed
    peer: Peer
    environment: dict[str, str]
    directory: Path

    @property
    def runs(self) -> Path:
        """The file to which each job appends the time of its run."""
        return self.directory / "runs"

    def clear(self) -> None:
        """Empty the server, and forget which jobs have run."""
        self.testbed.client.flushall()
        self.runs.write_bytes(b"")

    def command(self, text: str) -> list[str]:
        """Return a command of the table as a list."""
        return shlex.split(text.format(url=self.testbed.url))

    def options(self) -> dict[str, Any]:
        """Return how a program of this queue is started."""
        return {"env": self.environment, "cwd": PROGRAMS}

    def client(self, operation: str, count: int) -> Any:
        """Return what the queue's program says about `count` jobs. Raises RuntimeError if it fails."""
        command = [*self.command(self.peer.client), operation, str(count)]
        with self.testbed.pinned():
            done = subprocess.run(
                command,
                **self.options(),
                check=False,
                capture_output=True,
                text=True,
                timeout=RUN_SECONDS,
            )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()[-500:]}")
        return json.loads(done.stdout.splitlines()[-1])

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker; afterwards, nothing that it started is left."""
        with (self.directory / "log").open("wb") as log, self.testbed.pinned():
            process = subprocess.Popen(
                self.command(self.peer.worker), **self.options(),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run_times_ns(self) -> list[int]:
        """Return when jobs ran, in the order in which they did."""
        return [time_ns for (time_ns,) in RUN.iter_unpack(self.runs.read_bytes())]

    def wait_for_runs(self, process: subprocess.Popen[bytes], jobs: int) -> None:
        """Wait until so many jobs have run. Raises RuntimeError if the worker ends or takes too long."""
        deadline = time.monotonic() + RUN_SECONDS
        while (size := self.runs.stat().st_size) < RUN.size * jobs:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "log").read_text(errors="replace").strip()[-500:]
                raise RuntimeError(f"{size // RUN.size} of {jobs} jobs have run: {log}")
            time.sleep(POLL_SECONDS)

    def used_bytes(self) -> int:
        """Return the memory that the server uses for its data."""
        return int(self.testbed.client.info("memory")["used_memory"])


@contextmanager
def rig(testbed: Testbed, peer: Peer, installed: Installed) -> Iterator[Rig]:
    """Return what measures one queue."""
    with tempfile.TemporaryDirectory(prefix="aragora-q-peers-") as directory:
        place = Path(directory)
        named = {"REDIS_URL": testbed.url, "RUNS": str(place / "runs")}
        yield Rig(testbed, peer, installed.environment | named, place)


def single(rig: Rig) -> float:
    """Return jobs per second of one enqueue after another."""
    rig.clear()
    return SINGLE_JOBS / rig.client("single", SINGLE_JOBS)["seconds"]


def bulk(rig: Rig) -> float:
    """Return jobs per second of the bulk call."""
    rig.clear()
    return BULK_JOBS / rig.client("bulk", BULK_JOBS)["seconds"]


def job_bytes(rig: Rig) -> float:
    """Return the memory of the server that one more waiting job takes; what is there once does not count."""
    rig.clear()
    rig.client("bulk", BYTES_JOBS)
    used_bytes = rig.used_bytes()
    jobs = rig.client("bulk", BYTES_JOBS)["jobs"]
    return (rig.used_bytes() - used_bytes) / jobs


def drain(rig: Rig) -> float:
    """Return jobs per second from the first job's run to the last one's."""
    rig.clear()
    jobs = rig.client("bulk", rig.peer.drain_jobs)["jobs"]
    with rig.worker() as process:
        rig.wait_for_runs(process, jobs)
    times_ns = rig.run_times_ns()
    return jobs / (max(times_ns) - min(times_ns)) * 1e9


def latency(rig: Rig) -> tuple[list[float], Memory]:
    """Return the ms from each call of enqueue until the job ran, and the memory of the idle worker."""
    rig.clear()
    with rig.worker() as process:
        sent_ns = rig.client("latency", LATENCY_JOBS)["sent_ns"]
        time.sleep(SETTLE_SECONDS)
        memory = _memory(process.pid)
    pairs = zip(sent_ns, rig.run_times_ns(), strict=True)
    return [(ran - sent) / 1e6 for sent, ran in pairs][1:], memory


def start(rig: Rig) -> float:
    """Return how often the time of `python -c pass` the command takes that looks at the queue."""
    rig.clear()
    command, bare = rig.command(rig.peer.look), ["python", "-c", "pass"]
    with rig.testbed.pinned():
        pairs = [
            (_process_ms(rig, command, rig.peer.look_exit), _process_ms(rig, bare))
            for _ in range(STARTS)
        ]
    return min(ours for ours, _ in pairs) / min(bare for _, bare in pairs)


def _process_ms(rig: Rig, command: list[str], exit_code: int = 0) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, **rig.options(), check=False, capture_output=True, text=True)
    took_ms = (time.perf_counter() - began) * 1000
    if done.returncode != exit_code:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()[-500:]}")
    return took_ms


def _memory(root: int) -> Memory:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(fields[1])
    family = [root]
    for pid in family:  # grows while it is read
        family += [child for child, parent in parents.items() if parent == pid]
    rollups = [_rollup(pid) for pid in family]
    return Memory(
        sum(rollup["Rss"] for rollup in rollups) * 1024 / 1e6,
        sum(rollup["Pss"] for rollup in rollups) * 1024 / 1e6,
        len(family),
    )


def _rollup(pid: int) -> dict[str, int]:
    """Return the totals of a process's memory in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
