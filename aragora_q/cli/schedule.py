"""`aragora-q schedule`: list and show schedules, run them now, pause, resume and forget them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.cli import SETTINGS, options, output
from aragora_q.cli.options import CODES, AsJson, OnlyErrors, Reason, traced, with_queue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aragora_q.schedule_views import ScheduleRow
    from aragora_q.streams.queue import RedisStreamsQueue

    Statuses = Mapping[str, str | None]

MAX_TIMES = 1_000
"""Times that `show` computes at most."""

LABEL_WIDTH = 11
HOW_TO_ADD = "to add one: a table [schedules.NAME] with cron and job in aragora-q.toml"

schedule = typer.Typer(no_args_is_help=True, add_completion=False, **SETTINGS)


@schedule.callback()
def _schedule() -> None:
    """List and show schedules, run them now, pause, resume and forget them.

    A schedule of the configuration enqueues a job at the times of a cron expression: each time once, from
    any number of workers that have it, and of `reap`.
    """


Name = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="Name of a schedule.")
]


@schedule.command(
    "list",
    epilog="\b\nExamples:\n  aragora-q schedule list\n"
    "  aragora-q schedule list --jsonl | jq -c 'select(.state != \"active\")'\n\n\b\n"
    f"Exit codes:\n  0 ok   {CODES}",
)
@with_queue
async def list_(
    queue: RedisStreamsQueue,
    *,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only names.")] = False,
) -> None:
    """List schedules with their next times, those with a problem first.

    All that this configuration or the queue knows. Times are in the time zone of each schedule.
    """
    from aragora_q.schedule_views import schedule_json, schedule_rows

    read = await queue.schedules.read()
    rows = schedule_rows(queue.config, read)
    if quiet:
        output.lines(row.name for row in rows)
        return
    statuses = await _statuses(queue, rows)
    if as_json:
        for row in rows:
            status = statuses.get(row.last_job or "")
            output.json_line({**schedule_json(row), "last_status": status})
    elif not rows:
        output.info(
            f"no schedule is configured for queue {queue.config.queue}, and the queue knows none"
        )
        output.info(HOW_TO_ADD)
    else:
        _print_table(rows, statuses, read.now)


async def _statuses(queue: RedisStreamsQueue, rows: Sequence[ScheduleRow]) -> Statuses:
    """Return the status of the last job of each schedule, by id."""
    return await queue.get_statuses([row.last_job for row in rows if row.last_job])


def _print_table(rows: Sequence[ScheduleRow], statuses: Statuses, now: float) -> None:
    output.table(
        ("SCHEDULE", "STATE", "NEXT", "LAST JOB", "CRON"),
        [
            (
                row.name,
                row.condition,
                _next_text(row),
                _last_text(row, statuses, now),
                _cron_text(row),
            )
            for row in rows
        ],
    )
    notes = [f"{row.name}: {note}" for row in rows for note in _notes(row, now)]
    if notes:
        output.line()
    for note in notes:
        output.lines(output.wrapped(note))


def _next_text(row: ScheduleRow) -> str:
    if row.paused is not None:
        return "on resume"
    return "" if row.next_at is None else _time(row, row.next_at)


def _time(row: ScheduleRow, at: float) -> str:
    """Return a time as clocks in the zone of the schedule show it; in UTC if that is not known."""
    from aragora_q.schedule_views import zoned

    return zoned(at, row.declared.time_zone if row.declared else "UTC")


def _last_text(row: ScheduleRow, statuses: Statuses, now: float) -> str:
    """Return the status of the last job, and when that was due or run: its id says so."""
    if row.last_job is None:
        return "none yet"
    status = statuses.get(row.last_job) or "deleted"
    at = re.fullmatch(r".*@([0-9]{1,11})(-run)?", row.last_job)
    return f"{status}, {output.ago(int(at[1]), now)}" if at else status


def _cron_text(row: ScheduleRow) -> str:
    if row.declared is None:
        return ""
    zone = "" if row.declared.time_zone == "UTC" else f" {row.declared.time_zone}"
    return row.declared.cron + zone


def _notes(row: ScheduleRow, now: float) -> Iterator[str]:
    """Yield what is wrong with a schedule, and what to do."""
    if row.paused is not None:
        by = f" by {row.paused.by}" if row.paused.by else ""
        why = f": {row.paused.reason}" if row.paused.reason else ""
        yield f"paused{by} {output.ago(row.paused.at, now)}{why}"
    elif row.overdue_seconds:
        yield (
            f"was due {output.duration(row.overdue_seconds)} ago: no worker that has it runs, and no `reap`; "
            "or the queue is full"
        )
    elif row.ahead_seconds:
        yield (
            f"enqueues nothing for {output.duration(row.ahead_seconds)}: the server's clock was ahead, and "
            "the schedule is done with the times until then; to go on now: pause it, then resume it"
        )
    elif row.condition == "not loaded":
        yield (
            "no worker has it yet: start one, or send SIGHUP to those that run, so that they read their "
            "configuration again"
        )
    if row.error is not None:
        yield f"the job of its last time was refused: {row.error}"
    if row.missed:
        yield f"{output.count(row.missed, 'time')} missed so far"
    if row.declared is None:
        yield "not in the configuration here; workers that have it enqueue its jobs"
        yield f"if no worker has it any more: aragora-q schedule forget {row.name}"


@schedule.command(
    epilog="\b\nExamples:\n  aragora-q schedule show nightly --next 10\n\n\b\n"
    f"Exit codes:\n  0 ok   2 usage   3 no such schedule\n  {CODES}",
)
@with_queue
async def show(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    number: Annotated[
        int,
        typer.Option("--next", metavar="N", min=0, max=MAX_TIMES, help="Number of next times."),
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Show a schedule with its next times.

    Also its job, the last job that it enqueued, and what is wrong with it.
    """
    from aragora_q.schedule_views import read_schedule, schedule_json

    row, now = await read_schedule(queue.schedules, queue.config, name)
    statuses = await _statuses(queue, [row])
    times = _next_times(row, now, number)
    if as_json:
        shown = schedule_json(row)
        job = row.declared.job if row.declared else None
        status = statuses.get(row.last_job or "")
        in_ms = [round(at * 1000) for at in times]
        output.json_line({**shown, "last_status": status, "times": in_ms, "job": job})
        return
    for label, texts in _described(row, statuses, times, now):
        for n, text in enumerate(
            line for each in texts for line in output.wrapped(each, LABEL_WIDTH)
        ):
            output.line(f"{'' if n else label:<{LABEL_WIDTH}}{text}")


