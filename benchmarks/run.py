"""`make bench`: run the whole benchmark; print the table and write it to benchmarks/RESULTS.md.

`python -m benchmarks.run [SERVER [BACKLOG]]`; BACKLOG is the number of jobs in the deep backlog.
"""

import datetime as dt
import os
import platform
import sys
from pathlib import Path

from aragora_q import __version__
from aragora_q.bench import Testbed, find_server
from benchmarks import measurements, results

PAGE = Path(__file__).with_name("RESULTS.md")


def main():
    program = find_server(sys.argv[1] if len(sys.argv) > 1 else None)
    sizes = measurements.FULL
    if len(sys.argv) > 2:
        sizes = measurements.Sizes(deep_backlog=int(sys.argv[2]))
    load = os.getloadavg()[0]
    testbed = Testbed(program)
    info = testbed.client.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info["redis_version"]
    rows = []
    try:
        for result in measurements.run(testbed, sizes):
            rows.append(results.cells(result))
            print(" | ".join(rows[-1]), flush=True)
    finally:
        testbed.close()
    conditions = (
        f"aragora-q {__version__}, {name} {version}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPUs, {dt.datetime.now(dt.UTC):%Y-%m-%d}; "
        f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after; {sizes.repeats} repetitions; "
        f"shallow backlog: {sizes.shallow_backlog:,} jobs, deep backlog: {sizes.deep_backlog:,}."
    )
    section = f"## {name} {version}\n\n{conditions}\n\n{results.table(rows)}\n"
    page = PAGE.read_text() if PAGE.exists() else results.TITLE
    PAGE.write_text(results.with_section(page, section))


if __name__ == "__main__":
    main()
