"""The sections on what was decided: verdict, votes, dissent, changes, flags and problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aragora_q.formats import count, shortened
from aragora_q.loose import mapping, mappings, number_or_none, text, texts, whole
from aragora_q.report.debate import Debate, group_of
from aragora_q.report.document import (
    Block,
    Facts,
    Notice,
    Row,
    Section,
    Speech,
    Speeches,
    Table,
    Tone,
)
from aragora_q.report.summary import decision, problem

MAX_CELL_CHARS = 80
"""Verdicts are shortened in tables; the list of answers has them in full."""


def sections(debate: Debate) -> Iterator[Section]:
    """Yield the sections that a result has; none without a result."""
    if not debate.result:
        return
    title = "Answers" if debate.mode == "none" else "Verdict"
    yield Section(title, [_verdict(debate), *_answers(debate), Facts(decision(debate))])
    if not debate.is_single and (votes := _votes(debate)):
        yield Section("Votes", votes)
    if dissent := list(_dissent(debate)):
        has_verdict = debate.result.get("verdict") is not None
        yield Section("Dissent" if has_verdict else "Answers", [Speeches(dissent)])
    if not debate.is_single and (changes := _changes(debate)):
        yield Section("Before and after the debate", [changes])
    if flags := mappings(debate.result.get("flags")):
        rows = [
            Row(
                [debate.seat(whole(each.get("seat"))), _place(each), text(each.get("why"))],
            )
            for each in flags
        ]
        yield Section("Flags", [Table(("Seat", "Where", "Why"), rows)])
    if found := problem(debate):
        yield Section("Problems", [Notice(found, Tone.CAUTION)])


def _verdict(debate: Debate) -> Block:
    verdict, answer = debate.result.get("verdict"), text(debate.result.get("final_answer"))
    author = text(debate.result.get("written_by"))
    if author:
        written = f"the text is written by {author} from all answers"
        return Speech(lead=text(verdict), body=answer, notes=[written])
    if verdict is None:
        return Speech(lead="" if debate.mode == "none" else "No verdict.", body=answer)
    return Speech(lead=text(verdict), body=text(debate.result.get("reasons")))


def _answers(debate: Debate) -> Iterator[Block]:
    if len(debate.groups) < 2 and debate.result.get("verdict") is not None:
        return
    rows = [
        Row([text(each.get("verdict")), debate.numbers(each.get("seats")), _share(each)])
        for each in sorted(debate.groups, key=lambda each: _place_of(debate, each))
    ]
    if rows:
        yield Table(("Answer", "Seats", "Votes"), rows, frozenset({"Votes"}))


def _votes(debate: Debate) -> list[Block]:
    rows = [
        Row(
            [
                debate.seat(seat),
                debate.agent(seat, text(vote.get("agent"))),
                debate.model(vote),
                _choice(debate, vote),
                text(vote.get("confidence")),
                ", ".join(_vote_notes(debate, vote)),
            ],
            text(vote.get("reason")) or _vote_faults(debate, seat),
        )
        for vote in mappings(debate.result.get("votes"))
        for seat in [whole(vote.get("seat"))]
    ]
    if not rows:
        return []
    head = ("Seat", "Agent", "Model", "Vote", "Confidence", "Notes")
    table = Table(head, rows, frozenset({"Confidence"}), "Reason")
    facts = [*_by_model(debate)]
    if any(vote.get("implied") is True for vote in mappings(debate.result.get("votes"))):
        facts.append(("implied", "not asked for: the seat's own verdict or review says it"))
    return [table, Facts(facts)] if facts else [table]


def _choice(debate: Debate, vote: Mapping[str, Any]) -> str:
    group = group_of(vote)
    if group is None or not 0 <= group < len(debate.groups):
        return "dropped out" if debate.dropped.get(whole(vote.get("seat"))) else "abstained"
    return _short(text(debate.groups[group].get("verdict")))


def _vote_notes(debate: Debate, vote: Mapping[str, Any]) -> Iterator[str]:
    if vote.get("self") is True:
        yield "own answer"
    if vote.get("implied") is True:
        yield "implied"
    if debate.mode == "weighted":
        yield f"weight {number_or_none(vote.get('weight')) or 0:g}"


def _vote_faults(debate: Debate, seat: int) -> str:
    """Return why a seat's ballots were not used."""
    faults = [
        call.why_not_used
        for call in debate.calls.all()
        if (call.phase, call.seat) == ("vote", seat) and call.value is None
    ]
    return "; ".join(f"a ballot was not used: {fault}" for fault in dict.fromkeys(faults))


def _by_model(debate: Debate) -> Iterator[tuple[str, str]]:
    found = mapping(debate.result.get("by_model"))
    models = found.get("models")
    number = len(models) if isinstance(models, list | Mapping) else whole(models)
    if not number or debate.mode == "none":
        return
    outcome = "consensus" if found.get("consensus_reached") is True else "no consensus"
    share = number_or_none(found.get("confidence"))
    parts = [
        count(number, "model"),
        outcome,
        "" if share is None else f"agreement {share:.0%}",
        _short(text(found.get("verdict"))),
    ]
    yield "one vote per model", ", ".join(filter(None, parts))


def _dissent(debate: Debate) -> Iterator[Speech]:
    for each in mappings(debate.result.get("dissent")):
        held, voted = debate.seat_list(each.get("seats")), debate.seat_list(each.get("voters"))
        notes = [f"held by {held}" if held else "", f"votes of {voted}" if voted else ""]
        yield Speech(
            lead=text(each.get("verdict")),
            body="\n\n".join(texts(each.get("reasons"))),
            notes=[note for note in notes if note],
        )


def _changes(debate: Debate) -> Table | None:
    first = mappings(debate.result.get("first_votes"))
    changed = {whole(each.get("seat")): each for each in mappings(debate.result.get("changed"))}
    rows = []
    for each in first:
        seat = whole(each.get("seat"))
        after = "unchanged"
        if debate.dropped.get(seat):
            after = "dropped out"
        if seat in changed:
            after = _short(text(changed[seat].get("after")))
        before = _short(text(each.get("verdict")))
        rows.append(Row([debate.seat(seat), debate.agent(seat), before, after]))
    return Table(("Seat", "Agent", "Before", "After"), rows) if rows else None


def _place_of(debate: Debate, group: Mapping[str, Any]) -> tuple[bool, float]:
    """Return where a group stands in the list: the verdict first, then the one with the most votes."""
    return not debate.is_verdict(group), -(number_or_none(group.get("share")) or 0.0)


def _share(group: Mapping[str, Any]) -> str:
    share = number_or_none(group.get("share"))
    return "" if share is None else f"{share:.0%}"


def _place(flag: Mapping[str, Any]) -> str:
    number = whole(flag.get("round"))
    return text(flag.get("phase")) + (f", round {number}" if number else "")


def _short(verdict: str) -> str:
    return shortened(verdict, MAX_CELL_CHARS)
