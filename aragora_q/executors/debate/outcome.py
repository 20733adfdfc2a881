"""The result of a debate: what was decided, by whom, and everything needed to count it again.

Written by the protocol. Its votes, groups and seats follow from the journal and the participants; the
rules of the vote are in `consensus.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import median
from typing import Any, NamedTuple

from aragora_q import codec, loose
from aragora_q.executors.debate.answers import Answers
from aragora_q.executors.debate.consensus import Ballot, Decision, decide, shares
from aragora_q.executors.debate.flags import flags
from aragora_q.executors.debate.journal import Entry, Journal
from aragora_q.executors.debate.participants import Participants
from aragora_q.executors.debate.prices import price_list
from aragora_q.executors.debate.replies import Value
from aragora_q.executors.debate.requests import Answer, Topic
from aragora_q.executors.debate.seeds import origin
from aragora_q.formats import count
from aragora_q.job import DebateJobPayload, DebateResult
from aragora_q.money import USD_DIGITS

MAX_BYTES_OF_CHAR = 6
"""A control character takes this many in JSON."""

SHORTENED_CHARS = (2_000, 200, 0)
"""Lengths to which the reasons of other answers are shortened, in turn, if a result is too large."""


class Choice(NamedTuple):
    """Where a voter saw the answer that it chose."""

    answers: int
    """How many answers it chose from."""
    place: int
    """The place of the chosen one in the order shown, from 1."""
    label: int
    """The place of its label in the alphabetical order of the labels shown, from 1."""


class Problem(NamedTuple):
    """Something that went wrong, so that the result is less than what was asked for."""

    code: str
    text: str


@dataclass(frozen=True)
class SeatVote:
    """A seat's vote for an option: an answer, by the first seat that gave it."""

    option: int
    confidence: int | None = None
    reason: str = ""
    choice: Choice | None = None
    """None: the vote is implied."""


