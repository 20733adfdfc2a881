"""`aragora-q tail`: follow the events of the queue."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q import events, process
from aragora_q.cli import output
from aragora_q.cli.options import AsJson, check_ids, with_queue
from aragora_q.errors import InvalidPayload, JobNotFound
from aragora_q.formats import truncate

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_REASON_CHARS = 100
"""Characters of a reason in a line."""

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
        try:
            events.EventId.parse(value)
        except InvalidPayload as error:
            raise typer.BadParameter(str(error)) from None
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
    process.stay()
    async for batch in queue.event_batches(after):
        pairs = [(event, of_job) for event in batch for of_job in events.job_ids(event, ids)]
        labels = await queue.tracker.labels([*{of_job for _, of_job in pairs if of_job}])
        for event, of_job in pairs:
            job_event = events.job_event(event, of_job, labels.get(of_job or "", {}))
            if as_json:
                output.json_line(job_event)
            else:
                output.line(_line(job_event))
        output.flush()


def _line(event: Mapping[str, Any]) -> str:
    from aragora_q import job_text
    from aragora_q.cli import layout

    parts = [layout.clock(event["at"]), f"{event['event']:<10}", event["id"] or ""]
    if event["subject"]:
        parts.append(event["subject"].replace(":", " ", 1))
    if event["worker_id"]:
        parts.append(f"by {event['worker_id']}")
    if event["by"]:
        parts.append(f"by {event['by']}")
    parts += [f"{name} {event[name]}" for name in ("group", "tenant") if event[name]]
    parts.append(job_text.tags_text(event["tags"]))
    if event["progress"] is not None:
        parts.append(job_text.progress_text(event["progress"]))
    if event["reason"]:
        parts.append(truncate(event["reason"], MAX_REASON_CHARS))
    return "  ".join(filter(None, parts)).rstrip()
