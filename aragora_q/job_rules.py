"""What every job must obey, and what is known of a debate without its dataclasses, which take long to import.

Used by all clients, by the report and by the worker. Must not know queues, Redis or models.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from aragora_q.base import (
    JOB_ID_PATTERN,
    JOB_ID_PUNCTUATION,
    MAX_JOB_ID_CHARS,
    Job,
    is_job_id,
)
from aragora_q.errors import InvalidPayload, did_you_mean
from aragora_q.labels import check_labels, check_notify
from aragora_q.loose import mapping, number_or_none

AGENTS_RANGE = (1, 16)
MAX_AGENT_CHARS = 200
MAX_TIMEOUT_SECONDS = 30 * 86_400

PHASE_PATTERN = re.compile(
    r"propose|vote|judge|synthesize|r[1-9][0-9]?(\.(review|revise|discuss))?"
)


BEGUN = "begun"
"""The checkpoint that says how a debate began, and what it was expected to cost."""


def is_debate(job: Job) -> bool:
    """Return True if the job's payload is that of a debate, be it valid or not."""
    question, agents = job.payload.get("question"), job.payload.get("agents")
    return isinstance(question, str) and isinstance(agents, list)


def has_debate_fields(payload: Mapping[str, Any]) -> bool:
    """Return True if the JSON of a job is meant as a debate; what the fields hold is not checked."""
    return "question" in payload and isinstance(payload.get("agents"), list)


def has_outcome(job: Job) -> bool:
    """Return True if the job has a result that is a debate's, or a partial one."""
    result = mapping(job.result)
    return is_debate(job) and "verdict" in result and "confidence" in result


def quoted_usd(record: object) -> float | None:
    """Return what a debate was expected to cost, as its result or BEGUN says; None if that is not known."""
    return number_or_none(mapping(record).get("quote_usd"))


def check_phase(name: str) -> None:
    """Check that a phase of a debate is named. Raises InvalidPayload."""
    if not PHASE_PATTERN.fullmatch(name):
        raise InvalidPayload(
            f"{name!r:.100} is not a phase of a debate",
            hint="propose, r1 (a round), r1.review, r1.revise, r1.discuss, vote, judge or synthesize",
        )


def forked_from(payload: Mapping[str, Any]) -> str | None:
    """Return whose finished calls the JSON of a debate takes over; None if none, or it is not a debate."""
    source = payload.get("forked_from")
    if source is None:  # most jobs
        return None
    return source if has_debate_fields(payload) and is_id(source) else None


MAX_DELAY_SECONDS = 366 * 86_400
MAX_ATTEMPTS_RANGE = (1, 1_000)
PRIORITY_RANGE = (-1_000, 1_000)


def check_job(job: Job) -> None:
    """Check a job, which is not trusted to be one.

    Raises:
        InvalidPayload: its id, payload, priority, labels, attempts or delay break a rule.
        TypeError: it is something else.
    """
    if not isinstance(job, Job):
        raise TypeError(f"enqueue takes a Job, got {type(job).__name__}")
    if not isinstance(job.id, str) or not JOB_ID_PATTERN.fullmatch(job.id):
        raise InvalidPayload(
            f"invalid job id {job.id!r:.100}: use 1 to {MAX_JOB_ID_CHARS} letters, digits and "
            f"{JOB_ID_PUNCTUATION}, starting with a letter or digit"
        )
    if not isinstance(job.payload, dict):
        raise InvalidPayload(
            f"job {job.id}: payload must be a JSON object, got {job.payload!r:.100}"
        )
    check_range("priority", job.priority, PRIORITY_RANGE)
    check_labels(job.group, job.tenant, job.tags)
    if job.notify != ():  # most jobs
        check_notify(job.notify)
    if job.max_attempts is not None:
        check_range("max_attempts", job.max_attempts, MAX_ATTEMPTS_RANGE)
    if not is_number(job.delay_seconds) or not 0 <= job.delay_seconds <= MAX_DELAY_SECONDS:
        raise InvalidPayload(
            f"delay_seconds is {job.delay_seconds!r:.100}, must be a number between 0 and {MAX_DELAY_SECONDS}"
        )


_NUMBERS = (int, float)  # not a union, which each call would make


def is_timeout(value: object) -> bool:
    """Return True if `value` is a valid time limit of an attempt, in seconds."""
    return is_number(value) and 0 < value <= MAX_TIMEOUT_SECONDS


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise InvalidPayload unless `value` is one of `known`."""
    if value not in known:
        raise InvalidPayload(
            f"{name} is {value!r:.100}, must be one of {', '.join(known)}",
            hint=did_you_mean(str(value), known),
        )


def check_range(name: str, value: int, bounds: tuple[int, int]) -> None:
    """Raise InvalidPayload unless `value` is a whole number within `bounds`."""
    low, high = bounds
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidPayload(
            f"{name} is {value!r:.100}, must be a whole number from {low} to {high}"
        )


def is_id(value: object) -> TypeGuard[str]:
    """Return True if `value` may be the id of a job."""
    return isinstance(value, str) and is_job_id(value)


def is_agent(name: object) -> bool:
    """Return True if `name` may be the name of an agent. Whether there is one, the executor knows."""
    return isinstance(name, str) and 0 < len(name.strip()) <= MAX_AGENT_CHARS


def is_number(value: object) -> TypeGuard[float]:
    """Return True if `value` is a number, which to Python true and false are, too."""
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)


def is_positive_number(value: object) -> bool:
    """Return True if `value` is a positive, finite number."""
    return is_number(value) and 0 < value <= sys.float_info.max
