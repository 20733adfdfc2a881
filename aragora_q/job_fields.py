"""Make jobs from fields: those of a JSON line, of a request, or of a schedule."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aragora_q.base import Job
from aragora_q.errors import InvalidPayload, did_you_mean
from aragora_q.job import DebateJobPayload, checked_payload

JOB_FIELDS = ("priority", "delay_seconds", "max_attempts", "group", "tenant", "tags", "notify")
LINE_FIELDS = (*DebateJobPayload.__dataclass_fields__, "payload", "id", *JOB_FIELDS)
FROM = "from"
"""Field of a line that is not of the job: the debate whose fields it has, and whose calls it takes over."""
APPROVE_ABOVE, MAX_QUOTE = "approve_above_usd", "max_quote_usd"
"""Likewise: what it may cost without an approval, and be expected to cost."""
_OFFERED = [name for name in LINE_FIELDS if name != "forked_from"]  # which `from` sets
_OFFERED += [FROM, APPROVE_ABOVE, MAX_QUOTE]
_JOB_FIELDS, _LINE_FIELDS = frozenset(JOB_FIELDS), frozenset(LINE_FIELDS)
AGENTS_HINT = (
    "for example --agents claude,gpt,claude; or, for all debates, default_agents = "
    '["claude", "gpt", "claude"] in aragora-q.toml'
)
NewId = Callable[[Mapping[str, Any], Any], str]
"""Makes a job id for a payload and a group; the group may be None, or not yet checked."""


def default_fields(agents: Sequence[str], notify: Sequence[str]) -> dict[str, Any]:
    """Return fields of jobs that do not have them: what `default_agents` and `default_notify` name."""
    given = {"agents": list(agents), "notify": list(notify)}
    return {name: value for name, value in given.items() if value}


def create_job(
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
    new_id: NewId,
) -> Job:
    """Create a job from the fields of a line. Raises InvalidPayload.

    `defaults` apply to missing fields, and to missing tags; `new_id` makes the id if the line has none.
    """
    if not isinstance(fields, dict):
        raise InvalidPayload(f"not a JSON object: {json.dumps(fields):.60}")
    if not _LINE_FIELDS.issuperset(fields):
        unknown = next(name for name in fields if name not in _LINE_FIELDS)
        raise InvalidPayload(
            f"unknown field {unknown!r:.100}; the fields of a line are {', '.join(_OFFERED)}",
            hint=did_you_mean(unknown, _OFFERED),
        )
    job_fields = {name: fields.pop(name) for name in _JOB_FIELDS.intersection(fields)}
    job_id = fields.pop("id", None)
    if "payload" in fields:
        payload = fields.pop("payload")
        if not isinstance(payload, dict):
            raise InvalidPayload(f"payload is not a JSON object: {json.dumps(payload):.60}")
        if fields:
            raise InvalidPayload(
                f"unknown field {next(iter(fields))!r:.100}: besides payload, a line may have id, "
                f"{', '.join(JOB_FIELDS)}"
            )
    else:
        fields = {**{name: defaults[name] for name in defaults.keys() - _JOB_FIELDS}, **fields}
        if "agents" not in fields:
            raise InvalidPayload(
                "agents are missing: neither the job nor setting default_agents names them",
                hint=AGENTS_HINT,
            )
        payload = checked_payload(fields)
    job_fields = _completed(job_fields, defaults)
    if job_id is None:
        job_id = new_id(payload, job_fields.get("group"))
    return Job(payload=payload, id=job_id, **job_fields)


def _completed(job_fields: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of JOB_FIELDS that a line has, with the defaults for missing ones."""
    if not job_fields and not defaults:
        return job_fields
    if isinstance(job_fields.get("tags"), dict):
        job_fields["tags"] = {**defaults.get("tags", {}), **job_fields["tags"]}
    for name in _JOB_FIELDS.intersection(defaults).difference(job_fields):
        job_fields[name] = defaults[name]
    if isinstance(job_fields.get("notify"), list):
        job_fields["notify"] = tuple(job_fields["notify"])
    return job_fields


def content_id(payload: Mapping[str, Any], group: Any) -> str:
    """Return a job id derived from the payload and, if there is one, the group.

    The order of keys and white space do not matter.
    """
    content = payload if group is None else [group, payload]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
