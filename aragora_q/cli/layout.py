"""Lay jobs and groups out as lines of text for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aragora_q import tracing
from aragora_q.base import Group, Hold, Job, JobStatus
from aragora_q.cli import output
from aragora_q.cli.output import ago, count, truncate, wrapped
from aragora_q.formats import dollars, dollars_or_unknown
from aragora_q.job_text import progress_text, tags_text
from aragora_q.views import group_spent_json, job_json

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

LABEL_WIDTH = 11
TEXT_WIDTH = 66
"""Label and text together fit into 80 columns."""


def job_lines(
    job: Job,
    now: float,
    history: Sequence[Mapping[str, Any]] = (),
    quote_usd: float | None = None,
) -> Iterator[str]:
    """Yield the job as lines of text, not yet escaped. `now` is the server's time, in Unix seconds.

    `quote_usd` is what a debate that has not ended was expected to cost.
    """
    is_degraded = "question" in job.payload and (job.result or {}).get("degraded") is True
    yield _row("job", f"{job.id} (degraded)" if is_degraded else job.id)
    yield _row("status", _status_text(job, now))
    yield from _hold_rows(job, now)
    yield from _label_rows(job)
    yield from _payload_rows(job.payload)
    yield from _course_rows(job, now)
    if not job.status.is_terminal:
        yield from _progress_rows(job, quote_usd)
    if job.error and (not history or len(job.error) > TEXT_WIDTH):
        yield from _rows("last error", job.error)  # in full: the cause is often at the end
    for n, event in enumerate(history):
        yield _row("history" if n == 0 else "", _history_text(event))
    if job.result is not None:
        if job.status is JobStatus.FAILED:
            why = "the job failed before its result was complete"
            yield from _rows("partial", f"{why}; to continue: aragora-q requeue {job.id}")
        yield from result_rows(job)
    if "question" in job.payload and job.attempts:
        yield _row("details", f"aragora-q show {job.id}")


def _cancelled_rows(group: Group) -> Iterator[str]:
    """Yield who cancelled the group, and why, if they said so."""
    by = f"by {group.cancelled_by}" if group.cancelled_by else ""
    if text := ": ".join(filter(None, (by, group.cancelled_reason))):
        yield from _rows("", text)


def _follower_rows(group: Group) -> Iterator[str]:
    """Yield what follows the end of the group."""
    if group.then_id:
        yield _row("then", f"{group.then_id}, {group.then_status}")
    if group.notify:
        yield from _rows("notify", ", ".join(group.notify))


def group_lines(group: Group, now: float, spent: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the group as lines of text, not yet escaped. `now` is the server's time, in Unix seconds.

    `spent` is the JSON of its spending; None: it cannot be read.
    """
    yield _row("group", group.name)
    yield _row("state", group.state)
    yield from _rows("jobs", f"{group.total:,}: {counts_text(group.counts)}")
    if spent is None:
        yield _row("spent", "cannot be read")
    elif spent["calls"]:
        yield _row("spent", f"{dollars_or_unknown(spent['usd'])}: {spent_text(spent)}")
    yield _row("created", _format_time(group.created_at, now))
    for label, time in (
        ("sealed", group.sealed_at),
        ("cancelled", group.cancelled_at),
        ("ended", group.ended_at),
    ):
        if time is not None:
            yield _row(label, _format_time(time, now))
    yield from _cancelled_rows(group)
    yield from _follower_rows(group)
    if group.cancelled_at is not None and group.live:
        yield _row("live jobs", f"to cancel them: aragora-q group cancel {group.name}")
    if group.counts[JobStatus.HELD]:
        yield _row("held", f"aragora-q list --group {group.name} --status held")
    if group.counts[JobStatus.FAILED]:
        yield _row("failed", f"aragora-q list --group {group.name} --status failed")


async def show_group(queue: RedisStreamsQueue, group: Group, *, as_json: bool, quiet: bool) -> None:
    """Print a group, with what it spent, as JSON; as its name; or as text."""
    if quiet and not as_json:
        output.line(group.name)
        return
    async with queue.connection.open_gates() as gates:
        described = await group_spent_json(gates, group)
    if as_json:
        output.json_line(described)
        return
    now = await queue.tracker.server_time()
    output.lines(group_lines(group, now, described["spent"]))


def spent_text(spent: Mapping[str, Any]) -> str:
    """Return the calls of the JSON of spending, for example `3 calls, $1.20 estimated, 1 without a price`."""
    parts = [
        count(spent["calls"], "call"),
        count(spent["faults"], "fault") if spent["faults"] else "",
        f"{dollars(spent['estimated_usd'])} estimated" if spent["estimated_usd"] else "",
        f"{spent['unpriced_calls']:,} without a price" if spent["unpriced_calls"] else "",
    ]
    return ", ".join(filter(None, parts))


def counts_text(counts: Mapping[str, int]) -> str:
    """Return counts by status, without those that are 0, for example `2 pending, 1 failed`."""
    return ", ".join(f"{number:,} {status}" for status, number in counts.items() if number)


