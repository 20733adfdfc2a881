"""`aragora-q reap`: one maintenance pass over the queue, for cron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, Quiet, with_queue
from aragora_q.observability import otel

if TYPE_CHECKING:
    from aragora_q.maintenance import ReapReport
    from aragora_q.streams.queue import RedisStreamsQueue

REASONS = {
    "reclaimed": "worker died: retry",
    "poisoned": "too many crashes: fail",
    "redelivered": "not running on its worker: redeliver",
    "held": "worker died, a hold was asked: hold",
    "malformed": "not a job: dead letter",
    "dropped": "duplicate entry: drop",
}
"""The meaning of each decision."""

LOCK_MARGIN_SECONDS = 60.0
"""Added to the lock's lifetime: a pass may exceed its time limit by one step."""

EPILOG = """\b
Examples:
  * * * * *  aragora-q reap --quiet

\b
Exit codes:
  0 ok   69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@otel.exporting()
@with_queue
async def reap(
    queue: RedisStreamsQueue,
    *,
    max_time: Annotated[
        float,
        typer.Option(
            "--max-time",
            metavar="SECONDS",
            min=1,
            max=options.MAX_SECONDS,
            help="Stop after about this many seconds.",
        ),
    ] = 30.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the jobs to reclaim, with reasons.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Reclaim jobs of dead workers, promote due jobs, free held jobs, remove expired workers.

    Enqueue what schedules have due. Workers do all this themselves; run it from cron for times when no
    worker is alive. Only one pass runs at a time: a second one does nothing and exits with 0.
    """
    from aragora_q.maintenance import reap_pass
    from aragora_q.streams.queue import REAPER

    if dry_run:
        report = await reap_pass(queue, REAPER, max_seconds=max_time, dry_run=True)
    else:
        async with queue.single_flight(max_time + LOCK_MARGIN_SECONDS) as is_locked:
            if not is_locked:
                _print_skipped(as_json=as_json, quiet=quiet)
                return
            report = await reap_pass(queue, REAPER, max_seconds=max_time)
    grace_until = (await queue.get_queue_stats())["grace_until"]
    if as_json:
        output.json_line({**_as_json(report, dry_run=dry_run), "grace_until": grace_until})
    elif not quiet:
        _print_report(report, dry_run=dry_run)
        if grace_until:
            output.info(
                "no worker sent a heartbeat recently (Redis or the whole fleet was down); "
                "reclaiming starts after the grace period"
            )


def _print_skipped(*, as_json: bool, quiet: bool) -> None:
    if as_json:
        output.json_line({"skipped": True})
    elif not quiet:
        output.info("skipped: another reap is running")


def _as_json(report: ReapReport, *, dry_run: bool) -> dict[str, Any]:
    """Return the JSON of a pass; a skipped one has only `skipped`.

    `skipped` (true: another pass is running), `dry_run`, `reclaimed` (each `id`, `decision`, `reason`,
    `worker_id`, `idle_seconds`, `crashes`), `promoted`, `unheld`, `consumers_deleted`, `ticks` (jobs of
    schedules enqueued), `complete` (false: the time limit was reached), `grace_until` (Unix ms or null: no job
    is reclaimed before).
    """
    return {
        "skipped": False,
        "dry_run": dry_run,
        "reclaimed": [
            {
                "id": job.id,
                "decision": job.decision,
                "reason": REASONS[job.decision],
                "worker_id": job.worker_id,
                "idle_seconds": job.idle_seconds,
                "crashes": job.crashes,
            }
            for job in report.reclaimed
        ],
        "promoted": report.promoted,
        "unheld": report.unheld,
        "consumers_deleted": report.consumers_deleted,
        "ticks": report.ticks,
        "complete": report.is_complete,
    }


def _print_report(report: ReapReport, *, dry_run: bool) -> None:
    if report.reclaimed:
        output.table(
            ("JOB", "WORKER", "IDLE", "CRASHES", "DECISION"),
            [
                (
                    job.id,
                    job.worker_id,
                    output.duration(job.idle_seconds),
                    str(job.crashes),
                    REASONS[job.decision],
                )
                for job in report.reclaimed
            ],
        )
    jobs = output.count(len(report.reclaimed), "job")
    if dry_run:
        least = "" if report.is_complete else "at least "
        output.info(f"would reclaim {least}{jobs}; nothing was changed")
        return
    output.info(
        f"reclaimed {jobs}, promoted {output.count(report.promoted, 'due job')}, "
        f"freed {output.count(report.unheld, 'held job')}, "
        f"removed {output.count(report.consumers_deleted, 'expired worker')}, "
        f"enqueued {output.count(report.ticks, 'scheduled job')}"
    )
    if not report.is_complete:
        output.info("time limit reached; the next pass continues")
