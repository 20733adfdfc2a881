"""The sections on what a debate cost, and its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from aragora_q import tracing
from aragora_q.formats import count, dollars_or_unknown, duration
from aragora_q.loose import mapping, mappings, number_or_none, text, texts, whole
from aragora_q.report.calls import MADE_AGAIN
from aragora_q.report.debate import Debate
from aragora_q.report.document import Facts, Row, Section, Table


def sections(debate: Debate) -> Iterator[Section]:
    """Yield seats and record."""
    if debate.seats:
        yield Section("Seats", [_seat_table(debate)])
    yield Section("Record", [record_of(debate)])


def _seat_table(debate: Debate) -> Table:
    numbers = ["calls", "input_tokens", "output_tokens", "cached_tokens"]
    head = ["Seat", "Agent", "Model", "Calls", "Tokens in", "Out", "Cached"]
    if not any(whole(each.get("cached_tokens")) for each in debate.seats):
        del numbers[3], head[6]
    seconds = [number_or_none(each.get("seconds")) for each in debate.seats]
    rows = [
        Row(
            [
                debate.seat(seat, text(each.get("agent"))),
                debate.agent(seat, text(each.get("agent"))),
                debate.model(each),
                *(f"{whole(each.get(name)):,}" for name in numbers),
                duration(taken or 0.0),
                _cost(each),
            ],
            "; ".join(_seat_notes(each, debate)),
        )
        for each, taken in zip(debate.seats, seconds, strict=True)
        for seat in [whole(each.get("seat"))]
    ]
    sums = [f"{sum(whole(each.get(name)) for each in debate.seats):,}" for name in numbers]
    sums += [
        duration(sum(filter(None, seconds))),
        price_in_cell(debate.cost(), debate.unpriced_calls()),
    ]
    rows.append(Row(["total", "", "", *sums]))
    head += ["Time", "Cost"]
    return Table(head, rows, frozenset(head[3:]), "Notes")


def record_of(debate: Debate) -> Facts:
    """Return when, where and with what a job ran."""
    job, record = debate.job, dict(mapping(debate.result.get("record")))
    started = number_or_none(record.pop("started_at", None))
    record.pop("labels", None)
    rows = [
        ("job", job.id),
        ("status", job.status.value),
        ("attempts", str(job.attempts)),
        ("worker", job.worker_id or ""),
        ("enqueued", time_of(job.created_at)),
        ("debate began", time_of(started)),
        ("attempt began", time_of(job.started_at)),
        ("ended", time_of(job.completed_at)),
        ("trace", tracing.described(job.trace)),
        ("labels in reviews", debate.labels()),
        *((name.replace("_", " "), text(value)) for name, value in record.items()),
    ]
    return Facts([row for row in rows if row[1]])


def _cost(seat: Mapping[str, Any]) -> str:
    if not (whole(seat.get("calls")) or whole(seat.get("taken_over"))):
        return ""
    return price_in_cell(number_or_none(seat.get("cost_usd")), whole(seat.get("unpriced_calls")))


def price_in_cell(cost_usd: float | None, unpriced_calls: int) -> str:
    """Return a price for a cell, and how many calls it does not cover."""
    more = f" + {unpriced_calls} unknown" if unpriced_calls and cost_usd is not None else ""
    return f"{dollars_or_unknown(cost_usd)}{more}"


def _seat_notes(seat: Mapping[str, Any], debate: Debate) -> Iterator[str]:
    answered = texts(seat.get("answered_by") or [])
    model = text(seat.get("model"))
    if answered and answered not in ([model], [model.partition(":")[2]]):
        yield f"answered by {', '.join(answered)}"
    for name, value in mapping(seat.get("settings")).items():
        yield f"{name} {text(value)}"
    tier, served = text(seat.get("service_tier")), texts(seat.get("served_in") or [])
    if served and served != [tier]:
        yield f"served in {', '.join(served)}"
    for each in mappings(seat.get("fallbacks")):
        calls = count(whole(each.get("calls")), "call")
        yield f"{text(each.get('agent'))} in its place ({calls}): {text(each.get('why'))}"
    if taken := whole(seat.get("taken_over")):
        yield f"{count(taken, 'reply', 'replies')} taken over from {_payers(seat, debate)}"
    faults = [call.fault for call in debate.calls.faults if call.seat == whole(seat.get("seat"))]
    if again := faults.count(MADE_AGAIN):
        yield f"{count(again, 'call')} {MADE_AGAIN}"
    if dropped := text(seat.get("dropped")):
        yield f"dropped out: {dropped}"
    if cut := whole(seat.get("cut")):
        yield f"{count(cut, 'reply', 'replies')} cut at a limit"


def _payers(seat: Mapping[str, Any], debate: Debate) -> str:
    """Return the debates that paid for a seat's replies: forks of forks have several."""
    own = [call for call in debate.calls.all() if call.seat == whole(seat.get("seat"))]
    paid = dict.fromkeys(call.taken_from for call in own if call.taken_from)
    return ", ".join(paid) or text(debate.result.get("forked_from")) or "another debate"


def time_of(seconds: float | None) -> str:
    """Return a moment as text; blank if it is not known."""
    if seconds is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return text(seconds)
