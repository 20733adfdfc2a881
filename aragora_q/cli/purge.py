"""`aragora-q purge`: delete the data of ended jobs, for cron and for people."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from aragora_q.base import TERMINAL, JobStatus
from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, QueueName, RedisUrl, Silent


def purge(
    *,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            parser=options.parse_duration,
            help="Instead of the retention time: 90s, 15m, 36h, 7d.",
        ),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status", metavar="STATUS", help="Only completed, failed or cancelled ones."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    quiet: Silent = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Delete jobs that ended before the retention time. Live jobs are never touched.

    It asks only before it deletes jobs younger than the retention time, and then needs --yes where
    there is no terminal to ask on.

    Example:
      30 3 * * *  aragora-q purge --quiet
      aragora-q purge --older-than 36h --status completed

    Exit codes:
      0 ok   1 answered no   2 needs --yes   69 Redis unreachable
      77 access denied

    """
    statuses = _statuses(status)
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    must_ask = (
        older_than is not None
        and older_than * 1000 < settings.retention_ms
        and not yes
        and not dry_run
    )
    if must_ask and not sys.stdin.isatty():
        raise typer.BadParameter(
            "deletes jobs younger than the retention time: say --yes, there is no terminal to ask on",
            param_hint="--older-than",
        )
    purged = options.run(_purge(settings, statuses, older_than, dry_run=dry_run or must_ask))
    if must_ask:
        retention = output.duration(settings.retention_ms / 1000)
        jobs = output.count(sum(purged.values()), "job")
        typer.confirm(
            f"Delete {jobs}, some perhaps younger than {retention}?", abort=True, err=True
        )
        purged = options.run(_purge(settings, statuses, older_than, dry_run=False))
    if as_json:
        # `dry_run`, and how many of each status: `purged`.
        output.json_line({"dry_run": dry_run, "purged": purged})
    elif not quiet:
        counts = ", ".join(f"{number:,} {name}" for name, number in purged.items())
        output.note(f"{'would delete' if dry_run else 'deleted'}: {counts}")


def _statuses(names: list[str] | None) -> frozenset[JobStatus]:
    if not names:
        return TERMINAL
    for name in names:
        if name not in TERMINAL:
            raise typer.BadParameter(
                f"{name!r} is none of {', '.join(sorted(TERMINAL))}", param_hint="--status"
            )
    return frozenset(map(JobStatus, names))


async def _purge(
    settings: Any,
    statuses: frozenset[JobStatus],
    older_than_seconds: float | None,
    *,
    dry_run: bool,
) -> dict[str, int]:
    from aragora_q.maintenance import purge_pass

    async with options.opened(settings) as queue:
        purged = await purge_pass(
            queue, statuses=statuses, older_than_seconds=older_than_seconds, dry_run=dry_run
        )
    return {status.value: number for status, number in purged.items()}