def result_rows(job: Job) -> Iterator[str]:
    """Yield the lines of a job's result: of a debate as text, of other jobs as JSON."""
    from aragora_q.job_rules import has_outcome
    from aragora_q.report.summary import outcome_of

    if not has_outcome(job):
        yield from _rows("result", json.dumps(job.result, ensure_ascii=False))
        return
    for label, text in outcome_of(job):
        yield from _rows(label, text)


def _progress_rows(job: Job, quote_usd: float | None) -> Iterator[str]:
    if job.progress:
        yield from _rows("progress", progress_text(job.progress))
    elif quote_usd:
        yield _row("quoted", dollars(quote_usd))


def _status_text(job: Job, now: float) -> str:
    parts = [job.status.value]
    if job.attempts:
        limit = f" of {job.max_attempts}" if job.max_attempts else ""  # not kept once completed
        parts.append(count(job.attempts, "attempt") + limit)
    if job.crashes:
        parts.append(f"{job.crashes} worker crash{'' if job.crashes == 1 else 'es'}")
    if job.due_at is not None:
        parts.append(f"due {_format_time(job.due_at, now)}")
    if job.priority:
        parts.append(f"priority {job.priority}")
    return ", ".join(parts)


def _hold_rows(job: Job, now: float) -> Iterator[str]:
    hold, is_held = job.hold, job.status is JobStatus.HELD
    if hold is None:
        return
    since = f"{'since' if is_held else 'asked'} {_format_time(hold.since, now)}"
    yield from _rows("held" if is_held else "to be held", f"{hold.who}, {since}")
    if hold.until is not None:
        yield _row("until", _format_time(hold.until, now))
    if hold.reason:
        yield from _rows("reason", hold.reason)
    if is_held:
        yield from _ways_out(job.id, hold)


def _ways_out(job_id: str, hold: Hold) -> Iterator[str]:
    unhold = f"aragora-q unhold {job_id}"
    if hold.cause == "budget":
        name = hold.by.partition("/")[0]  # then the value of its scope
        when = "when twice what it needs is left, or in a new window"
        yield from _rows("freed", f"{when}: aragora-q budget show {name}")
        yield _row("to try now", unhold)
    elif hold.cause == "provider":
        yield _row("freed", "when its account takes calls again: aragora-q providers list")
    else:
        yield _row("to free it", unhold)


def _label_rows(job: Job) -> Iterator[str]:
    if job.group is not None:
        yield _row("group", job.group)
    if job.tenant is not None:
        yield _row("tenant", job.tenant)
    if job.tags:
        yield from _rows("tags", tags_text(job.tags))
    if job.notify:
        yield from _rows("notify", ", ".join(job.notify))


def _payload_rows(payload: Mapping[str, Any]) -> Iterator[str]:
    if "question" not in payload:
        yield _row("payload", truncate(json.dumps(payload, ensure_ascii=False), 1_000))
        return
    yield from _rows("question", str(payload["question"]))
    agents = payload.get("agents")
    if isinstance(agents, list):
        yield _row("agents", ", ".join(map(str, agents)))


def _course_rows(job: Job, now: float) -> Iterator[str]:
    """Yield when the job was enqueued, started and ended, and its trace."""
    yield _row("enqueued", _format_time(job.created_at, now))
    if job.started_at is not None:
        by = f" by {job.worker_id}" if job.worker_id else ""
        yield _row("started", _format_time(job.started_at, now) + by)
    if job.completed_at is not None:
        yield _row("ended", _format_time(job.completed_at, now))
    if job.trace:
        yield _row("trace", tracing.described(job.trace))


def _history_text(event: Mapping[str, Any]) -> str:
    cause, attempt = event.get("cause", "?"), event.get("attempt", "?")
    text = str(event.get("error", event.get("reason", "")))
    is_named = not event.get("by") or f"{event['by']}: " in text
    by = "" if is_named else f" by {event['by']}"
    prefix = f"{clock(event.get('at'))} attempt {attempt} {cause}{by}"
    if not text:
        return prefix
    return f"{prefix}: " + truncate(text, max(TEXT_WIDTH - len(prefix) - 2, 10))


def clock(ms: Any) -> str:
    """Format a time, in Unix ms, as local time; with the date unless it is today. `?` if it is not a time."""
    try:
        time = datetime.fromtimestamp(ms / 1000).astimezone()
    except (TypeError, OverflowError, ValueError, OSError):
        return "?"
    now = datetime.now().astimezone()
    return f"{time:%H:%M:%S}" if time.date() == now.date() else f"{time:%Y-%m-%d %H:%M:%S}"


def _rows(label: str, text: str) -> Iterator[str]:
    for n, row in enumerate(wrapped(text, LABEL_WIDTH)):
        yield _row("" if n else label, row)


def _row(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def _format_time(seconds: float | None, now: float) -> str:
    if seconds is None:
        return "?"
    time = datetime.fromtimestamp(seconds).astimezone()
    return f"{time:%Y-%m-%d %H:%M:%S} ({ago(seconds, now)})"


async def show_job(queue: RedisStreamsQueue, job: Job, *, as_json: bool, quiet: bool) -> None:
    """Print an ended job as JSON, as its id, or as text."""
    if as_json:
        output.json_line(job_json(job))
    elif quiet:
        output.line(job.id)
    else:
        output.lines(job_lines(job, await queue.tracker.server_time()))