class Outcome:
    """The outcome of one debate, in the making: `count`, then perhaps `judged` or `written`, then `result`."""

    def __init__(
        self,
        job_id: str,
        payload: DebateJobPayload,
        topic: Topic,
        journal: Journal,
        seats: Participants,
        answers: Answers,
    ) -> None:
        self.rounds_used = 0
        self.ended_by: str | None = None
        self.shown_bytes: int | None = None
        """Size to which answers were cut where voters saw them; None: they were whole."""
        self.decision = Decision()
        self._job_id = job_id
        self._payload = payload
        self._form = topic.form
        self._journal = journal
        self._seats = seats
        self._source = answers
        self._answers = answers.by_seat
        self._joined = sorted({*seats.active, *seats.dropped})
        self._groups: list[list[int]] = []
        self._votes: Mapping[int, SeatVote] = {}
        self._text: str | None = None
        self._is_judged = False

    def count(self, groups: list[list[int]], votes: Mapping[int, SeatVote]) -> None:
        """Take over groups of seats whose answers are the same, and the votes; decide by them."""
        self._groups, self._votes = groups, votes
        self.decision = decide(self._payload.consensus, self._ballots())

    def judged(self, chosen: int | None) -> None:
        """Take over the group that the judge chose; None: it chose none, and the votes decide."""
        self._is_judged = chosen is not None
        self.decision = decide(self._payload.consensus, self._ballots(), judged=chosen)

    def written(self, value: Value | None) -> None:
        """Take over the answer that the chair wrote; None: it failed, and the best-liked answer stays."""
        self._text = value["text"] if value else None

    def _ballots(self) -> list[Ballot]:
        return [
            Ballot(
                self._group_of(vote.option) if vote else None,
                (vote.confidence if vote else None) or 0,
                self._weight(seat),
            )
            for seat in self._joined
            for vote in [self._votes.get(seat)]
        ]

    def _weight(self, seat: int) -> float:
        """Return the weight of a seat's vote: 1 except in mode `weighted`."""
        if self._payload.consensus != "weighted":
            return 1.0
        return self._payload.weights.get(self._seats.names[seat], 1.0)

    def _group_of(self, seat: int) -> int:
        return next(n for n, members in enumerate(self._groups) if seat in members)

    def best_option(self) -> int | None:
        """Return the best-liked option of the winning group."""
        winner = self.decision.winner
        return None if winner is None else self._best_of(winner)

    def _best_of(self, number: int) -> int:
        def liking(seat: int) -> tuple[int, int, int]:
            votes = [vote for vote in self._votes.values() if vote.option == seat]
            return len(votes), sum(vote.confidence or 0 for vote in votes), -seat

        return max(self._groups[number], key=liking)

    def reasons_not_to_vote(self) -> str:
        """Return why each seat without a vote has none."""
        reasons = [*self._seats.dropouts, *self._abstentions()]
        return "; ".join(reasons) or "no time was left"

    def _abstentions(self) -> list[str]:
        if self.ended_by is None:  # the vote has not begun
            return []
        return [
            f"{self._seats.names[seat]} abstained ({self._seats.abstained.get(seat, 'no vote')})"
            for seat in self._seats.active
            if seat not in self._votes
        ]

    def result(self, max_bytes: int) -> DebateResult:
        """Return the result, shortened to `max_bytes` of JSON: what is left out is said in `error`."""
        result = self._whole()
        for shortened in self._shorter(result, max_bytes):
            if len(codec.encode(result.to_dict())) <= max_bytes * 0.95:
                break
            result = shortened
        return result

    @staticmethod
    def _shorter(result: DebateResult, max_bytes: int) -> Iterator[DebateResult]:
        if result.transcript:
            result = _noted(result, "transcript left out: too large", transcript=None)
            yield result
        for length in SHORTENED_CHARS:
            dissent = [{**each, "reasons": each["reasons"][:length]} for each in result.dissent]
            note = f"reasons of other answers cut at {length} characters: too large"
            shorter = _noted(result, note, dissent=dissent)
            yield shorter
        votes = [{**each, "reason": ""} for each in result.votes]
        note = "all other reasons, and flags, left out: too large"
        result = _noted(replace(shorter, error=result.error, problems=result.problems), note)
        result = replace(result, reasons=None, votes=votes, flags=[])
        yield result
        room = max_bytes // MAX_BYTES_OF_CHAR // 2
        codes = dict.fromkeys(each["code"] for each in result.problems)
        yield _noted(
            replace(result, error=(result.error or "")[:room]),
            f"texts cut at {room} characters: too large",
            final_answer=(result.final_answer or "")[:room] or None,
            problems=[{"code": code, "text": ""} for code in codes],
        )

    def _whole(self) -> DebateResult:
        names = self._seats.names
        best = self.best_option()
        answer = None if best is None else self._answers[best]
        has_vote = self._payload.consensus != "none"
        seats, cost_usd = self._seat_rows(), self._journal.cost_usd()
        quote_usd = self._journal.quote_usd
        was_replaced = any(row["fallbacks"] for row in seats)
        problems = list(self._problems(seats))
        return DebateResult(
            debate_id=self._job_id,
            consensus_reached=self.decision.consensus_reached,
            final_answer=self._final_answer(answer),
            confidence=round(self.decision.confidence, 4),
            rounds_used=self.rounds_used,
            participants=[names[seat] for seat in self._seats.active],
            duration_seconds=round(self._journal.running_seconds(), 3),
            token_usage=self._journal.usage(),
            error="; ".join(each.text for each in problems) or None,
            problems=[each._asdict() for each in problems],
            degraded=was_replaced or bool(self._seats.dropped),
            verdict=None if answer is None else answer.verdict,
            reasons=None if answer is None else answer.reasons,
            decided_by=None if answer is None else "judge" if self._is_judged else "votes",
            written_by=self._writer() if self._text is not None else None,
            ended_by=self.ended_by,
            groups=self._group_rows(),
            votes=self._vote_rows() if has_vote else [],
            by_model=self._by_model() if has_vote else {},
            abstentions=len(self._abstentions()) if has_vote else 0,
            first_votes=[
                {"seat": n, "verdict": each.verdict} for n, each in self._source.first.items()
            ],
            changed=self._changed(),
            dissent=self._dissent(),
            flags=self._flags(),
            seats=seats,
            cost_usd=None if cost_usd is None else round(cost_usd, USD_DIGITS),
            quote_usd=None if quote_usd is None else round(quote_usd, USD_DIGITS),
            unpriced_calls=self._journal.unpriced_calls(),
            forked_from=self._payload.forked_from,
            taken_over=sum(1 for _ in self._journal.taken_over()),
            record=self._record(),
            transcript=self._seats.transcript if self._payload.transcript else None,
        )

    def _writer(self) -> str:
        """Return the agent that wrote the synthesis: the chair's, or its fallback."""
        writer: str = self._seats.used[self._payload.max_seats][-1]["agent"]
        return writer

    def _final_answer(self, answer: Answer | None) -> str | None:
        """Return the winning answer as text; in mode `none` all answers with their agents' names."""
        if self._payload.consensus == "none":
            return (
                "\n\n".join(
                    f"{self._seats.names[seat]}: {self._as_text(each)}"
                    for seat, each in self._answers.items()
                )
                or None
            )
        if answer is None or self._text is not None:
            return self._text
        return self._as_text(answer)

    def _as_text(self, answer: Answer) -> str:
        is_closed = self._form.is_closed
        return self._form.text(answer.verdict) if is_closed else answer.text(self._form)

    def _problems(self, seats: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
        names = self._seats.names
        for text in self._seats.dropouts:
            yield Problem("dropped", text)
        if self._payload.consensus != "none":
            for text in self._abstentions():
                yield Problem("abstained", text)
        if self._seats.incomplete == "journal_full":
            text = "the job's journal was full, so no more replies were asked for"
            yield Problem("journal_full", text)
        outsider = self._payload.max_seats
        if why := self._seats.abstained.get(outsider):
            if self._payload.consensus == "synthesis":
                text = f"{names[outsider]} did not write, so the best-liked answer stays ({why})"
                yield Problem("not_written", text)
            else:
                text = f"{names[outsider]} did not decide, so the votes do ({why})"
                yield Problem("not_judged", text)
        if self.shown_bytes is not None:
            text = (
                f"voters saw at most {self.shown_bytes:,} bytes of each answer, so that the vote fit the job's "
                "limits"
            )
            yield Problem("answers_cut", text)
        yield from self._unlimited_calls()
        for row in seats:
            yield from self._problems_of_seat(row)

    def _problems_of_seat(self, row: Mapping[str, Any]) -> Iterator[Problem]:
        agent = row["agent"]
        for each in row["fallbacks"]:
            calls = count(each["calls"], "call")
            text = f"{each['agent']} answered for {agent} ({calls}: {each['why']})"
            yield Problem("fallback", text)
        if row["cut"]:
            replies = "a reply was" if row["cut"] == 1 else f"{row['cut']} replies were"
            yield Problem("replies_cut", f"{agent}: {replies} cut at a limit")
        own = [each for each in self._seats.used.get(row["seat"], ()) if each["agent"] == agent]
        if len(models := dict.fromkeys(entry["model"] for entry in own)) > 1:
            text = f"{agent}: continued with another model ({', '.join(models)})"
            yield Problem("other_model", text)
        elif len({entry["settings"] for entry in own}) > 1:
            yield Problem("other_settings", f"{agent}: continued with other settings")

    def _unlimited_calls(self) -> Iterator[Problem]:
        """Yield which limits did not cover all calls."""
        for limit, name, is_unknown in (
            (self._payload.max_tokens, "max_tokens", _has_no_counts),
            (self._payload.max_cost_usd, "max_cost_usd", lambda entry: entry["usd"] is None),
        ):
            if limit is not None and (count := sum(map(is_unknown, self._journal.ledger()))):
                text = f"{name} did not limit {count} calls: what they took is not known"
                yield Problem("not_limited", text)

    def _seat_rows(self) -> list[dict[str, Any]]:
        entries = [*self._journal.ledger(), *self._journal.taken_over()]
        outsiders = range(self._payload.max_seats, len(self._seats.names))
        seats = sorted({*self._joined, *outsiders, *(entry["seat"] for entry in entries)})
        return [
            self._seat_row(seat, [entry for entry in entries if entry["seat"] == seat])
            for seat in seats
        ]

    def _seat_row(self, seat: int, own: Sequence[Entry]) -> dict[str, Any]:
        """Return what a seat did and took; `own` are its calls, also those without a reply or taken over."""
        agent = self._seats.names[seat]
        replies = [entry for entry in own if "settings" in entry]
        last = (replies or own or [{}])[-1]
        served_in = {loose.text(entry.get("served_in")) for entry in replies}
        priced = [entry["usd"] for entry in own if entry["usd"] is not None]
        seconds = [entry["seconds"] for entry in replies if not origin(entry)]
        said = [each["said"] or {} for each in self._seats.transcript if each["seat"] == seat]
        return {
            "seat": seat,
            "agent": agent,
            "model": last.get("model"),
            "settings": last.get("own_settings", {}),
            "service_tier": last.get("service_tier"),
            "served_in": sorted(filter(None, served_in)),
            "answered_by": sorted({entry["answered_by"] for entry in replies}),
            "fallbacks": _fallback_rows(replies, agent),
            "dropped": self._seats.dropped.get(seat),
            "calls": sum(not origin(entry) for entry in own),
            "taken_over": sum(bool(origin(entry)) for entry in own),
            "input_tokens": sum(entry["in"] for entry in own),
            "output_tokens": sum(entry["out"] for entry in own),
            "cached_tokens": sum(entry["cached"] for entry in own),
            "cost_usd": round(sum(priced), USD_DIGITS) if priced else None,
            "unpriced_calls": len(own) - len(priced),
            "seconds": round(sum(entry["seconds"] for entry in own), 3),
            "median_seconds": round(median(seconds), 3) if seconds else None,
            "cut": sum(bool(each.get("cut")) for each in said),
        }

    def _group_rows(self) -> list[dict[str, Any]]:
        found = shares(self._ballots())
        return [
            {
                "verdict": self._answers[self._best_of(number)].verdict,
                "seats": [seat for seat in members if seat in self._seats.active],
                "share": round(float(found.get(number, 0)), 9),
            }
            for number, members in enumerate(self._groups)
        ]

    def _vote_rows(self) -> list[dict[str, Any]]:
        rows = []
        for seat in self._joined:
            vote = self._votes.get(seat)
            rows.append(
                {
                    "seat": seat,
                    "agent": self._seats.names[seat],
                    "model": self._model_of(seat),
                    "group": None if vote is None else self._group_of(vote.option),
                    "confidence": None if vote is None else vote.confidence,
                    "weight": self._weight(seat),
                    "self": vote is not None and vote.option == self._source.option_of(seat),
                    "implied": vote is not None and vote.choice is None,
                    **dict.fromkeys(Choice._fields),
                    **(vote.choice._asdict() if vote and vote.choice else {}),
                    "reason": "" if vote is None else vote.reason,
                }
            )
        return rows

    def _model_of(self, seat: int) -> str | None:
        used = self._seats.used.get(seat)
        return used[-1]["model"] if used else None

    def _by_model(self) -> dict[str, Any]:
        """Return the decision if each model had one voice, shared by its seats."""
        models = [self._model_of(seat) or self._seats.names[seat] for seat in self._joined]
        ballots = [
            replace(ballot, weight=Fraction(1, models.count(model)))
            for ballot, model in zip(self._ballots(), models, strict=True)
        ]
        decision = decide(self._payload.consensus, ballots)
        winner = decision.winner
        return {
            "models": len(set(models)),
            "consensus_reached": decision.consensus_reached,
            "confidence": round(decision.confidence, 4),
            "verdict": None if winner is None else self._answers[self._best_of(winner)].verdict,
        }

    def _changed(self) -> list[dict[str, Any]]:
        return [
            {"seat": seat, "before": first.verdict, "after": self._answers[seat].verdict}
            for seat, first in self._source.first.items()
            if seat in self._answers
            and self._form.key(first.verdict) != self._form.key(self._answers[seat].verdict)
        ]

    def _dissent(self) -> list[dict[str, Any]]:
        rows = []
        for number, members in enumerate(self._groups):
            if number != self.decision.winner:
                answer = self._answers[self._best_of(number)]
                voters = [
                    n for n, vote in self._votes.items() if self._group_of(vote.option) == number
                ]
                rows.append(
                    {
                        "verdict": answer.verdict,
                        "seats": [seat for seat in members if seat in self._seats.active],
                        "voters": voters,
                        "reasons": answer.reasons,
                    }
                )
        return rows

    def _flags(self) -> list[dict[str, Any]]:
        rows, known = [], {}
        for said in self._seats.transcript:
            value = said["said"] or {}
            text = "\n".join(
                str(value[name]) for name in ("answer", "reasons", "points") if name in value
            )
            if text not in known:  # answers are often kept for several rounds
                known[text] = flags(text)
            rows += [
                {"seat": said["seat"], "phase": said["phase"], "round": said["round"], "why": why}
                for why in known[text]
            ]
        return rows

    def _record(self) -> dict[str, Any]:
        begun = self._journal.begun
        settings = self._payload.to_dict()
        for name in ("question", "metadata"):
            settings.pop(name, None)
        return {
            "version": begun["version"],
            "prompt_version": begun["prompt_version"],
            "settings": settings,
            "price_list": price_list(),
            "started_at": round(begun["at"], 3),
            "nonce": begun["nonce"],
            "labels": dict(self._source.labels),
        }


def _noted(result: DebateResult, note: str, **changes: Any) -> DebateResult:
    """Return a result with changes that make it shorter, and the problem that says so."""
    changed = replace(result, **changes)
    return replace(
        changed,
        error="; ".join(filter(None, [changed.error, note])),
        problems=[*changed.problems, Problem("result_cut", note)._asdict()],
    )


def _fallback_rows(replies: Sequence[Entry], own: str) -> list[dict[str, Any]]:
    """Return who replied in place of the agent `own`, how often, and why at first."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in replies:
        if (name := entry["agent"]) != own:
            row = rows.setdefault(name, {"agent": name, "calls": 0, "why": entry.get("closed", "")})
            row["calls"] += 1
    return list(rows.values())


def _has_no_counts(entry: Entry) -> bool:
    """Return True if a call took tokens that its provider did not count."""
    is_refused = "settings" not in entry and entry["usd"] == 0
    return not (entry["in"] + entry["out"] or is_refused)
