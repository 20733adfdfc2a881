"""`aragora-q bench`: measure throughput and latency on this machine."""

from __future__ import annotations

import os
from contextlib import closing
from statistics import median
from typing import Annotated

import typer

from aragora_q import process
from aragora_q.cli import output
from aragora_q.cli.options import AsJson
from aragora_q.formats import count

EPILOG = """\b
Examples:
  aragora-q bench
  aragora-q bench --server /usr/bin/valkey-server --json | jq

\b
Exit codes:
  0 measured   2 usage   78 no server program, or it does not start
"""


def bench(
    *,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="PATH",
            help="Server program. [default: redis-server or valkey-server]",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Repetitions of each measurement.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure throughput and latency against a hand-written baseline.

    Takes one to two minutes. Starts a private server, which is pinned to one CPU; clients and workers
    are pinned to another. Your servers and queues are not used.
    """
    from aragora_q.bench import HEAD, LEGEND, Testbed, find_server, run

    program = find_server(server)
    rows = []
    with process.interruptible(), closing(Testbed(program)) as testbed:
        load = os.getloadavg()[0]
        output.info(f"measuring on {testbed.server} ({program}), load average {load:.1f}")
        for result in run(testbed, repeats):
            rows.append(result.cells())
            if as_json:
                # JSON: `measurement`, `unit`, `queue` and `baseline` (medians), `ratio` (median),
                # `ratio_min`, `ratio_max`.
                output.json_line({
                    "measurement": result.name,
                    "unit": result.unit,
                    "queue": round(median(result.ours), 4),
                    "baseline": round(median(result.baseline), 4),
                    "ratio": round(median(result.values), 3),
                    "ratio_min": round(min(result.values), 3),
                    "ratio_max": round(max(result.values), 3),
                })  # fmt: skip
            else:
                output.info(f"  {result.title}: {rows[-1][3]}")
    if not as_json:
        output.table(HEAD, rows)
        summary = f"{testbed.server}, {count(repeats, 'repetition')}. {LEGEND}"
        output.lines(["", *output.wrapped(summary)])
