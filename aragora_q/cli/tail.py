"""`aragora-q tail`: follow the events of the queue."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import output
from aragora_q.cli.options import AsJson, check_ids, with_queue
from aragora_q.errors import JobNotFound

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_EVENT_NUMBER = 2**64 - 1
"""Largest number in an id of a Redis stream."""

EPILOG = """\b
Examples:
  aragora-q tail --jsonl | jq -r 'select(.event == "failed") | .id'

\b
Exit codes:
  3 a job was not found   69 Redis unreachable   75 try again
  77 access denied   78 invalid configuration   130 stopped by Ctrl-C
"""


def _check_event_id(value: str | None) -> str | None:
    if value is not None:
        match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", value)
        if not match or max(int(match[1]), int(match[2] or 0)) > MAX_EVENT_NUMBER:
            raise typer.BadParameter(
                f"{value!r:.100} is not an event id, for example 1700000000000-0"
            )
    return value


@with_queue
async def tail(
    queue: RedisStreamsQueue,
    *,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID", show_default=False, callback=check_ids, help="Only events of these jobs."
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="EVENT",
            callback=_check_event_id,
            help="Begin after the event with this id; 0: with the oldest.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow the events of the queue until Ctrl-C: jobs enqueued, started and ended, and progress.

    The server keeps about the last 500 events. To continue without a gap, pass the `event_id` of the
    last event to --after. Without --after, the jobs must exist.
    """
    for job_id in ids if ids and after is None else ():  # older events may be of a deleted job
        if await queue.get_status(job_id) is None:
            raise JobNotFound(job_id, queue.config.queue)
    if sys.stderr.isatty() and not as_json:
        output.info(f"following queue {queue.config.queue}; press Ctrl-C to stop")
    async for event in queue.events(after):
        for job_event in _job_events(event):
            if ids and job_event["id"] not in ids:
                continue
            if as_json:
                output.json_line(job_event)
            else:
                output.line(_line(job_event))
        output.flush()


def _job_events(event: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield one object per job of an event; for an event of the queue itself, one without `id`.

    JSON: `event_id` (for --after), `at` (Unix ms), `event`, `id`, `worker_id`, `progress`; the last
    three are null where they do not apply.
    """
    ids: list[str | None] = [*event.get("ids", "").split()]
    for job_id in ids or [None]:
        yield {
            "event_id": event["id"],
            "at": int(event["id"].partition("-")[0]),
            "event": event["event"],
            "id": job_id,
            "worker_id": event.get("worker"),
            "progress": json.loads(event["data"]) if "data" in event else None,
        }


def _line(event: Mapping[str, Any]) -> str:
    from aragora_q.cli import views

    parts = [views.clock(event["at"]), f"{event['event']:<10}", event["id"] or ""]
    if event["worker_id"]:
        parts.append(f"by {event['worker_id']}")
    if event["progress"] is not None:
        parts.append(views.progress_text(event["progress"]))
    return "  ".join(filter(None, parts)).rstrip()
