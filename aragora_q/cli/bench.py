"""`aragora-q bench`: how fast the queue is on this machine, beside a floor written by hand."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.options import AsJson


def bench(
    *,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="PATH", help="The server program to measure on."),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="How often each is measured.")
    ] = 5,
    backlog: Annotated[
        int, typer.Option("--backlog", metavar="N", min=2_000, help="Jobs in the deep backlog.")
    ] = 100_000,
    as_json: AsJson = False,
) -> None:
    """Measure speed and memory beside a floor written by hand.

    Takes some minutes, on a private server (redis-server or valkey-server from PATH) that holds one
    core while everything else holds another. Your own servers and queues are not touched.

    Example:
      aragora-q bench
      aragora-q bench --server /usr/bin/valkey-server --json | jq

    Exit codes:
      0 measured   78 no server program found

    """
    from aragora_q.bench import figures, measures
    from aragora_q.bench.stand import Stand, find_server

    program = find_server(server)
    sizes = measures.Sizes(repeats=repeats, many=backlog)
    stand = Stand(program)
    rows = []
    try:
        output.note(f"measuring on {program}, load {os.getloadavg()[0]:.1f}")
        for figure in measures.run(stand, sizes):
            if as_json:
                output.json_line(figure.as_dict())
            else:
                output.note(f"  {figure.promise.name}: {figure.verdict}")
            rows.append(figure.as_row())
    finally:
        stand.close()
    if not as_json:
        output.table(figures.HEAD, rows)
