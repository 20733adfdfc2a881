"""`aragora-q group`: list, show, seal and cancel groups of jobs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.base import Group, Job, JobStatus
from aragora_q.cli import SETTINGS, options, output
from aragora_q.cli.group_rows import GroupName
from aragora_q.cli.options import (
    CODES,
    AsJson,
    DryRun,
    LoadConfig,
    Notify,
    Quiet,
    Reason,
    Yes,
    traced,
    with_config,
    with_queue,
)
from aragora_q.errors import GroupNotFound, InvalidPayload

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_GROUPS = 10_000
"""Groups that are listed at most: they are read in one call."""

group = typer.Typer(no_args_is_help=True, add_completion=False, **SETTINGS)


@group.callback()
def _group() -> None:
    """List, show, seal and cancel groups of jobs.

    A job enters a group with `enqueue --group`. A group exists from its first job until its last one
    is purged. It is open until it is sealed, and ends when it is sealed and no job is live.
    """


@group.command(
    "list",
    epilog="\b\nExamples:\n  aragora-q group list --jsonl | jq -r 'select(.live > 0) | .name'\n\n\b\n"
    f"Exit codes:\n  0 ok   65 data of some groups in Redis is corrupted; all others are\n  listed\n  {CODES}",
)
@with_queue
async def list_(
    queue: RedisStreamsQueue,
    *,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", "-n", metavar="N", min=1, max=MAX_GROUPS, help="Maximum number of groups."
        ),
    ] = 20,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only names.")] = False,
) -> int:
    """List groups, newest first: by the time of their first job."""
    from aragora_q import views

    groups = await queue.tracker.groups(limit + 1)  # one more, to know if that is all
    has_more = len(groups) > limit
    exit_code, found = 0, []
    for each in groups[:limit]:
        if isinstance(each, Group):
            found.append(each)
        else:
            output.error(str(each), each.hint)
            exit_code = each.exit_code
    if as_json or quiet:
        for each in found:
            if as_json:
                output.json_line(views.group_json(each))
            else:
                output.line(each.name)
        return exit_code
    if not found:
        output.info(f"no groups found in queue {queue.config.queue} at {queue.connection.address}")
        return exit_code
    now = await queue.tracker.server_time()
    output.table(
        ("GROUP", "STATE", "CREATED", "JOBS", "LIVE", "HELD", "COMPLETED", "FAILED", "CANCELLED"),
        [_row(each, now) for each in found],
    )
    if has_more and sys.stderr.isatty():
        output.info(f"there are more groups: --limit {min(limit * 5, MAX_GROUPS)}")
    return exit_code


def _row(found: Group, now: float) -> tuple[str, ...]:
    counted = (JobStatus.HELD, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
    numbers = (found.total, found.live, *(found.counts[status] for status in counted))
    created = output.ago(found.created_at, now)
    return (found.name, found.state, created, *(f"{number:,}" for number in numbers))


@group.command(
    epilog="\b\nExamples:\n  aragora-q group show nightly --json | jq .counts\n\n\b\n"
    f"Exit codes:\n  0 ok   3 no such group   65 not a name, or corrupted data in Redis\n  {CODES}",
)
@with_queue
async def show(
    queue: RedisStreamsQueue,
    *,
    name: GroupName,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the name.")] = False,
) -> None:
    """Show a group: its jobs by status, its state, what it spent, and what follows."""
    from aragora_q.cli import layout

    found = await _require_group(queue, name)
    await layout.show_group(queue, found, as_json=as_json, quiet=quiet)


async def _require_group(queue: RedisStreamsQueue, name: str) -> Group:
    found = await queue.tracker.get_group(name)
    if found is None:
        raise GroupNotFound(name, queue.config.queue)
    return found


@group.command(
    epilog="\b\nExamples:\n  aragora-q group seal nightly --then summary.json\n\n\b\n"
    "Exit codes:\n  0 sealed, now or before   2 usage, or FILE cannot be read\n"
    "  3 no such group   65 invalid job, unknown webhook, or sealed before with\n  others\n"
    f"  {CODES}",
)
@traced
@with_config
def seal(
    load: LoadConfig,
    *,
    name: GroupName,
    then: Annotated[
        str | None,
        typer.Option(
            "--then",
            metavar="FILE",
            help="Job to enqueue when the group has ended: one JSON object; - is stdin.",
        ),
    ] = None,
    notify: Notify = None,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Seal a group: it takes no more jobs, and ends with its last one.

    FILE has the fields of a line of `enqueue`, without `group`; its `id` is G.then if it has none.
    The job is enqueued once, however the jobs of the group ended; at once if all have ended. To seal a
    group again with the same job changes nothing. --notify reports the end of the group, not those of its jobs.
    """
    settings = load()
    follower = None if then is None else _read_follower(load, settings, name, then, quiet=quiet)
    options.run(
        _seal(
            settings,
            name,
            follower,
            options.split_names(notify),
            reason,
            as_json=as_json,
            quiet=quiet,
        )
    )


