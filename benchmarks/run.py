"""`make bench`: the benchmark at full size; prints the table and writes it to bench/RESULTS.md.

The code that measures is `aragora_q/bench`, so that `aragora-q bench` can measure on any machine.
"""

import datetime as dt
import os
import platform
import sys
from pathlib import Path

from aragora_q import __version__
from aragora_q.bench import figures, measures
from aragora_q.bench.stand import Stand, find_server

RESULTS = Path(__file__).with_name("RESULTS.md")


def main():
    program = find_server(sys.argv[1] if len(sys.argv) > 1 else None)
    sizes = measures.Sizes(many=int(sys.argv[2])) if len(sys.argv) > 2 else measures.FULL
    load = os.getloadavg()[0]
    stand = Stand(program)
    info = stand.client.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info["redis_version"]
    rows = []
    try:
        for figure in measures.run(stand, sizes):
            rows.append(figure.as_row())
            print(" | ".join(rows[-1]), flush=True)
    finally:
        stand.close()
    lines = [
        (
            f"aragora-q {__version__}, {name} {version}, Python {platform.python_version()}, "
            f"{os.cpu_count()} cores, {dt.datetime.now(dt.UTC):%Y-%m-%d}; "
            f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after; "
            f"{sizes.repeats} repetitions; few is {sizes.few:,} jobs, many {sizes.many:,}."
        ),
        "",
        "| " + " | ".join(figures.HEAD) + " |",
        "|" + "---|" * len(figures.HEAD),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    section = "\n".join([f"## {name} {version}", "", *lines]) + "\n"
    RESULTS.write_text(with_section(RESULTS.read_text() if RESULTS.exists() else HEADING, section))


HEADING = """# Results

Written by `make bench` (`bench/run.py [SERVER [BACKLOG]]`): one section for each server it was run on. What the
figures mean, and what was learned, is in [docs/performance.md](../docs/performance.md).
"""


def with_section(text, section):
    """`text` with the section of the same title replaced, or appended."""
    title = section.splitlines()[0]
    head, *sections = text.split("\n## ")
    kept = [f"## {each}" for each in sections if f"## {each}".splitlines()[0] != title]
    return "\n".join([head.rstrip() + "\n", *(each.rstrip() + "\n" for each in kept), section])


if __name__ == "__main__":
    main()
