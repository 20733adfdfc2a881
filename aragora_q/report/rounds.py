"""The sections on how it came about: one for each phase, with all seats next to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aragora_q.loose import mappings, text, whole, wholes
from aragora_q.report.calls import Call, Phase
from aragora_q.report.debate import Debate
from aragora_q.report.document import Block, Notice, Section, Speech, Speeches

TITLES = {
    "propose": "Independent answers",
    "review": "reviews",
    "revise": "revised answers",
    "discuss": "reviews and answers",
    "vote": "Ballots",
    "judge": "Judge",
    "synthesize": "Synthesis",
}


def sections(debate: Debate) -> Iterator[Section]:
    """Yield one section for each phase, or one that says why there is none."""
    has_votes = bool(debate.result.get("votes"))
    labels = debate.labels()
    legend = [Notice(f"Labels in reviews: {labels}.")] if labels else []
    for phase in debate.calls.phases:
        if phase.name == "vote" and has_votes:
            continue  # the table of votes has them
        title = TITLES.get(phase.name, phase.name.capitalize() or "Calls")
        blocks: list[Block] = [Speeches(list(_speeches(debate, phase)))]
        if phase.round:
            title = f"Round {phase.round}: {title}"
            blocks = [*legend, *blocks]
            legend = []
        yield Section(title, blocks)
    if not debate.calls.phases:
        yield Section("Rounds", [Notice(_why_none(debate))])


def _why_none(debate: Debate) -> str:
    if debate.calls.problem:
        return "No replies can be shown."
    if not debate.job.status.is_terminal:
        return "No replies yet."
    if debate.calls.is_kept or not debate.job.attempts:
        return "There was no reply."
    return "No replies are kept: the job has no journal, and its result no transcript."


def _speeches(debate: Debate, phase: Phase) -> Iterator[Speech]:
    by_seat: dict[int, list[Call]] = {}
    for call in phase.calls:
        by_seat.setdefault(call.seat, []).append(call)
    for calls in by_seat.values():
        usable = [call for call in calls if call.value is not None]
        notes = [
            f"a reply was not used: {call.why_not_used}" for call in calls if call.value is None
        ]
        if not usable:
            yield Speech(title=_speaker(debate, calls[-1]), lead="No answer.", notes=notes)
        orders = usable if phase.name == "judge" else usable[-1:]
        for n, call in enumerate(orders, start=1):
            order = [f"answers in order {n} of {len(orders)}"] if len(orders) > 1 else []
            yield _speech(debate, call, [*order, *notes])


def _speech(debate: Debate, call: Call, faults: Sequence[str]) -> Speech:
    value = call.value or {}
    lead, body = value.get("answer"), value.get("reasons")
    if call.phase == "review":
        lead, body = "", value.get("points")
    if call.phase == "synthesize":
        lead, body = "", value.get("text")
    if call.phase in ("vote", "judge"):
        lead, body = (
            _seat_text(debate, "for the answer of", value.get("choice")),
            value.get("reason"),
        )
    points = text(value.get("points")) if call.phase == "discuss" else ""
    parts = [text(body), f"Review: {points}" if points else ""]
    return Speech(
        title=_speaker(debate, call),
        lead=text(lead),
        body="\n\n".join(filter(None, parts)),
        notes=[*_notes(debate, call, value), *_flags(debate, call), *faults],
    )


def _notes(debate: Debate, call: Call, value: Mapping[str, Any]) -> Iterator[str]:
    if call.phase == "revise":
        yield "kept its answer" if value.get("changed") is False else "changed its answer"
    if call.phase in ("review", "discuss") and isinstance(value.get("best"), int):
        yield _seat_text(debate, "best:", value["best"])
    if value.get("stop") is True:
        yield "no further round needed"
    for seats in _lists(value.get("same_as")):
        yield f"the same: {debate.seat_list(seats)}"
    if value.get("confidence") is not None:
        yield f"confidence {text(value['confidence'])}"
    if value.get("cut"):
        yield "cut at a limit"


def _flags(debate: Debate, call: Call) -> Iterator[str]:
    for flag in mappings(debate.result.get("flags")):
        place = (text(flag.get("phase")), whole(flag.get("round")), flag.get("seat"))
        if place == (call.phase, call.round, call.seat):
            yield f"flagged: {text(flag.get('why'))}"


def _speaker(debate: Debate, call: Call) -> str:
    agent = debate.agent(call.seat) or call.agent
    name = debate.full_name(call.seat, agent)
    by = f" (answered by {call.agent})" if call.agent not in ("", agent) else ""
    return name[0].upper() + name[1:] + by


def _seat_text(debate: Debate, prefix: str, seat: object) -> str:
    return f"{prefix} {debate.full_name(seat)}" if isinstance(seat, int) else ""


def _lists(value: object) -> list[list[int]]:
    return [each for each in map(wholes, value) if each] if isinstance(value, list) else []
