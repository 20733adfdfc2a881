"""Filters over jobs, as a query string or a form has them: the same names as the options of `list`."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime

from aragora_q.base import JobStatus
from aragora_q.errors import InvalidPayload
from aragora_q.formats import any_of
from aragora_q.labels import JobFilter
from aragora_q.moments import Moment, parse_moment


def read_filter(fields: Iterable[tuple[str, object]], now: float) -> JobFilter:
    """Return the filter in the fields `status`, `tag` (repeatable), `group`, `tenant`, `since`, `until`.

    Blank fields and those of other names do not count. `now` is the server's time, in Unix seconds; a time that
    names no zone is in UTC.

    Raises:
        InvalidPayload: a value breaks a rule: no job can match.
    """
    given: dict[str, list[str]] = {}
    for name, value in fields:
        if isinstance(value, str) and value.strip():
            given.setdefault(name, []).append(value.strip())

    def last(name: str) -> str | None:
        return given[name][-1] if name in given else None

    def moment(name: str) -> Moment | None:
        text = last(name)
        return None if text is None else parse_moment(text, UTC)

    since, until = moment("since"), moment("until")
    wanted = JobFilter(
        statuses=frozenset(_status(text) for text in given.get("status", ())),
        group=last("group"),
        tenant=last("tenant"),
        tags=_tags(given.get("tag", ())),
        since=None if since is None else since.at(now),
        until=None if until is None else until.at(now),
    )
    wanted.check()
    if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
        raise InvalidPayload("until is not after since: no jobs match")
    return wanted


def filter_words(wanted: JobFilter) -> str:
    """Return a filter in words: `of group nightly, status pending`, with its times in UTC."""
    parts = [f"group {wanted.group}"] if wanted.group else []
    parts += [f"tenant {wanted.tenant}"] if wanted.tenant else []
    parts += [f"tag {name}={value}" for name, value in sorted(wanted.tags.items())]
    parts += [f"status {any_of(status_names(wanted.statuses))}"] if wanted.statuses else []
    parts += [
        f"{name} {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
        for name, at in (("since", wanted.since), ("until", wanted.until))
        if at is not None
    ]
    return f"of {', '.join(parts)}" if parts else "of this queue"


def filter_fields(wanted: JobFilter) -> list[tuple[str, str]]:
    """Return a filter as the fields of a form; its times do not depend on when it is read."""
    fields = [("status", name) for name in status_names(wanted.statuses)]
    fields += [("group", wanted.group)] if wanted.group else []
    fields += [("tenant", wanted.tenant)] if wanted.tenant else []
    fields += [("tag", f"{name}={value}") for name, value in sorted(wanted.tags.items())]
    return fields + [
        (name, datetime.fromtimestamp(at, UTC).isoformat())
        for name, at in (("since", wanted.since), ("until", wanted.until))
        if at is not None
    ]


def status_names(statuses: AbstractSet[JobStatus]) -> list[str]:
    """Return statuses in the order of a job's life."""
    return [each.value for each in JobStatus if each in statuses]


def _status(text: str) -> JobStatus:
    try:
        return JobStatus(text)
    except ValueError:
        names = ", ".join(JobStatus)
        raise InvalidPayload(f"{text!r:.100} is not a status: use one of {names}") from None


def _tags(texts: Iterable[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for pair in (pair for text in texts for pair in text.split()):
        name, _, value = pair.partition("=")
        if not (name and value):
            raise InvalidPayload(f"{pair!r:.100} is not K=V, such as env=prod")
        if tags.setdefault(name, value) != value:
            raise InvalidPayload(f"tag {name!r:.100} is given twice")
    return tags
