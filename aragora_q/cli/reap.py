"""`aragora-q reap`: one pass over dead workers' jobs, for cron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, QueueName, RedisUrl, Silent

if TYPE_CHECKING:
    from aragora_q.maintenance import ReapReport

REASONS = {
    "reclaimed": "worker died: runs again",
    "poisoned": "killed workers: fails",
    "redelivered": "never started: waits",
    "dropped": "a copy: dropped",
}
"""What each decision means, in words short enough for a terminal."""

LOCK_MARGIN_SECONDS = 60.0
"""A pass may overrun its budget by a step; one that was killed blocks the next no longer than this."""


def reap(
    *,
    budget: Annotated[
        float,
        typer.Option("--max-time", metavar="SECONDS", min=1, help="Stop after about so long."),
    ] = 30.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be taken over, and why.")
    ] = False,
    as_json: AsJson = False,
    quiet: Silent = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Take over the jobs of dead workers, release what is due, forget workers long gone.

    Workers do all this themselves; from cron it also works while none is left. Only one pass runs
    at a time: a second one says so and exits 0.

    Example:
      * * * * *  aragora-q reap --quiet

    Exit codes:
      0 ok   69 Redis unreachable   75 Redis busy or full, try again
      77 access denied

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    options.run(_reap(settings, budget, dry_run=dry_run, as_json=as_json, quiet=quiet))


async def _reap(
    settings: Any, budget_seconds: float, *, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    from aragora_q.maintenance import reap_pass
    from aragora_q.streams.queue import REAPER

    async with options.opened(settings) as queue:
        if dry_run:
            report = await reap_pass(queue, REAPER, dry_run=True)
        else:
            async with queue.single_flight(budget_seconds + LOCK_MARGIN_SECONDS) as is_ours:
                if not is_ours:
                    _print_busy(as_json=as_json, quiet=quiet)
                    return
                report = await reap_pass(queue, REAPER, budget_seconds=budget_seconds)
        grace_until = (await queue.get_queue_stats())["grace_until"]
    if as_json:
        output.json_line({**_as_json(report, dry_run=dry_run), "grace_until": grace_until})
    elif not quiet:
        _tell(report, dry_run=dry_run)
        if grace_until:
            output.note(
                "all workers were silent of late: nothing is taken over before they had time to return"
            )


def _print_busy(*, as_json: bool, quiet: bool) -> None:
    if as_json:
        output.json_line({"skipped": True})
    elif not quiet:
        output.note("another reap is at work: nothing done")


def _as_json(report: ReapReport, *, dry_run: bool) -> dict[str, Any]:
    """`skipped` (another pass is at work; then nothing else), `dry_run`, `taken` (each `id`,
    `decision`, `reason`, `worker_id`, `idle_seconds`, `crashes`), `promoted`, `consumers_deleted`,
    `complete` (false: the budget ran out), `grace_until` (Unix ms or null: nothing is taken before).
    """
    return {
        "skipped": False,
        "dry_run": dry_run,
        "taken": [
            {
                "id": taken.id,
                "decision": taken.decision,
                "reason": REASONS[taken.decision],
                "worker_id": taken.worker_id,
                "idle_seconds": taken.idle_seconds,
                "crashes": taken.crashes,
            }
            for taken in report.taken
        ],
        "promoted": report.promoted,
        "consumers_deleted": report.consumers_deleted,
        "complete": report.is_complete,
    }


def _tell(report: ReapReport, *, dry_run: bool) -> None:
    if report.taken:
        output.table(
            ("JOB", "WORKER", "SILENT", "DIED", "DECISION"),
            [
                (
                    taken.id,
                    taken.worker_id,
                    output.duration(taken.idle_seconds),
                    str(taken.crashes),
                    REASONS[taken.decision],
                )
                for taken in report.taken
            ],
        )
    jobs = output.count(len(report.taken), "job")
    if dry_run:
        output.note(f"would take over {jobs}; nothing was changed")
        return
    output.note(
        f"took over {jobs}, made {report.promoted} due ones runnable, "
        f"forgot {output.count(report.consumers_deleted, 'consumer')}"
    )
    if not report.is_complete:
        output.note("the budget ran out: the next pass goes on")
