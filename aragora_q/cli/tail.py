"""`aragora-q tail`: what happens in the queue, as it happens."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, QueueName, RedisUrl


def tail(
    *,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", show_default=False, hidden=True),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="EVENT", help="Go on after this event; 0: all kept."),
    ] = None,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Follow the queue, or only jobs named: enqueued, started, ended, and the progress of debates,
    until Ctrl-C.

    The server keeps the last 500 events or so; `--after` with the `event_id` of the last one seen
    goes on without a gap if it is among them.

    Example:
      aragora-q tail --jsonl | jq -r 'select(.event == "failed") | .id'

    Exit codes:
      130 Ctrl-C   69 Redis unreachable   75 try again   77 access denied
      78 configuration

    """
    if after is not None:
        _check_event_id(after)
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    options.run(_tail(settings, frozenset(ids or ()), after, as_json=as_json))


def _check_event_id(text: str) -> None:
    ms, dash, number = text.partition("-")
    if not (ms.isdigit() and (number.isdigit() or not dash) and text.isascii()):
        raise typer.BadParameter(f"--after {text!r} is no event id, such as 1700000000000-0")


async def _tail(settings: Any, wanted: frozenset[str], after: str | None, *, as_json: bool) -> None:
    async with options.opened(settings) as queue:
        if sys.stderr.isatty() and not as_json:
            output.note(f"following queue {settings.queue}; Ctrl-C ends it")
        async for event in queue.events(after):
            for each in _of_jobs(event):
                if wanted and each["id"] not in wanted:
                    continue
                if as_json:
                    output.json_line(each)
                else:
                    output.line(_line(each))
            sys.stdout.flush()


def _of_jobs(event: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """One object for each job of an event; one without `id` where the event is the queue's.

    JSON: `event_id` (for --after), `at` (Unix ms), `event`, `id`, `worker_id`, `progress`; the last
    three null where they do not apply.
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
