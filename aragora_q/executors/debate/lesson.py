"""What one finished debate shows about the next ones: its part of the queue's history.

Used by the protocol when a debate ends; the opposite of `estimate.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from aragora_q import loose
from aragora_q.executors.debate.call_sizes import words_asked
from aragora_q.executors.debate.estimate import phase_shares
from aragora_q.executors.debate.journal import Entry, Journal
from aragora_q.executors.debate.requests import Answer, Topic
from aragora_q.executors.debate.seeds import origin
from aragora_q.history import CallHistory, CallKind, CallSums, PhaseKind, PhaseSums
from aragora_q.job import DebateJobPayload, DebateResult

NATURAL_ENDS = ("rounds", "agreement", "unchanged")
"""Ends of debates that no limit cut short: they show which phases the next ones will hold."""


def lesson_of(
    payload: DebateJobPayload, topic: Topic, journal: Journal, result: DebateResult
) -> CallHistory:
    """Return what the calls of a debate took, and which phases it held."""
    entries: dict[CallKind, list[Entry]] = defaultdict(list)
    paid = [entry for entry in journal.entries() if not origin(entry)]
    for entry in paid:
        tier = loose.text(entry.get("service_tier"))
        entries[CallKind(entry["model"], tier, entry["phase"])].append(entry)
    calls = {kind: _sums(topic, kind.phase, own) for kind, own in entries.items()}
    if result.ended_by not in NATURAL_ENDS or result.taken_over:  # the other debate has shown it
        return CallHistory(calls)
    begun = {_phase_of(entry, payload) for entry in paid}
    form = payload.debate, topic.form.kind, payload.max_rounds, payload.max_seats
    phases = {
        PhaseKind(*form, name): PhaseSums(1.0, float(name in begun))
        for name in phase_shares(payload, is_text=not topic.form.is_closed)
    }
    return CallHistory(calls, phases)


def _phase_of(entry: Entry, payload: DebateJobPayload) -> str:
    """Return the phase of a call, as `phase_shares` names it."""
    if entry["phase"] == "propose" and entry["seat"] >= len(payload.agents):
        return "escalation"
    return f"r{entry['round']}.{entry['phase']}" if entry["round"] else str(entry["phase"])


def _sums(topic: Topic, phase: str, entries: Sequence[Entry]) -> CallSums:
    requests = sum(not (entry.get("larger") or entry.get("repair")) for entry in entries)
    taken = float(sum(entry["in"] for entry in entries))
    cached = float(sum(entry["cached"] for entry in entries))
    values = [entry["value"] for entry in entries if entry["value"] is not None]
    texts = [
        Answer(value["answer"], value["reasons"]).text(topic.form)
        for value in values
        if "answer" in value
    ]
    return CallSums(
        requests=float(requests),
        calls=float(len(entries)),
        output_tokens=float(sum(entry["out"] for entry in entries)),
        output_squares=float(sum(entry["out"] ** 2 for entry in entries)),
        input_tokens=taken,
        max_input_tokens=float(sum(entry["max_in"] for entry in entries)),
        cached_tokens=0.0 if topic.shares_prefix else cached,
        seconds=sum(entry["seconds"] for entry in entries),
        seconds_squares=sum(entry["seconds"] ** 2 for entry in entries),
        answer_bytes=float(sum(len(text.encode(errors="replace")) for text in texts)),
        points_bytes=float(
            sum(len(value.get("points", "").encode(errors="replace")) for value in values)
        ),
        words=float(requests * words_asked(topic, phase)),
        shared_input_tokens=taken if topic.shares_prefix else 0.0,
        shared_cached_tokens=cached if topic.shares_prefix else 0.0,
    )
