"""`aragora-q purge`: delete the data of ended jobs, from cron or by hand."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.base import TERMINAL, JobStatus
from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, LoadConfig, Quiet, Yes, with_config

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig

EPILOG = """\b
Examples:
  30 3 * * *  aragora-q purge --quiet
  aragora-q purge --older-than 36h --status completed

\b
Exit codes:
  0 ok   1 not confirmed   2 usage, or --yes is required
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_config
def purge(
    load: LoadConfig,
    *,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            parser=options.parse_duration,
            help="Minimum age: 90s, 15m, 36h, 7d. [default: retention time]",
        ),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status", metavar="STATUS", help="Only completed, failed or cancelled jobs."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the jobs, delete nothing.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Delete jobs that ended longer ago than the retention time.

    Jobs that have not ended are never deleted. To delete jobs younger than the retention time, purge
    asks for confirmation, or requires --yes where stdin is not a terminal.
    """
    statuses = _parse_statuses(status)
    settings = load()
    must_ask = (
        older_than is not None
        and older_than * 1000 < settings.retention_ms
        and not yes
        and not dry_run
    )
    if must_ask and not sys.stdin.isatty():
        raise typer.BadParameter(
            "this deletes jobs younger than the retention time: add --yes to confirm",
            param_hint="--older-than",
        )
    purged = options.run(_purge(settings, statuses, older_than, dry_run=dry_run or must_ask))
    if must_ask:
        retention = output.duration(settings.retention_ms / 1000)
        jobs = output.count(sum(purged.values()), "job")
        typer.confirm(
            f"Delete {jobs}, possibly some younger than {retention}?", abort=True, err=True
        )
        purged = options.run(_purge(settings, statuses, older_than, dry_run=False))
    if as_json:
        # JSON: `dry_run`, `purged` (number of jobs by status).
        output.json_line({"dry_run": dry_run, "purged": purged})
    elif not quiet:
        counts = ", ".join(f"{number:,} {name}" for name, number in purged.items())
        output.info(f"{'would delete' if dry_run else 'deleted'}: {counts}")


def _parse_statuses(names: list[str] | None) -> frozenset[JobStatus]:
    if not names:
        return TERMINAL
    for name in names:
        if name not in TERMINAL:
            raise typer.BadParameter(
                f"invalid status {name!r}: use {', '.join(sorted(TERMINAL))}", param_hint="--status"
            )
    return frozenset(map(JobStatus, names))


async def _purge(
    settings: QueueConfig,
    statuses: frozenset[JobStatus],
    older_than_seconds: float | None,
    *,
    dry_run: bool,
) -> dict[str, int]:
    from aragora_q.maintenance import purge_pass

    async with options.open_queue(settings) as queue:
        purged = await purge_pass(
            queue, statuses=statuses, older_than_seconds=older_than_seconds, dry_run=dry_run
        )
    return {status.value: number for status, number in purged.items()}
