"""`make bench-peers`: compare this queue with others, which it installs under build/peers.

`python -m benchmarks.peers` measures all of them, records benchmarks/peers/RESULTS.json and writes the tables
of docs/performance.md; with names of queues, it measures only these, prints the tables and writes nothing.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from typing import Any, NoReturn

from aragora_q.bench import Testbed, find_server
from benchmarks.peers import measuring, page
from benchmarks.peers.installing import Installed, NotInstalledError
from benchmarks.peers.measuring import Rig
from benchmarks.peers.table import FLOOR, PEERS

REPEATS = 3
STOP_SIGNALS = signal.SIGINT, signal.SIGTERM


def main() -> None:
    """Measure the queues that the command line names, or all."""
    names = sys.argv[1:]
    if unknown := [name for name in names if name not in PEERS]:
        sys.exit(f"unknown: {', '.join(unknown)}; known are {', '.join(PEERS)}")
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)
    began, load = time.monotonic(), os.getloadavg()[0]
    queues: dict[str, dict[str, Any]] = {}
    installed = _install([FLOOR, *(name for name in PEERS if name in names or not names)], queues)
    testbed = Testbed(find_server())
    try:
        version = testbed.client.info("server")["redis_version"]
        _measure(testbed, installed, queues)
    finally:
        testbed.close()
    results = {
        "conditions": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, Redis {version}, "
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs; "
        f"medians of {REPEATS} repetitions; load average {load:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after; the run took {(time.monotonic() - began) / 60:.0f} minutes.",
        "queues": queues,
    }
    if names:
        print(page.render(results))
    else:
        page.write(results)


def _stop(number: int, _frame: object) -> NoReturn:
    """Leave; what runs is stopped on the way out, which no second signal interrupts."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _install(names: list[str], queues: dict[str, dict[str, Any]]) -> dict[str, Installed]:
    """Return the queues that can be installed; note in `queues` why others cannot."""
    installed = {}
    for name in dict.fromkeys(names):
        print(f"{name}: install", flush=True)
        try:
            installed[name] = PEERS[name].install()
        except NotInstalledError as reason:
            _leave_out(name, str(reason), queues)
    return installed


def _measure(
    testbed: Testbed, installed: dict[str, Installed], queues: dict[str, dict[str, Any]]
) -> None:
    """Measure all queues in turn, REPEATS times. One that fails is left out from then on."""
    with ExitStack() as stack:
        rigs = {
            name: stack.enter_context(measuring.rig(testbed, PEERS[name], found))
            for name, found in installed.items()
        }
        samples = {name: defaultdict(list) for name in rigs}
        for number in range(1, REPEATS + 1):
            for name, rig in rigs.items():
                if "not_measured" in queues.get(name, {}):
                    continue
                print(f"{name}: repetition {number} of {REPEATS}", flush=True)
                try:
                    _repeat(rig, rigs[FLOOR], samples[name], samples[FLOOR])
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as reason:
                    _leave_out(name, str(reason), queues)
                else:
                    queues[name] = {"version": installed[name].version, **samples[name]}
        testbed.client.flushall()


def _repeat(rig: Rig, floor: Rig, samples: dict[str, Any], floor_samples: dict[str, Any]) -> None:
    """Measure a queue once; rates as ratios to the floor's, which is measured right before each."""
    is_floor = rig is floor
    for name in ("single", "bulk", "drain"):
        if name == "bulk" and not rig.peer.bulk:
            continue
        bare = getattr(measuring, name)(floor)
        floor_samples[name].append(bare)
        if not is_floor:
            samples[name].append(getattr(measuring, name)(rig) / bare)
    samples["job_bytes"].append(measuring.job_bytes(rig))
    latencies_ms, memory = measuring.latency(rig)
    samples["latency_ms"] += [round(latency_ms, 3) for latency_ms in latencies_ms]
    samples["rss_mb"].append(memory.rss_mb)
    samples["pss_mb"].append(memory.pss_mb)
    samples["processes"] = memory.processes
    samples["start"].append(measuring.start(rig))


def _leave_out(name: str, reason: str, queues: dict[str, dict[str, Any]]) -> None:
    print(f"{name}: not measured: {reason}", file=sys.stderr, flush=True)
    queues[name] = {"not_measured": reason.splitlines()[-1][:100]}


if __name__ == "__main__":
    main()
