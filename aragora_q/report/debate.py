"""What is known about a debate: its job, its result and its calls, each perhaps incomplete.

A result may come from another program: every field is read as JSON of unknown form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aragora_q.base import Job
from aragora_q.formats import count
from aragora_q.job_rules import quoted_usd
from aragora_q.loose import mapping, mappings, number_or_none, text, texts, whole, wholes

if TYPE_CHECKING:
    from aragora_q.report.calls import Call, Calls


class Debate:
    """A debate: its job, its result and its calls, and the names of its seats."""

    def __init__(self, job: Job, calls: Calls | None = None) -> None:
        self.job = job
        self.payload = job.payload
        self.result = mapping(job.result)
        if calls is not None:
            self.calls = calls
        self.mode = text(job.payload.get("consensus")) or "majority"
        self.judge = text(job.payload.get("judge"))
        self.joining = texts(job.payload.get("escalate") or [])  # seats that join, the last ones
        self.names = texts(job.payload.get("agents")) + self.joining
        self.groups = mappings(self.result.get("groups"))
        self.seats = mappings(self.result.get("seats")) or self._seats_of_calls()
        self.dropped = {whole(each.get("seat")): text(each.get("dropped")) for each in self.seats}

    @cached_property
    def calls(self) -> Calls:
        """The calls; none if they were not read."""
        from aragora_q.report.calls import Calls  # noqa: PLC0415 - a result says enough in most cases

        return Calls()

    @property
    def is_single(self) -> bool:
        """True if there is one seat: nothing was voted on, and nothing is compared."""
        return len(self.names) == 1

    def max_rounds(self) -> int:
        """Return the number of rounds at most."""
        if self.payload.get("debate") == "never" or self.is_single:
            return 0
        rounds = self.payload.get("rounds")
        return 3 if rounds is None else whole(rounds)

    def rounds_at_most(self) -> str:
        """Return the number of rounds as text: `at most 3`, or `3` if all must be held."""
        rounds = self.max_rounds()
        return str(rounds) if self.payload.get("debate") == "always" else f"at most {rounds}"

    def is_verdict(self, group: Mapping[str, Any]) -> bool:
        """Return True if a group has the verdict; 1 is not true."""
        found, verdict = group.get("verdict"), self.result.get("verdict")
        return found == verdict and isinstance(found, bool) == isinstance(verdict, bool)

    def ties(self) -> int:
        """Return how many other answers have as many votes as the verdict, if the votes decided."""
        shares = [
            number_or_none(each.get("share")) for each in self.groups if self.is_verdict(each)
        ]
        if self.result.get("decided_by") != "votes" or len(shares) != 1:
            return 0
        return sum(number_or_none(each.get("share")) == shares[0] for each in self.groups) - 1

    def agreement(self) -> str:
        """Return the share of the seats behind the verdict as text; blank if there was no vote."""
        share = number_or_none(self.result.get("confidence"))
        if share is None or self.mode == "none" or self.is_single:
            return ""
        if self.mode == "weighted":
            return f"{share:.0%} of the weight"
        votes = mappings(self.result.get("votes"))
        winning = {n for n, each in enumerate(self.groups) if self.is_verdict(each)}
        voters = sum(group_of(each) in winning for each in votes)
        return f"{share:.0%}" + (f", {voters} of {count(len(votes), 'seat')}" if votes else "")

    def labels(self) -> str:
        """Return whose answers the reviews mean by their labels."""
        labels = mapping(mapping(self.result.get("record")).get("labels"))
        return "; ".join(
            f"{label} is {self.full_name(seat)}"
            for label, seat in sorted(labels.items(), key=lambda each: whole(each[1]))
            if isinstance(seat, int)
        )

    def _seats_of_calls(self) -> list[dict[str, Any]]:
        """Return the seats as a result has them, counted from the calls."""
        calls = [call for call in self.calls.all() if call.model]  # a transcript counts no tokens
        seats = {call.seat for call in calls} | set(self.calls.dropped)
        return [
            self._seat_of_calls(seat, [call for call in calls if call.seat == seat])
            for seat in sorted(seats)
        ]

    def _seat_of_calls(self, seat: int, calls: Sequence[Call]) -> dict[str, Any]:
        known = [call.cost_usd for call in calls if call.cost_usd is not None]
        return {
            "seat": seat,
            "agent": self.agent(seat) or (calls[-1].agent if calls else ""),
            "model": calls[-1].model if calls else "",
            "answered_by": list(filter(None, dict.fromkeys(call.answered_by for call in calls))),
            "dropped": self.calls.dropped.get(seat),
            "calls": sum(not call.taken_from for call in calls),
            "taken_over": sum(bool(call.taken_from) for call in calls),
            "input_tokens": sum(call.input_tokens for call in calls),
            "output_tokens": sum(call.output_tokens for call in calls),
            "cached_tokens": sum(call.cached_tokens for call in calls),
            "cost_usd": sum(known) if known else None,
            "unpriced_calls": len(calls) - len(known),
            "seconds": sum(call.seconds or 0.0 for call in calls),
        }

    def cost(self) -> float | None:
        """Return the price of all calls with a known price; None if no call has one."""
        if self.result:
            return number_or_none(self.result.get("cost_usd"))
        known = [number_or_none(each.get("cost_usd")) for each in self.seats]
        return sum(filter(None, known)) if any(each is not None for each in known) else None

    def quote(self) -> float | None:
        """Return what the debate was expected to cost when it began; None if that is not known."""
        if self.result:
            return quoted_usd(self.result)
        return self.calls.quote_usd

    def unpriced_calls(self) -> int:
        """Return the number of calls without a known price."""
        parts = [self.result] if self.result else self.seats
        return sum(whole(each.get("unpriced_calls")) for each in parts)

    def _is_judge(self, seat: int, agent: str = "") -> bool:
        return bool(self.judge) and (agent == self.judge or seat >= len(self.names))

    def seat(self, seat: int, agent: str = "") -> str:
        """Return a seat's number for people, who count from 1."""
        if self._is_judge(seat, agent):
            return "judge"
        return str(seat + 1)

    def agent(self, seat: int, agent: str = "") -> str:
        """Return the name of a seat's agent; blank if unknown."""
        if agent:
            return agent
        if self._is_judge(seat):
            return self.judge
        return self.names[seat] if 0 <= seat < len(self.names) else ""

    def model(self, seat: Mapping[str, Any]) -> str:
        """Return the model in a row of votes or seats; blank if the agent is named after it."""
        model = text(seat.get("model"))
        return "" if model == text(seat.get("agent")) else model

    def full_name(self, seat: int, agent: str = "") -> str:
        """Return number and agent of a seat: `seat 1, claude`."""
        number, name = self.seat(seat, agent), self.agent(seat, agent)
        place = f"seat {number}" if number.isdecimal() else number
        return f"{place}, {name}" if name else place

    def numbers(self, seats: object) -> str:
        """Return seats as text: `1, 3 and 4`."""
        *others, last = [self.seat(seat) for seat in sorted(wholes(seats))] or [""]
        return f"{', '.join(others)} and {last}" if others else last

    def seat_list(self, seats: object) -> str:
        """Return seats as text: `seats 1, 3 and 4`."""
        numbers = self.numbers(seats)
        return numbers and f"{'seats' if ' ' in numbers else 'seat'} {numbers}"


def group_of(vote: Mapping[str, Any]) -> int | None:
    """Return the index of the group that a vote is for; None if it is for none."""
    group = vote.get("group")
    return group if isinstance(group, int) and not isinstance(group, bool) else None
