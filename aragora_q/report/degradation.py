"""What of an ended job is less than what was asked for: the one list of it.

Used by receipts. Reads a job, its result and its calls, which may come from another program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from aragora_q.base import Job, JobStatus
from aragora_q.formats import count
from aragora_q.job_rules import is_debate
from aragora_q.loose import mappings, text
from aragora_q.report.calls import Calls
from aragora_q.report.debate import Debate
from aragora_q.report.summary import ENDINGS

LIMITS = ("max_tokens", "max_cost", "timeout")
"""Values of `ended_by` that mean: rounds that might have changed the answers were not held. A full journal is
among the problems of the result.
"""


class Degradation(NamedTuple):
    """One thing that is less than what was asked for: `code` names its kind, `text` says it to a person."""

    code: str
    text: str


class Cancel(NamedTuple):
    """Who cancelled a job, and why; empty where that is not known."""

    by: str = ""
    reason: str = ""


NOT_KNOWN = Cancel()


def cancel_of(job: Job, history: Iterable[Mapping[str, Any]]) -> Cancel:
    """Return who cancelled an ended job. Earlier cancels, before a requeue, are in its history, too."""
    at = None if job.completed_at is None else round(job.completed_at * 1000)
    for line in history:
        if line.get("cause") == "cancelled" and line.get("at") == at:
            return Cancel(text(line.get("by")), text(line.get("reason")))
    return NOT_KNOWN


def degradations(job: Job, calls: Calls, cancel: Cancel = NOT_KNOWN) -> Iterator[Degradation]:
    """Yield how the result of an ended job is degraded, the most serious first; nothing: it is not."""
    if job.status is JobStatus.FAILED:
        yield Degradation("failed", f"the job failed: {job.error or 'the reason is not known'}")
        if job.result is not None:
            yield Degradation("partial", "the result is what was there when the job failed")
    elif job.status is JobStatus.CANCELLED:
        by = f" by {cancel.by}" if cancel.by else ""
        why = f": {cancel.reason}" if cancel.reason else ""
        yield Degradation("cancelled", f"the job was cancelled{by}{why}")
    if is_debate(job):
        yield from _of_debate(Debate(job, calls))


def _of_debate(debate: Debate) -> Iterator[Degradation]:
    if debate.result and debate.mode != "none" and debate.result.get("decided_by") is None:
        yield Degradation("no_vote", "no vote was possible: no answer was chosen")
    for each in mappings(debate.result.get("problems")):
        yield Degradation(text(each.get("code")), text(each.get("text")))
    if not debate.result:  # what is known without one
        for seat, why in sorted(debate.dropped.items()):
            if why:
                yield Degradation("dropped", f"{debate.agent(seat)} dropped out: {why}")
    ended_by = text(debate.result.get("ended_by"))
    if ended_by in LIMITS:
        yield Degradation("ended_early", ENDINGS[ended_by])
    yield from _unusable(debate)
    if unpriced := debate.unpriced_calls():
        yield Degradation("unpriced", f"{count(unpriced, 'call')} without a known price")
    if debate.calls.problem:
        yield Degradation("journal", debate.calls.problem)


def _unusable(debate: Debate) -> Iterator[Degradation]:
    """Yield whose replies could not be used, and why."""
    reasons: dict[str, list[str]] = {}
    for phase in debate.calls.phases:
        for call in phase.calls:
            if call.value is None and call.fault:  # a transcript does not say why
                agent = call.agent or debate.agent(call.seat)
                reasons.setdefault(agent, []).append(call.fault)
    for agent, whys in reasons.items():
        replies = "a reply was" if len(whys) == 1 else f"{len(whys)} replies were"
        yield Degradation(
            "unusable", f"{agent}: {replies} not usable ({'; '.join(dict.fromkeys(whys))})"
        )