def _next_times(row: ScheduleRow, now: float, number: int) -> list[float]:
    """Return the next times of a schedule, as the configuration here has them."""
    if row.declared is None:
        return []
    return [at / 1000 for at in islice(row.declared.times.after(round(now * 1000)), number)]


def _described(
    row: ScheduleRow,
    statuses: Statuses,
    times: Sequence[float],
    now: float,
) -> Iterator[tuple[str, list[str]]]:
    yield "schedule", [row.name]
    yield "state", [row.condition]
    if notes := list(_notes(row, now)):
        yield "", notes
    if row.declared is not None:
        yield "cron", [f"{row.declared.cron}, time zone {row.declared.time_zone}"]
        yield "catch up", [row.declared.catch_up]
        yield "job", [json.dumps(row.declared.job, ensure_ascii=False)]
    if times:
        label = "next" if row.paused is None else "if resumed"
        yield label, [f"{_time(row, at)} ({output.ago(at, now)})" for at in times]
    if row.last_at is not None:
        yield "done up to", [f"{_time(row, row.last_at)} ({output.ago(row.last_at, now)})"]
    if row.last_job is not None:
        yield "last job", [f"{row.last_job}, {statuses.get(row.last_job) or 'deleted'}"]


@schedule.command(
    epilog="\b\nExamples:\n  aragora-q schedule run nightly --reason 'repeat after the fix'\n\n\b\n"
    "Exit codes:\n  0 the job is enqueued   2 usage   3 no such schedule here\n"
    f"  65 the job is refused\n  {CODES}",
)
@traced
@with_queue
async def run(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the job id.")] = False,
) -> None:
    """Enqueue the job of a schedule now.

    Also while it is paused. The job's id is NAME@SECONDS-run. The times of the schedule stay as they
    are. The job's history says who ran it, and why.
    """
    from aragora_q.schedule_views import run_schedule

    now = await queue.tracker.server_time()
    job_id, created = await run_schedule(queue, name, now, by=options.operator(), reason=reason)
    if as_json:
        output.json_line({"name": name, "id": job_id, "created": created})
    elif quiet:
        output.line(job_id)
    elif created:
        output.line(f"{job_id} enqueued")
    if not created:
        output.info(f"job {job_id} exists already: not enqueued again")


@schedule.command(
    epilog="\b\nExamples:\n  aragora-q schedule pause nightly --reason 'holidays'\n\n\b\n"
    f"Exit codes:\n  0 the schedule is paused   2 usage   3 no such schedule\n  {CODES}",
)
@with_queue
async def pause(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> None:
    """Let the times of a schedule pass until `resume`. Its jobs that are in the queue run."""
    from aragora_q.schedule_views import read_schedule

    await read_schedule(queue.schedules, queue.config, name)
    changed = await queue.schedules.pause(name, by=options.operator(), reason=reason)
    if as_json:
        output.json_line({"name": name, "paused": True, "changed": changed})
    elif not quiet:
        output.line(f"{name} {'is paused' if changed else 'was already paused'}")


@schedule.command(
    epilog="\b\nExamples:\n  aragora-q schedule resume nightly\n\n\b\n"
    f"Exit codes:\n  0 the schedule is not paused   2 usage   3 no such schedule\n  {CODES}",
)
@with_queue
async def resume(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> None:
    """Let a paused schedule go on with its next time. Times that passed meanwhile are skipped."""
    from aragora_q.schedule_views import read_schedule, resume_schedule

    row, now = await read_schedule(queue.schedules, queue.config, name)
    changed = await resume_schedule(queue, row, now, by=options.operator(), reason=reason)
    if as_json:
        output.json_line({"name": name, "paused": False, "changed": changed})
    elif not quiet:
        next_time = "".join(f"; next: {_time(row, at)}" for at in _next_times(row, now, 1))
        output.line(f"{name} {'is resumed' if changed else 'was not paused'}{next_time}")


@schedule.command(
    epilog="\b\nExamples:\n  aragora-q schedule forget nightly\n\n\b\n"
    "Exit codes:\n  0 forgotten   2 usage   3 no such schedule\n"
    f"  65 the configuration here has it\n  {CODES}",
)
@with_queue
async def forget(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> None:
    """Delete what the queue keeps of a removed schedule.

    Use it when no configuration has it any more. Its jobs stay. If a worker still has it, the schedule begins
    again as a new one.
    """
    from aragora_q.schedule_views import forget_schedule, read_schedule

    row, _ = await read_schedule(queue.schedules, queue.config, name)
    changed = await forget_schedule(queue, row, by=options.operator(), reason=reason)
    if as_json:
        output.json_line({"name": name, "forgotten": changed})
    elif not quiet:
        output.line(f"{name} {'is forgotten' if changed else 'was not known'}")
