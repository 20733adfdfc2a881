"""What keys do to jobs, and what the queue's answers mean for the line of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aragora_q.base import JobStatus
from aragora_q.errors import AccessDenied, AragoraQError
from aragora_q.formats import count
from aragora_q.web.verbs import VERBS, Verb


@dataclass(frozen=True)
class Action:
    """A change of jobs that a key asks for."""

    key: str
    verb: Verb
    note: str = ""
    """What an operator should know before."""

    @property
    def statuses(self) -> frozenset[JobStatus]:
        """Statuses of jobs that it can change. The hold that was asked of a running job can be withdrawn."""
        asked = {JobStatus.PROCESSING} if self.verb.name == "unhold" else set()
        return self.verb.statuses | asked


ACTIONS = (
    Action("c", VERBS["cancel"], "What running debates have paid for stays paid."),
    Action("r", VERBS["requeue"], "Finished work is kept: no call is paid for twice."),
    Action("h", VERBS["hold"], "Running ones are held when their attempts end."),
    Action("u", VERBS["unhold"]),
)


def results_text(verb: Verb, ids: Sequence[str], results: Sequence[str]) -> str:
    """Return what became of jobs: `j1 is cancelled`, or `2 jobs cancelled; 1 had already ended: failed`."""
    if len(ids) == 1:
        return f"{ids[0]} {_text(verb, results[0])}"
    others = [result for result in results if result not in verb.changed]
    text = f"{count(len(results) - len(others), 'job')} {verb.done}"
    for result in dict.fromkeys(others):
        text += f"; {others.count(result):,} {_text(verb, result)}"
    return text


def _text(verb: Verb, result: str) -> str:
    return "is not there any more" if result == "unknown" else verb.text(result)


def refusal_text(verb: str, error: AragoraQError) -> str:
    """Return why something was not done, or that this is not known."""
    if isinstance(error, AccessDenied):
        return f"cannot {verb}: this Redis user may only read, see aragora-q acl operator ({error})"
    return f"{verb}: {error}"
