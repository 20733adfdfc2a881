"""The options that choose jobs by a filter: the same for list, cancel, hold, unhold, requeue, purge and wait.

`with_filter` adds them to a command. It checks them, and how they go with ids, --yes and --dry-run, before
anything is sent.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q import moments
from aragora_q.base import JobStatus
from aragora_q.cli.options import Command, by_name, parse_tag
from aragora_q.errors import InvalidPayload
from aragora_q.formats import any_of
from aragora_q.labels import JobFilter, check_labels
from aragora_q.moments import Moment

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue


def parse_moment(text: str, zone: tzinfo | None = None) -> Moment:
    """Return the moment that an option means, as `moments.parse_moment`. Raises typer.BadParameter."""
    try:
        return moments.parse_moment(text, zone)
    except InvalidPayload as error:
        raise typer.BadParameter(str(error)) from None


@dataclass(frozen=True)
class GivenFilter:
    """The filter options of a command, as they were given."""

    group: str | None = None
    tenant: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    statuses: frozenset[JobStatus] = frozenset()
    since: Moment | None = None
    until: Moment | None = None

    @property
    def has_more_than_statuses(self) -> bool:
        """True if an option other than --status was given."""
        return bool(self.group or self.tenant or self.tags or self.since or self.until)

    @property
    def is_given(self) -> bool:
        """True if any of the options was given."""
        return bool(self.statuses) or self.has_more_than_statuses

    async def resolve(
        self, queue: RedisStreamsQueue, statuses: frozenset[JobStatus] = frozenset()
    ) -> JobFilter:
        """Return the filter by the clock of the server; `statuses` are those if none was given."""
        times = (self.since, self.until)
        now = await queue.tracker.server_time() if any(times) else 0.0
        since, until = (None if each is None else each.at(now) for each in times)
        return JobFilter(
            statuses=self.statuses or statuses,
            group=self.group,
            tenant=self.tenant,
            tags=self.tags,
            since=since,
            until=until,
        )

    def in_words(self, wanted: JobFilter) -> str:
        """Return, for example, `of group nightly, status pending`, with the times of `wanted`."""
        parts = [f"group {self.group}"] if self.group else []
        parts += [f"tenant {self.tenant}"] if self.tenant else []
        parts += [f"tag {name}={value}" for name, value in self.tags.items()]
        parts += [f"status {_any_of(self.statuses)}"] if self.statuses else []
        times = [
            f"{name} {datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
            for name, seconds in (("since", wanted.since), ("until", wanted.until))
            if seconds is not None
        ]
        return f"{'of ' if parts else ''}{', '.join([*parts, *times])}"


def _any_of(statuses: frozenset[JobStatus]) -> str:
    return any_of(status.value for status in JobStatus if status in statuses)


Group = Annotated[
    str | None, typer.Option("--group", metavar="NAME", help="Only jobs of this group.")
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Only jobs of this tenant.")
]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", metavar="K=V", parser=parse_tag, help="Only jobs with this tag; repeatable."
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        parser=parse_moment,
        help="Only jobs that ended, or else started, or else were enqueued, since: 2h, 7d, 2026-11-28, "
        "2026-11-28T02:00 (local time).",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until", metavar="TIME", parser=parse_moment, help="Only jobs before: as --since."
    ),
]


def with_filter(
    verb: str, statuses: frozenset[JobStatus] = frozenset(), *, needs_jobs: bool = True
) -> Callable[[Command], Command]:
    """Replace the parameter `given` of a command, a GivenFilter, by the filter options.

    `statuses` are those that --status may have, with empty ones any. Applied outside of `with_queue` and
    `with_config`. Checks, as far as the command has such parameters:

    - `since` is before `until`;
    - `ids` and a filter exclude each other, and one of them is required, unless not `needs_jobs`;
    - `dry_run` needs a filter instead of ids;
    - with a filter, `yes` is required where stdin is not a terminal.
    """
    allowed = statuses or frozenset(JobStatus)
    status_option = Annotated[
        list[JobStatus] | None,
        typer.Option(
            "--status",
            "-s",
            metavar="STATUS",
            help=f"Only jobs in this status: {_any_of(allowed)}; repeatable.",
        ),
    ]
    added = {
        "group": Group,
        "tenant": Tenant,
        "tag": Tags,
        "status": status_option,
        "since": Since,
        "until": Until,
    }

    def decorate(command: Command) -> Command:
        @wraps(command)
        def wrapper(
            group: str | None,
            tenant: str | None,
            tag: list[tuple[str, str]] | None,
            status: list[JobStatus] | None,
            since: Moment | None,
            until: Moment | None,
            **arguments: Any,
        ) -> int | None:
            wanted = frozenset(status or ())
            if not wanted <= allowed:
                raise typer.BadParameter(
                    f"{verb} takes only jobs whose status is {_any_of(allowed)}, not "
                    f"{_any_of(wanted - allowed)}",
                    param_hint="--status",
                )
            tags = by_name(tag, "--tag")
            check_labels(group, tenant, tags)
            given = GivenFilter(group, tenant, tags, wanted, since, until)
            _check_together(verb, given, arguments, needs_jobs=needs_jobs)
            return command(given=given, **arguments)

        parameters = list(inspect.signature(command).parameters.values())
        place = [parameter.name for parameter in parameters].index("given")
        parameters[place : place + 1] = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in added.items()
        ]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # known to inspect
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _check_together(
    verb: str, given: GivenFilter, arguments: Mapping[str, Any], *, needs_jobs: bool
) -> None:
    """Raise typer.BadParameter for options that do not go together; see `with_filter`."""
    now = time.time()
    if given.since and given.until and given.since.at(now) >= given.until.at(now):
        raise typer.BadParameter("it is not after --since: no jobs match", param_hint="--until")
    ids = arguments.get("ids")
    if ids and given.is_given:
        raise typer.BadParameter("give job ids or a filter, not both", param_hint="ID")
    is_about_jobs = needs_jobs and "ids" in arguments and not ids
    if is_about_jobs and not given.is_given:
        raise typer.BadParameter("give job ids, or a filter such as --group", param_hint="ID")
    if ids and arguments.get("dry_run"):
        raise typer.BadParameter(
            "it counts the jobs that a filter matches, not ids", param_hint="--dry-run"
        )
    works_on_filter = given.has_more_than_statuses or is_about_jobs
    asks = works_on_filter and "yes" in arguments
    if asks and not (arguments["yes"] or arguments["dry_run"] or sys.stdin.isatty()):
        raise typer.BadParameter(
            f"this would {verb} all jobs that match: add --yes to confirm, or --dry-run to count them"
        )
