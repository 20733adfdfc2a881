"""The course of a debate at a glance: a row for each seat, a column for each phase.

Must not know how it is laid out. Built while a debate runs, too, from what is there so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aragora_q.base import Job, JobStatus
from aragora_q.formats import shortened
from aragora_q.loose import mapping, mappings, number_or_none, text, whole
from aragora_q.report.calls import Call, Calls, Phase
from aragora_q.report.debate import Debate, group_of

COLUMNS = {
    "propose": "Answers",
    "review": "Reviews",
    "revise": "Revisions",
    "discuss": "Discussion",
    "vote": "Ballots",
    "judge": "Judge",
    "synthesize": "Synthesis",
}
MAX_CHARS = 140
"""Longest text of a cell; the rounds have the texts in full."""


class CellState(StrEnum):
    """What is known of a seat in a phase."""

    ANSWERED = "answered"
    ASKED = "asked"
    """The phase is under way, and the seat has not answered."""
    FAILED = "failed"
    """No reply could be used."""
    DROPPED = "dropped"
    ABSENT = "absent"
    """The seat takes no part in the phase."""


@dataclass(frozen=True)
class Cell:
    """A seat in a phase."""

    state: CellState
    text: str = ""
    """What it said, short."""
    notes: Sequence[str] = ()
    has_changed: bool = False
    """The seat changed its mind."""
    cost_usd: float | None = None
    """Of all its calls in this phase; None: not known."""
    calls: int = 0


@dataclass(frozen=True)
class SeatRow:
    """A seat through the debate."""

    name: str
    agent: str
    cells: Sequence[Cell]
    cost_usd: float | None
    """So far; None: not known."""
    is_dropped: bool = False


@dataclass(frozen=True)
class Grid:
    """A debate: seats by phases."""

    columns: Sequence[str]
    rows: Sequence[SeatRow]
    cost_usd: float | None
    """Of all calls so far; None: not known."""
    quote_usd: float | None
    unpriced_calls: int


def build_grid(job: Job, calls: Calls) -> Grid:
    """Return the course of a debate. `job` is one for which `is_debate` is true."""
    debate = Debate(job, calls)
    places = list(_places(debate))
    votes = {whole(each.get("seat")): each for each in mappings(debate.result.get("votes"))}
    has_votes = bool(votes)
    columns = [_title(*place) for place in places] + ["Vote"] * has_votes
    found = {(phase.name, phase.round): phase for phase in calls.phases}
    rows = [
        SeatRow(
            debate.full_name(seat),
            debate.agent(seat),
            [
                *(_cell(debate, seat, place, found.get(place)) for place in places),
                *([_vote(debate, votes.get(seat))] * has_votes),
            ],
            _cost(call for call in calls.all() if call.seat == seat),
            is_dropped=bool(debate.dropped.get(seat)),
        )
        for seat in _seats(debate)
    ]
    return Grid(columns, rows, debate.cost(), debate.quote(), debate.unpriced_calls())


def _seats(debate: Debate) -> list[int]:
    """Return the seats that took part or will: those that may join only once they have been asked."""
    asked = {call.seat for call in debate.calls.all()}
    return sorted(set(range(len(debate.names) - len(debate.joining))) | asked)


def _places(debate: Debate) -> Iterator[tuple[str, int]]:
    """Yield the phases, and the one that is under way if no call of it is there yet."""
    places = [(phase.name, phase.round) for phase in debate.calls.phases]
    yield from places
    current = _current(debate)
    if current and current not in places:
        yield current


def _current(debate: Debate) -> tuple[str, int] | None:
    """Return the phase that is under way, as far as it is known."""
    if debate.job.status is not JobStatus.PROCESSING:
        return None
    progress = mapping(debate.job.progress)
    if name := text(progress.get("phase")):
        return name, whole(progress.get("round"))
    return None if debate.calls.phases else ("propose", 0)


def _title(name: str, number: int) -> str:
    title = COLUMNS.get(name, name.capitalize())
    return f"Round {number}: {title.lower()}" if number else title


def _cell(debate: Debate, seat: int, place: tuple[str, int], phase: Phase | None) -> Cell:
    calls = [call for call in (phase.calls if phase else ()) if call.seat == seat]
    faults = [
        call
        for call in debate.calls.faults
        if call.seat == seat and (call.phase, call.round) == place
    ]
    usable = [call for call in calls if call.value is not None]
    cost, number = _cost([*calls, *faults]), len(calls) + len(faults)
    if usable:
        last = usable[-1]
        return Cell(
            CellState.ANSWERED,
            _said(debate, last),
            list(_notes(last, number)),
            last.phase == "revise" and mapping(last.value).get("changed") is True,
            cost,
            number,
        )
    why = [_short(call.why_not_used) for call in [*calls, *faults][-1:]]
    if (
        place == _current(debate)
        and not debate.dropped.get(seat)
        and _takes_part(debate, seat, place)
    ):
        return Cell(CellState.ASKED, "", why, cost_usd=cost, calls=number)
    if number:
        return Cell(CellState.FAILED, "", why, cost_usd=cost, calls=number)
    return Cell(CellState.DROPPED if debate.dropped.get(seat) else CellState.ABSENT)


def _takes_part(debate: Debate, seat: int, place: tuple[str, int]) -> bool:
    is_judge = debate.seat(seat) == "judge"
    return is_judge == (place[0] == "judge") and place[0] != "synthesize"


def _said(debate: Debate, call: Call) -> str:
    value = mapping(call.value)
    if call.phase in ("vote", "judge"):
        choice = value.get("choice")
        return f"for {debate.full_name(choice)}" if isinstance(choice, int) else "abstained"
    names = {"review": "points", "synthesize": "text"}
    return _short(text(value.get(names.get(call.phase, "answer"))))


def _notes(call: Call, number: int) -> Iterator[str]:
    value = mapping(call.value)
    if call.phase == "revise":
        yield "changed its answer" if value.get("changed") is True else "kept its answer"
    if value.get("confidence") is not None:
        yield f"confidence {text(value['confidence'])}"
    if value.get("stop") is True:
        yield "no further round needed"
    if number > 1:
        yield f"{number} calls"
    if call.taken_from:
        yield "taken over"


def _vote(debate: Debate, vote: Mapping[str, Any] | None) -> Cell:
    if vote is None:
        return Cell(CellState.ABSENT)
    group = group_of(vote)
    if group is None or not 0 <= group < len(debate.groups):
        return Cell(CellState.ABSENT, "abstained")
    confidence = text(vote.get("confidence"))
    return Cell(
        CellState.ANSWERED,
        _short(text(debate.groups[group].get("verdict"))),
        [f"confidence {confidence}"] if confidence else [],
        whole(vote.get("seat")) in _changed(debate),
    )


def _changed(debate: Debate) -> set[int]:
    return {whole(each.get("seat")) for each in mappings(debate.result.get("changed"))}


def _cost(calls: Any) -> float | None:
    known = [cost for call in calls if (cost := number_or_none(call.cost_usd)) is not None]
    return sum(known) if known else None


def _short(said: str) -> str:
    return shortened(said, MAX_CHARS)
