"""`aragora-q purge`: delete the data of ended jobs, from cron or by hand, by age, by id or by filter."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.base import TERMINAL, JobStatus
from aragora_q.cli import options, output
from aragora_q.cli.filters import GivenFilter, with_filter
from aragora_q.cli.options import AsJson, DryRun, LoadConfig, Quiet, Reason, Yes, with_config
from aragora_q.cli.selection import Ids, Selection, confirm, says_where_it_stopped
from aragora_q.observability import otel

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig

EPILOG = """\b
Examples:
  30 3 * * *  aragora-q purge --quiet
  aragora-q purge --older-than 36h --status completed
  aragora-q purge "$id" --reason "private data"

\b
Exit codes:
  0 ok   1 not confirmed   2 usage, or --yes is required
  3 a job was not found   65 bad name, or a line of stdin without id
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@otel.exporting()
@with_filter("purge", TERMINAL, needs_jobs=False)
@with_config
def purge(
    load: LoadConfig,
    *,
    ids: Ids = None,
    given: GivenFilter,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            parser=options.parse_duration,
            help="Minimum age: 90s, 15m, 36h, 7d. [default: retention time; with a filter, any age]",
        ),
    ] = None,
    reason: Reason = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Delete jobs that ended longer ago than the retention time, or by id, or all that match a filter.

    Jobs that have not ended are never deleted. With --group, --tenant, --tag, --since or --until, all that
    match are deleted, whatever their age. This, and deleting jobs younger than the retention time, asks
    first, or requires --yes where stdin is not a terminal.
    """
    if ids and older_than is not None:
        raise typer.BadParameter("give job ids or an age, not both", param_hint="--older-than")
    settings = load()
    if ids:
        selection = Selection(
            "purge", TERMINAL, ids, given, dry_run=False, yes=True, as_json=as_json, quiet=quiet
        )
        return options.run(_purge_ids(settings, selection, reason))
    if given.has_more_than_statuses:
        purged = options.run(
            _purge_matching(settings, given, older_than, reason, dry_run=dry_run, asks=not yes)
        )
    else:
        purged = _purge_old(
            settings, given.statuses or TERMINAL, older_than, reason, dry_run=dry_run, yes=yes
        )
    if as_json:
        # JSON: `dry_run`, `purged` (number of jobs by status).
        output.json_line({"dry_run": dry_run, "purged": purged})
    elif not quiet:
        counts = ", ".join(f"{number:,} {name}" for name, number in purged.items())
        output.info(f"{'would delete' if dry_run else 'deleted'}: {counts}")
    return 0


async def _purge_ids(settings: QueueConfig, selection: Selection, reason: str) -> int:
    """Delete jobs by id; JSON: `id`, `deleted` (false: it has not ended), `status` (null if deleted)."""
    by = options.operator()
    async with options.open_queue(settings) as queue:

        async def work(job_ids: list[str]) -> int:
            results = await queue.purge_many(job_ids, by=by, reason=reason)
            for job_id, result in selection.to_print(queue, job_ids, results):
                deleted = result == "purged"
                if selection.as_json:
                    status = None if deleted else result
                    output.json_line({"id": job_id, "deleted": deleted, "status": status})
                elif selection.quiet:
                    output.line(job_id)
                else:
                    output.line(f"{job_id} {'deleted' if deleted else f'has not ended: {result}'}")
            return results.count("purged")

        await selection.run(queue, work)
    return selection.exit_code


def _purge_old(
    settings: QueueConfig,
    statuses: frozenset[JobStatus],
    older_than: float | None,
    reason: str,
    *,
    dry_run: bool,
    yes: bool,
) -> dict[str, int]:
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
    purged = options.run(
        _purge(settings, statuses, older_than, reason, dry_run=dry_run or must_ask)
    )
    if must_ask:
        retention = output.duration(settings.retention_ms / 1000)
        jobs = output.count(sum(purged.values()), "job")
        typer.confirm(
            f"Delete {jobs}, possibly some younger than {retention}?", abort=True, err=True
        )
        purged = options.run(_purge(settings, statuses, older_than, reason, dry_run=False))
    return purged


async def _purge_matching(
    settings: QueueConfig,
    given: GivenFilter,
    older_than: float | None,
    reason: str,
    *,
    dry_run: bool,
    asks: bool,
) -> dict[str, int]:
    """Delete all ended jobs that match; return counts by status."""
    by = options.operator()
    async with options.open_queue(settings) as queue:
        wanted = await given.resolve(queue, TERMINAL)
        if older_than is not None:
            newest = await queue.tracker.server_time() - older_than
            wanted = replace(wanted, until=min(wanted.until or newest, newest))
        by_status = {
            status.value: replace(wanted, statuses=frozenset({status}))
            for status in sorted(wanted.statuses)
        }
        counts: dict[str, int] = {}
        if dry_run or asks or sys.stderr.isatty():
            for name, part in by_status.items():
                counts[name] = await queue.count(part, with_expired=True)
        if dry_run:
            return counts
        total = sum(counts.values())
        if asks:
            confirm("delete", total, given.in_words(wanted), settings.queue)
        purged = dict.fromkeys(by_status, 0)
        with (
            says_where_it_stopped(lambda: sum(purged.values())),
            output.ProgressBar(total) as bar,
        ):
            for name, part in by_status.items():
                async for page in queue.find(part, with_expired=True):
                    results = await queue.purge_many(page, by=by, reason=reason)
                    purged[name] += results.count("purged")
                    done = sum(purged.values())
                    bar.show(done, f"{done:,} of {output.count(max(done, total), 'job')}")
    return purged


async def _purge(
    settings: QueueConfig,
    statuses: frozenset[JobStatus],
    older_than_seconds: float | None,
    reason: str,
    *,
    dry_run: bool,
) -> dict[str, int]:
    from aragora_q.maintenance import purge_pass

    async with options.open_queue(settings) as queue:
        purged = await purge_pass(
            queue,
            statuses=statuses,
            older_than_seconds=older_than_seconds,
            dry_run=dry_run,
            by=options.operator(),
            reason=reason,
        )
    return {status.value: number for status, number in purged.items()}
