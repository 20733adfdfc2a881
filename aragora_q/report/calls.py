"""Read the calls of a debate, phase by phase, from the job's journal or from the result's transcript.

Anything may be stored there: what is not of the documented form is counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aragora_q.job_rules import BEGUN, quoted_usd
from aragora_q.loose import (
    is_number,
    mapping_or_none,
    mappings,
    number_or_none,
    text,
    whole,
)

CALL, FAULT, PAST = "call/", "fault/", "past/"
"""Begin the name of a checkpoint that holds a call, `call/<phase>.<seat>.<try>`: with a reply, without, and one
that was discarded by `requeue --from`.
"""

PHASES = ("propose", "review", "revise", "discuss", "vote", "judge", "synthesize")
"""The kinds of phases, in the order in which they occur within a round or after the rounds."""


MADE_AGAIN = "made again after a requeue"
"""The fault of a call that brought a reply, which `requeue --from` discarded."""


@dataclass(frozen=True)
class Call:
    """One request to a seat, and its reply if there was one."""

    phase: str
    round: int
    """0 outside rounds."""
    seat: int
    attempt: int
    """0, or more if the seat was asked again."""
    step: int
    agent: str
    model: str
    answered_by: str
    """The model that the reply names; blank if unknown."""
    value: Mapping[str, Any] | None
    """None: the reply could not be used."""
    fault: str = ""
    """Why the reply could not be used, or was refused, or did not come."""
    said: str = ""
    """How a reply that could not be used begins."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = None
    seconds: float | None = None
    outcome: str = ""
    taken_from: str = ""
    """The debate that paid for it, if it was taken over; blank: it was made here."""

    @property
    def why_not_used(self) -> str:
        """Why the reply could not be used, and how it begins, on one line."""
        said = " ".join(self.said.split())
        return (self.fault or "not usable") + (f"; it began “{said}”" if said else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the call as JSON data; phase and round are those of its phase."""
        return {
            "seat": self.seat,
            "agent": self.agent,
            "model": self.model,
            "answered_by": self.answered_by,
            "try": self.attempt,
            "value": self.value,
            "fault": self.fault or None,
            "said": self.said or None,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "cost_usd": self.cost_usd,
            "seconds": self.seconds,
            "outcome": self.outcome or None,
            "taken_from": self.taken_from or None,
        }


@dataclass(frozen=True)
class Phase:
    """The calls of one phase, by seat and try."""

    name: str
    round: int
    calls: Sequence[Call]

    @property
    def path(self) -> str:
        """Its name among all phases of the debate, as the journal has it: `r1.review`, `vote`."""
        return f"r{self.round}.{self.name}" if self.round else self.name

    def to_dict(self) -> dict[str, Any]:
        """Return the phase as JSON data."""
        replies = [call.to_dict() for call in self.calls]
        return {"phase": self.name, "round": self.round, "replies": replies}


@dataclass(frozen=True)
class Calls:
    """All that is known of a debate's calls. Those of `phases` brought a reply, `faults` none."""

    phases: Sequence[Phase] = ()
    faults: Sequence[Call] = ()
    dropped: Mapping[int, str] = field(default_factory=dict)
    """Why seats dropped out, by seat, as far as the journal knows."""
    quote_usd: float | None = None
    """What the debate was expected to cost when it began."""
    is_kept: bool = False
    """True if the job has a journal."""
    problem: str = ""
    """What of the journal cannot be read."""

    def all(self) -> Iterator[Call]:
        """Yield every call."""
        for phase in self.phases:
            yield from phase.calls
        yield from self.faults


def read_calls(journal: Mapping[str, Any] | None, transcript: object) -> Calls:
    """Return the calls in the journal of a job (its checkpoints by name), else in a transcript.

    `journal` is None if it cannot be read.
    """
    found: list[Call] = []
    faults: list[Call] = []
    dropped, unreadable = {}, 0
    for name, entry in (journal or {}).items():
        kind, _, rest = name.removeprefix("life/").partition("/")
        if name.startswith(PAST):
            if (call := _from_journal(rest, entry)) and not call.taken_from:
                faults.append(replace(call, value=None, fault=MADE_AGAIN))
        elif name.startswith((CALL, FAULT)):
            call = _from_journal(rest, entry)
            if call is not None:
                (found if name.startswith(CALL) else faults).append(call)
            unreadable += call is None
        elif kind == "dropped" and isinstance(entry, Mapping) and rest.isdecimal():
            dropped[int(rest)] = text(entry.get("why")) or "dropped out"
    if not found:
        found = [_from_transcript(n, entry) for n, entry in enumerate(mappings(transcript))]
    problem = f"{unreadable} of the calls in the job's journal cannot be read" if unreadable else ""
    if journal is None:
        problem = "the job's journal cannot be read"
    faults.sort(key=lambda call: (call.step, call.seat, call.attempt))
    quote_usd = quoted_usd((journal or {}).get(BEGUN))
    return Calls(_phases(found), faults, dropped, quote_usd, bool(journal), problem)


def _from_journal(name: str, entry: object) -> Call | None:
    rest, _, attempt = name.rpartition(".")
    phase, _, seat = rest.rpartition(".")
    if not (isinstance(entry, Mapping) and phase and seat.isdecimal() and attempt.isdecimal()):
        return None
    kind = text(entry.get("phase")) or phase.rpartition(".")[2]
    number = whole(entry.get("round"))
    order = PHASES.index(kind) if kind in PHASES else len(PHASES)
    is_in_round = 0 < order < PHASES.index("vote")
    step = entry.get("step")
    return Call(
        phase=kind,
        round=number,
        seat=int(seat[:9]),
        attempt=int(attempt[:9]),
        step=whole(step) if is_number(step) else (1 + number) * 100 * is_in_round + order,
        agent=text(entry.get("agent")),
        model=text(entry.get("model")),
        answered_by=text(entry.get("answered_by")),
        value=mapping_or_none(entry.get("value")),
        fault=text(entry.get("refused")) or text(entry.get("unusable")) or text(entry.get("why")),
        said=text(entry.get("said")),
        input_tokens=whole(entry.get("in")),
        output_tokens=whole(entry.get("out")),
        cached_tokens=whole(entry.get("cached")),
        cost_usd=number_or_none(entry.get("usd")),
        seconds=number_or_none(entry.get("seconds")),
        outcome=text(entry.get("outcome")),
        taken_from=text(entry.get("from")),
    )


def _from_transcript(n: int, entry: Mapping[str, Any]) -> Call:
    return Call(
        phase=text(entry.get("phase")),
        round=whole(entry.get("round")),
        seat=whole(entry.get("seat")),
        attempt=0,
        step=n,
        agent=text(entry.get("agent")),
        model="",
        answered_by="",
        value=mapping_or_none(entry.get("said")),
    )


def _phases(calls: Iterable[Call]) -> list[Phase]:
    groups: dict[tuple[str, int], list[Call]] = {}
    for call in sorted(calls, key=lambda call: (call.step, call.seat, call.attempt)):
        groups.setdefault((call.phase, call.round), []).append(call)
    return [Phase(name, number, tuple(group)) for (name, number), group in groups.items()]
