"""`make bench`: run the whole benchmark; print the table and write it to benchmarks/RESULTS.md.

`--only` and `--quick` print the table, and do not write it.
"""

import argparse
import datetime as dt
import os
import platform
import sys
import time
from contextlib import closing
from pathlib import Path

from aragora_q import __version__, process
from aragora_q.bench import Testbed, find_server
from benchmarks import measurements, results

PAGE = Path(__file__).with_name("RESULTS.md")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("server", nargs="?", help="server program [default: redis-server]")
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
    rows = []
    program = find_server(options.server)
    with process.interruptible(), closing(Testbed(program)) as testbed:
        info = testbed.client.info("server")
        for result in measurements.run(testbed, sizes, options.only):
            rows.append(results.cells(result))
            print(" | ".join(rows[-1]), flush=True)
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info["redis_version"]
    conditions = (
        f"aragora-q {__version__}, {name} {version}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPUs, {dt.datetime.now(dt.UTC):%Y-%m-%d}; {sizes.repeats} repetitions in "
        f"{(time.monotonic() - began) / 60:.0f} minutes; "
        f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    section = f"## {name} {version}\n\n{conditions}\n\n{results.table(rows)}\n"
    if options.quick or options.only:
        sys.stdout.write(section)
        return
    page = PAGE.read_text() if PAGE.exists() else results.TITLE
    PAGE.write_text(results.with_section(page, section))


if __name__ == "__main__":
    try:
        main()
    except process.Interrupted as interrupted:
        process.end_by(interrupted.number)
