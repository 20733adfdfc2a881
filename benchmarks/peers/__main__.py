"""`make bench-peers`: compare this queue with others, which it installs under build/peers.

It measures all of them, records benchmarks/peers/RESULTS.json and writes the tables of docs/performance.md;
with names of queues, it measures only these, prints the tables and writes nothing.
"""

from __future__ import annotations

import argparse
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
from aragora_q.errors import ConfigError
from aragora_q.formats import count, duration
from benchmarks.peers import measuring, page
from benchmarks.peers.installing import Installed, NotInstalledError
from benchmarks.peers.measuring import Rig
from benchmarks.peers.table import BASELINE, PEERS

REPEATS = 3
STOP_SIGNALS = signal.SIGINT, signal.SIGTERM


def main() -> None:
    """Measure the queues that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", type=_known,
        help=f"measure only these, and the baseline: {', '.join(PEERS)}",
    )  # fmt: skip
    names = parser.parse_args().names
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)
    began, load = time.monotonic(), os.getloadavg()[0]
    queues: dict[str, dict[str, Any]] = {}
    installed = _install(
        [BASELINE, *(name for name in PEERS if name in names or not names)], queues
    )
    try:
        testbed = Testbed(find_server())
    except ConfigError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    try:
        _measure(testbed, installed, queues)
    finally:
        testbed.close()
    results = {
        "conditions": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {testbed.server}, "
        f"Python {platform.python_version()}, {count(os.cpu_count() or 1, 'CPU')}; "
        f"medians of {count(REPEATS, 'repetition')}; load average {load:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after; the run took {duration(time.monotonic() - began)}.",
        "queues": queues,
    }
    if names:
        print(page.render(results))
    else:
        page.write(results)


def _known(name: str) -> str:
    """Return the name of a queue as the table has it, whatever its case."""
    for known in PEERS:
        if known.lower() == name.lower():
            return known
    raise argparse.ArgumentTypeError(f"unknown queue {name}; known are {', '.join(PEERS)}")


def _stop(number: int, _frame: object) -> NoReturn:
    """Leave; what runs is stopped on the way out, which no second signal interrupts."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _install(names: list[str], queues: dict[str, dict[str, Any]]) -> dict[str, Installed]:
    """Return the queues that can be installed; note in `queues` why others cannot."""
    installed = {}
    for name in dict.fromkeys(names):
        print(f"{name}: install", file=sys.stderr, flush=True)
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
                progress = f"{name}: repetition {number} of {REPEATS}"
                print(progress, file=sys.stderr, flush=True)
                try:
                    _repeat(rig, rigs[BASELINE], samples[name], samples[BASELINE])
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as reason:
                    _leave_out(name, str(reason), queues)
                else:
                    queues[name] = {"version": installed[name].version, **samples[name]}
        testbed.client.flushall()


def _repeat(
    rig: Rig, baseline: Rig, samples: dict[str, Any], baseline_samples: dict[str, Any]
) -> None:
    """Measure a queue once; rates as ratios to the baseline's, which is measured right before each."""
    is_baseline = rig is baseline
    for name in ("single", "bulk", "drain"):
        if name == "bulk" and not rig.peer.bulk:
            continue
        bare = getattr(measuring, name)(baseline)
        baseline_samples[name].append(bare)
        if not is_baseline:
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