def _read_follower(
    load: LoadConfig, settings: QueueConfig, name: str, source: str, *, quiet: bool
) -> Job:
    """Read the job that follows a group, and check it as `enqueue` does."""
    from aragora_q.cli import bulk
    from aragora_q.intake.checks import create_follower
    from aragora_q.intake.lines import max_line_bytes
    from aragora_q.job_fields import default_fields

    agents = options.default_agents(load, settings)
    defaults = default_fields(agents, settings.default_notify)
    with bulk.open_source(source) as stream:
        try:
            fields = bulk.read_object(stream, max_line_bytes(settings))
            job, warning = create_follower(name, fields, defaults, settings)
        except InvalidPayload as error:
            place = "standard input" if source == "-" else source
            raise InvalidPayload(f"{place}: {error}", hint=error.hint) from None
    if warning and not quiet:
        output.info(f"warning: {warning}")
    return job


async def _seal(
    settings: QueueConfig,
    name: str,
    then: Job | None,
    notify: list[str],
    reason: str,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """JSON: the group, and `sealed` (false: it was sealed before, nothing changed)."""
    from aragora_q import views

    async with options.open_queue(settings) as queue:
        is_new = await queue.seal_group(
            name, then, notify=notify, by=options.operator(), reason=reason
        )
        found = await _require_group(queue, name)
    if as_json:
        output.json_line({**views.group_json(found), "sealed": is_new})
    elif quiet:
        output.lines([found.then_id] if found.then_id else [])
    else:
        what = "sealed" if is_new else "was sealed before: not changed"
        output.line(f"{name} {what}; {_outlook(found)}")
    if (as_json or quiet) and not is_new:
        output.info(f"group {name} was sealed before: not changed")


def _outlook(found: Group) -> str:
    """Return what a sealed group waits for, and what follows."""
    live = output.count(found.live, "live job") if found.live else "all jobs have ended"
    reported = f"; reported to: {', '.join(found.notify)}" if found.notify else ""
    return live + _follower_text(found) + reported


def _follower_text(found: Group) -> str:
    return f"; then: {found.then_id}, {found.then_status}" if found.then_id else ""


@group.command(
    epilog="\b\nExamples:\n  aragora-q group cancel nightly --dry-run\n\n\b\n"
    "Exit codes:\n  0 ok   1 not confirmed   2 usage, or --yes is required\n"
    f"  3 no such group   65 not a name\n  {CODES}",
)
@with_config
def cancel(
    load: LoadConfig,
    *,
    name: GroupName,
    reason: Reason = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cancel a group as a whole: its live jobs, and what would follow.

    It takes no more jobs. The command asks for confirmation, or requires --yes where stdin is not a
    terminal. If it is interrupted, run it again.
    """
    from aragora_q import views

    settings = load()
    must_ask = not yes and not dry_run
    if must_ask and not sys.stdin.isatty():
        raise typer.BadParameter(
            "this would cancel the whole group: add --yes to confirm, or --dry-run to count its jobs"
        )
    found = options.run(_read_group(settings, name))
    scope, number = _scope(found), found.live
    if must_ask:
        typer.confirm(f"Cancel {scope}, in queue {settings.queue}?", abort=True, err=True)
    if not dry_run:
        number, found = options.run(_cancel(settings, name, reason))
    if as_json:
        # JSON: `name`, `dry_run`, `cancelled` (number of jobs, now or with --dry-run), `then`.
        follower = views.group_json(found)["then"]
        output.json_line({"name": name, "dry_run": dry_run, "cancelled": number, "then": follower})
    elif dry_run and not quiet:
        output.line(f"would cancel {scope}")
    elif not quiet and found.cancelled_at is None:
        output.line(f"{name} has ended: not changed")
    elif not quiet:
        output.line(f"{name} cancelled: {output.count(number, 'job')}{_follower_text(found)}")


async def _read_group(settings: QueueConfig, name: str) -> Group:
    async with options.open_queue(settings) as queue:
        return await _require_group(queue, name)


async def _cancel(settings: QueueConfig, name: str, reason: str) -> tuple[int, Group]:
    async with options.open_queue(settings) as queue:
        cancelled = await queue.cancel_group(name, by=options.operator(), reason=reason)
        return cancelled, await _require_group(queue, name)


def _scope(found: Group) -> str:
    """Return what cancelling a group ends, as text."""
    follower = f", and job {found.then_id}, which would follow it"
    jobs = f"{output.count(found.live, 'live job')} of group {found.name}"
    return jobs + (follower if found.then_status == "waiting" else "")
