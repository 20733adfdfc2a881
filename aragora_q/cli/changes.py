"""`aragora-q changes`: what operators did, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.filters import parse_moment
from aragora_q.cli.options import AsJson, with_queue
from aragora_q.moments import Moment
from aragora_q.redis.keys import MAX_CHANGES_LISTED

if TYPE_CHECKING:
    from aragora_q.changes import Change
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_CELL = 80
"""Characters of a column; --json has all."""

EPILOG = """\b
Examples:
  aragora-q changes --since 24h
  aragora-q changes --jsonl | jq -r 'select(.verb == "purge") | .by'

\b
Exit codes:
  0 ok   2 usage   69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_queue
async def changes(
    queue: RedisStreamsQueue,
    *,
    since: Annotated[
        Moment | None,
        typer.Option(
            "--since",
            metavar="TIME",
            parser=parse_moment,
            help="Only changes since: 2h, 7d, 2026-11-28, 2026-11-28T02:00 (local time).",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            min=1,
            max=MAX_CHANGES_LISTED,
            help="Maximum number of changes.",
        ),
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what operators did with the queue, its jobs, budgets and providers, newest first.

    One line for each command, from whatever place: command line, console, API. What workers and maintenance
    do is not among them. Redis keeps about the last 1,000 changes of the queue, and as many of the budgets
    and providers, which all queues with the same prefix share.
    """
    from aragora_q import views

    since_ms = 0
    if since is not None:
        since_ms = round(since.at(await queue.tracker.server_time()) * 1000)
    found = await queue.changes(limit + 1, since_ms=since_ms)  # one more, to know if that is all
    has_more, found = len(found) > limit, found[:limit]
    if as_json:
        for change in found:
            output.json_line(views.change_json(change))
        return
    if found:
        output.table(("WHEN", "BY", "CHANGE", "REASON"), [_row(change) for change in found])
    else:
        output.info(f"no changes found in queue {queue.config.queue} at {queue.connection.address}")
    if has_more and sys.stderr.isatty():
        output.info(f"there are more changes: --limit {min(limit * 5, MAX_CHANGES_LISTED)}")


def _row(change: Change) -> tuple[str, ...]:
    from aragora_q.cli import layout

    cells = (output.truncate(text, MAX_CELL) for text in (change.by, change.what, change.reason))
    return (layout.clock(change.at), *cells)
