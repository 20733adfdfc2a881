"""Fields of a job that is made from a debate that was enqueued before: field `from`.

Used by `enqueue`, for one debate and for lines, and by the API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aragora_q.base import Job, is_job_id
from aragora_q.errors import InvalidPayload, JobNotFound
from aragora_q.intake.jobs import check_debate
from aragora_q.job import EXPERIMENT_NOTE, JUDGED
from aragora_q.job_fields import FROM, JOB_FIELDS
from aragora_q.job_rules import forked_from

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue


async def with_source(
    queue: RedisStreamsQueue, fields: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of a line that has the field `from`: those of that debate with the changes.

    `defaults` that are of a debate are changes, too; but not `agents`, which are those of the other debate.
    If that debate is gone, and the line names a job that was made from it, the fields are those of that job: it
    exists, so enqueueing it again changes nothing.

    Raises:
        JobNotFound: there is no such job, or it has expired.
        InvalidPayload: it is not a debate, or `from` is not an id.
    """
    source = fields[FROM]
    if not isinstance(source, str) or not is_job_id(source):
        raise InvalidPayload(f"from must be the id of a debate, got {source!r:.100}")
    if "payload" in fields or "forked_from" in fields:
        raise InvalidPayload("from excludes payload and forked_from")
    job = await queue.get_job(source) or await _made_from(queue, source, fields.get("id"))
    if job is None:
        raise JobNotFound(source, queue.config.queue)
    check_debate(f"from: job {source}", job.payload, queue.config)
    kept = (*JOB_FIELDS, "agents")
    changes = {name: value for name, value in defaults.items() if name not in kept}
    changes |= {name: value for name, value in fields.items() if name != FROM}
    return {**_without_obsolete(job.payload, changes), **changes, "forked_from": source}


async def _made_from(queue: RedisStreamsQueue, source: str, job_id: object) -> Job | None:
    """Return the job of that id if it exists and was made from the debate `source`."""
    if not isinstance(job_id, str) or not is_job_id(job_id):
        return None
    job = await queue.get_job(job_id)
    return job if job is not None and forked_from(job.payload) == source else None


def _without_obsolete(payload: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a debate that still make sense after the changes."""
    obsolete = {"forked_from", *refused_with(changes)}
    kept = {name: value for name, value in payload.items() if name not in obsolete}
    metadata = kept.get("metadata")
    if isinstance(metadata, dict):  # the new debate is not in the experiment
        kept["metadata"] = {
            name: each for name, each in metadata.items() if name != EXPERIMENT_NOTE
        }
    return kept


def refused_with(changes: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields of a debate that would be refused next to `changes`, so that one change is enough."""
    if "consensus" in changes and changes["consensus"] not in JUDGED:
        yield "judge"
    if "consensus" in changes and changes["consensus"] != "weighted":
        yield "weights"
    if "answer_form" in changes and changes["answer_form"] != "choice":
        yield "options"
    if changes.get("debate") == "never" or changes.get("rounds") == 0:
        yield "escalate"
