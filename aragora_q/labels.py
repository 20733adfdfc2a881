"""The labels of jobs: group, tenant, tags, and whom to notify, as one text; and filters over jobs.

A label is `group:<name>`, `tenant:<name>`, `tag:<name>=<value>` or `notify:<webhook>`. Redis keeps a job's
labels as one text, separated by spaces, the group first. Used by the queue, the status tracker and the command
line. Must not know Redis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from aragora_q.base import Job, JobStatus
from aragora_q.errors import InvalidPayload

MAX_TAGS = 8
MAX_NAME_CHARS = 48
MAX_TAG_NAME_CHARS = 24
MAX_SECONDS = 1e12
MAX_NOTIFY = 4
"""Maximum number of webhooks that a job names."""

_RULES = {
    "group": (
        re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@=+-]{{0,{MAX_NAME_CHARS - 1}}}"),
        f"1 to {MAX_NAME_CHARS} letters, digits and ._@=+-",
    ),
    "tenant": (
        re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@=+:/-]{{0,{MAX_NAME_CHARS - 1}}}"),
        f"1 to {MAX_NAME_CHARS} letters, digits and ._@=+-:/",
    ),
    "tag name": (
        re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_TAG_NAME_CHARS - 1}}}"),
        f"1 to {MAX_TAG_NAME_CHARS} letters, digits and ._-",
    ),
}
_RULES["value"] = _RULES["tenant"]
_RULES["webhook"] = (
    re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@-]{{0,{MAX_NAME_CHARS - 1}}}"),
    f"1 to {MAX_NAME_CHARS} letters, digits and ._@-",
)


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a command is about: those that match everything that is given. Empty: all jobs.

    The time of a job is the end of one that has ended, otherwise the latest start, or else the enqueue: what
    `list` shows.

    Example:
        >>> from aragora_q import JobFilter, JobStatus
        >>> JobFilter(group="nightly", statuses={JobStatus.FAILED}).labels
        ('group:nightly',)
    """

    statuses: AbstractSet[JobStatus] = frozenset()
    """Any of these; empty: any status."""
    group: str | None = None
    tenant: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    """All of these."""
    since: float | None = None
    """Not before this time, in Unix seconds of the server's clock."""
    until: float | None = None
    """Before this time."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that a job must have."""
        return tuple(_labels(self.group, self.tenant, self.tags))

    def check(self) -> None:
        """Raise InvalidPayload if a value breaks a rule or has the wrong type: no job can match."""
        check_labels(self.group, self.tenant, self.tags)
        if not isinstance(self.statuses, AbstractSet) or not self.statuses <= frozenset(JobStatus):
            raise InvalidPayload(
                f"statuses of a filter must be a set of JobStatus, got {self.statuses!r:.100}"
            )
        for name, time in (("since", self.since), ("until", self.until)):
            is_number = isinstance(time, int | float) and -MAX_SECONDS < time < MAX_SECONDS
            if time is not None and not is_number:
                raise InvalidPayload(
                    f"{name} of a filter must be a time in Unix seconds, got {time!r:.100}"
                )


def encode_labels(job: Job) -> str:
    """Return the labels of a job as Redis keeps them; empty if it has none."""
    labels = _labels(job.group, job.tenant, job.tags)
    return (
        " ".join([*labels, *[f"notify:{name}" for name in job.notify]])
        if labels or job.notify
        else ""
    )


def decode_labels(raw: bytes | None) -> dict[str, Any]:
    """Return `group`, `tenant`, `tags` and `notify` of labels as Redis keeps them, without empty ones."""
    fields: dict[str, Any] = {}
    if not raw:
        return fields
    for label in raw.decode(errors="replace").split():
        kind, _, name = label.partition(":")
        if kind == "tag":
            tag, _, value = name.partition("=")
            fields.setdefault("tags", {})[tag] = value
        elif kind == "notify":
            fields["notify"] = (*fields.get("notify", ()), name)
        elif kind in ("group", "tenant"):
            fields[kind] = name
    return fields


def check_labels(group: Any, tenant: Any, tags: Any) -> None:
    """Raise InvalidPayload if a group, a tenant or tags break a rule."""
    if group is None and tenant is None and tags == {}:  # most jobs
        return
    if group is not None:
        _check("group", group)
    if tenant is not None:
        _check("tenant", tenant)
    if not isinstance(tags, Mapping):
        raise InvalidPayload(f'tags must be an object such as {{"env": "prod"}}, got {tags!r:.100}')
    if len(tags) > MAX_TAGS:
        raise InvalidPayload(f"{len(tags)} tags: a job has at most {MAX_TAGS}")
    for name, value in tags.items():
        _check("tag name", name)
        _check("value", value, f" of tag {name}")


def check_notify(notify: Any) -> None:
    """Raise InvalidPayload if the webhooks that a job names break a rule; whether they exist is not checked."""
    if isinstance(notify, str) or not isinstance(notify, Sequence):
        raise InvalidPayload(f'notify must be a list such as ["ops"], got {notify!r:.100}')
    if len(notify) > MAX_NOTIFY or len(set(map(str, notify))) < len(notify):
        raise InvalidPayload(f"notify must be at most {MAX_NOTIFY} different webhooks")
    for name in notify:
        _check("webhook", name)


def _check(kind: str, name: Any, of: str = "") -> None:
    pattern, rule = _RULES[kind]
    if not isinstance(name, str):
        raise InvalidPayload(f"{kind}{of} must be text, got {name!r:.100}")
    if not pattern.fullmatch(name):
        raise InvalidPayload(
            f"invalid {kind} {name!r:.100}{of}: use {rule}, starting with a letter or digit"
        )


def _labels(group: str | None, tenant: str | None, tags: Mapping[str, str]) -> Sequence[str]:
    if group is None and tenant is None and not tags:  # most jobs
        return ()
    labels = [] if group is None else [f"group:{group}"]
    labels += [] if tenant is None else [f"tenant:{tenant}"]
    return labels + [f"tag:{name}={tags[name]}" for name in sorted(tags)]
