"""The outcome of a debate in a few rows, as `status` and `wait` show it."""

from __future__ import annotations

from collections.abc import Iterator

from aragora_q.base import Job
from aragora_q.formats import count, duration, price
from aragora_q.loose import mapping, mappings, number_or_none, text, whole
from aragora_q.report.debate import Debate

ENDINGS = {
    "rounds": "all rounds were used",
    "agreement": "the answers agreed",
    "unchanged": "a round changed no answer",
    "max_tokens": "max_tokens did not allow another round",
    "max_cost": "max_cost_usd did not allow another round",
    "timeout": "timeout_seconds did not allow another round",
    "journal_full": "the job had no room for more replies",
}
"""What `ended_by` means."""


TIES = "the voters' confidence decided, or else chance"


def outcome_of(job: Job) -> list[tuple[str, str]]:
    """Return the outcome of a debate as names and values. `job` is one for which `has_outcome` is true."""
    debate = Debate(job)
    verdict, author = debate.result.get("verdict"), text(debate.result.get("written_by"))
    reasons = text(debate.result.get("reasons"))
    final_answer, has_vote = text(debate.result.get("final_answer")), debate.mode != "none"
    rows = [
        ("answers", "" if has_vote else final_answer),
        ("verdict", "none" if verdict is None and has_vote else text(verdict)),
        ("reasons", "" if author else reasons),
        ("answer", final_answer if author else ""),
        *decision(debate),
        ("seats", "\n".join(_seats(debate))),
        ("problem", problem(debate)),
    ]
    return [row for row in rows if row[1]]


def degraded(debate: Debate) -> str:
    """Return why a result is degraded, such as `degraded: claude answered for gpt`; empty if it is not."""
    if debate.result.get("degraded") is not True:
        return ""
    replaced = [
        f"{text(each.get('agent'))} answered for {text(seat.get('agent'))}"
        for seat in debate.seats
        for each in mappings(seat.get("fallbacks"))
    ]
    dropped = [
        f"{text(seat.get('agent'))} dropped out" for seat in debate.seats if seat.get("dropped")
    ]
    return f"degraded: {', '.join([*replaced, *dropped])}"


def problem(debate: Debate) -> str:
    """Return what went wrong, without what a failed job's error says already."""
    said = debate.job.error or ""
    problems = text(debate.result.get("error")).split("; ")
    return "; ".join(each for each in problems if each not in said)


def decision(debate: Debate) -> list[tuple[str, str]]:
    """Return how the verdict came about, as names and values."""
    result = debate.result
    reached = "reached" if result.get("consensus_reached") is True else "not reached"
    ended_by = text(result.get("ended_by"))
    meaning = f": {ENDINGS[ended_by]}" if ended_by in ENDINGS else ""
    if ended_by == "rounds" and not debate.max_rounds():
        ended_by = meaning = ""  # there was none to end
    has_vote = debate.mode != "none" and not debate.is_single
    used = whole(result.get("rounds_used"))
    tie = f"; a tie with {count(ties, 'other answer')}: {TIES}" if (ties := debate.ties()) else ""
    rows = [
        ("consensus", f"{reached} ({debate.mode})" if has_vote else ""),
        ("agreement", debate.agreement()),
        ("decided by", f"{text(result.get('decided_by'))}{tie}" if has_vote else ""),
        ("written by", text(result.get("written_by"))),
        ("abstained", _abstained(debate)),
        ("rounds", f"{used} of {debate.rounds_at_most()}" if debate.max_rounds() else "none"),
        ("ended by", f"{ended_by}{meaning}"),
        ("time", duration(number_or_none(result.get("duration_seconds")) or 0.0)),
        ("usage", _usage(debate)),
        ("taken over", _taken_over(debate)),
        ("cost", price(number_or_none(result.get("cost_usd")), _unpriced(debate), debate.quote())),
    ]
    return [row for row in rows if row[1]]


def _abstained(debate: Debate) -> str:
    abstentions = whole(debate.result.get("abstentions"))
    return count(abstentions, "seat") if abstentions else ""


def _unpriced(debate: Debate) -> int:
    return whole(debate.result.get("unpriced_calls"))


def _taken_over(debate: Debate) -> str:
    source = text(debate.result.get("forked_from"))
    calls = count(whole(debate.result.get("taken_over")), "call")
    return f"{calls} from {source}" if source else ""


def _usage(debate: Debate) -> str:
    usage = mapping(debate.result.get("token_usage"))
    if not whole(usage.get("requests")):
        return ""
    tokens = f"{whole(usage.get('input_tokens')):,} tokens in"
    calls = count(whole(usage.get("requests")), "call")
    return f"{calls}, {tokens}, {whole(usage.get('output_tokens')):,} out"


def _seats(debate: Debate) -> Iterator[str]:
    """Yield what each seat took."""
    for each in debate.seats:
        seat = whole(each.get("seat"))
        tokens = [f"{whole(each.get(f'{kind}put_tokens')):,} {kind}" for kind in ("in", "out")]
        cost = price(number_or_none(each.get("cost_usd")), whole(each.get("unpriced_calls")))
        parts = [count(whole(each.get("calls")), "call"), *tokens, cost]
        yield f"{debate.full_name(seat, text(each.get('agent')))}: {', '.join(filter(None, parts))}"
