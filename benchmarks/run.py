"""`make bench`: run the whole benchmark; print the table and write it to benchmarks/RESULTS.md.

`--only` and `--quick` print the table, and do not write it. What is measured meanwhile is shown on stderr.
"""

import argparse
import datetime as dt
import os
import platform
import sys
import time
from contextlib import closing
from pathlib import Path

from aragora_q import __version__, formats, process
from aragora_q.bench import Testbed, find_server
from aragora_q.errors import ConfigError
from benchmarks import measurements, results

PAGE = Path(__file__).with_name("RESULTS.md")
REAL_TIME = os.SCHED_FIFO, os.SCHED_RR
QUICK_NOTE = "Few jobs, one repetition: this only shows that everything runs."


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--server", metavar="PATH", help="server program [default: redis-server or valkey-server]"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", choices=[*measurements.MEASUREMENTS],
        help=f"measure only these: {', '.join(measurements.MEASUREMENTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="only show whether everything runs, in two minutes"
    )
    options = parser.parse_args()
    sizes = measurements.QUICK if options.quick else measurements.Sizes()
    load, began = os.getloadavg()[0], time.monotonic()
    found = []
    try:
        program = find_server(options.server)
        with process.interruptible(), closing(Testbed(program)) as testbed:
            for result in measurements.run(testbed, sizes, options.only):
                found.append(result)
                print(" | ".join(result.cells()), file=sys.stderr, flush=True)
    except ConfigError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    conditions = (
        f"aragora-q {__version__}, {testbed.server}, Python {platform.python_version()}, "
        f"{formats.count(os.cpu_count(), 'CPU')}, {dt.datetime.now(dt.UTC):%Y-%m-%d}; "
        f"{formats.count(sizes.repeats, 'repetition')} in {formats.duration(time.monotonic() - began)}; "
        f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after"
        f"{'; real-time priority' if os.sched_getscheduler(0) in REAL_TIME else ''}."
    )
    if options.quick:
        conditions += f"\n\n{QUICK_NOTE}"
    table = results.table(found, with_verdicts=not options.quick)
    section = f"## {testbed.server}\n\n{conditions}\n\n{table}\n"
    sys.stdout.write(section)
    if not (options.quick or options.only):
        page = PAGE.read_text() if PAGE.exists() else results.TITLE
        PAGE.write_text(results.with_section(page, section))


if __name__ == "__main__":
    try:
        main()
    except process.Interrupted as interrupted:
        process.end_by(interrupted.number)
