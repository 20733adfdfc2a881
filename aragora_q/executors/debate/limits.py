"""A job's own limits of time, tokens and cost, while its debate runs: each phase is reserved before it begins.

A phase fits if its calls, at most, and those that must follow for a result fit what is left. If they do not
fit with the agents' own output limits, all of them get a smaller one. So the limits are never exceeded, and
a budget that is large enough at the start always leads to a result. Used by the protocol and the vote, which
say what a phase asks, and by the participants before each call. What the limits decide is in the journal
before it takes effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from aragora_q.errors import JobLimitReached
from aragora_q.executors.debate import quote
from aragora_q.executors.debate.journal import Entry, Journal
from aragora_q.executors.debate.quote import (
    MIN_OUTPUT_TOKENS,
    Amount,
    CallBound,
    Fallbacks,
    Planned,
    Terms,
)
from aragora_q.executors.debate.requests import AgentRequest, Manner
from aragora_q.job import DebateJobPayload
from aragora_q.money import cost_micros, limit_micros

ROUNDS_SHARE = 0.8
"""Share of `timeout_seconds` after which no round begins."""

NOTHING = Amount()
WHOLE = (None,)
SHOWN_BYTES = (None, 4_000, 2_000, 1_000, 500, 250, quote.SHORTEST_BYTES)
"""Sizes to which answers are cut, in turn, where voters see them, until the vote fits."""


class Plan(NamedTuple):
    """What a phase asks, by the names of its calls, and what must follow it for a result."""

    calls: Mapping[str, Planned]
    then: Sequence[Planned]

    @classmethod
    def of(cls, phase: object, requests: Iterable[Planned], then: Sequence[Planned] = ()) -> Plan:
        """Return the plan of `phase`, as the names of its calls spell it."""
        return cls({f"{phase}{each.part}.{each.seat}": each for each in requests}, then)


class Room(NamedTuple):
    """What a phase may do."""

    ended_by: str | None = None
    """The limit that forbids it: `timeout`, `max_tokens` or `max_cost`; None if none does."""
    max_output_tokens: int | None = None
    """Output limit of each of its calls; None: the agents' own."""
    shown_bytes: int | None = None
    """Size to which answers are cut where they are shown; None: whole."""


class Limits:
    """The limits of one job. Create one per attempt.

    `terms` are those of the agents by seat, the judge's last. A phase is reserved for the seats' agents; a
    fallback is asked only if what is left allows it.
    """

    def __init__(
        self,
        payload: DebateJobPayload,
        terms: Sequence[Terms],
        journal: Journal,
        fallbacks: Fallbacks,
    ) -> None:
        self._timeout_seconds = payload.timeout_seconds
        self._max_tokens = payload.max_tokens
        self._max_micros = None
        if payload.max_cost_usd is not None:
            self._max_micros = limit_micros(payload.max_cost_usd)
        self._terms = terms
        self._fallbacks = fallbacks
        self._journal = journal
        self.max_output_tokens: int | None = None
        """Output limit of each call of the current phase; None: the agents' own."""
        self._refusal: str | None = None
        """The limit that forbids all calls of the current phase."""
        self._kept = Amount()
        """What the calls after the current phase need."""
        self._reserved: dict[str, Amount] = {}
        """What the calls of the current phase take that have not ended."""

    async def reserve(
        self,
        name: str,
        plan: Callable[[int | None], Plan],
        *,
        sizes: Sequence[int | None] = WHOLE,
        is_optional: bool = False,
        begins_round: bool = False,
    ) -> Room:
        """Reserve the phase called `name`; return how it may be held.

        `plan` returns what the phase asks if answers are shown in so many bytes, of `sizes`. A phase that is
        not optional is squeezed: shorter answers, less output, at last without what should follow it. If it
        still does not fit, its calls are refused.
        """
        if not self._have_money and (self._timeout_seconds is None or not begins_round):
            return Room()
        note = self._journal.find_note(f"decision/before_{name}")
        if note is None:
            room = self._decide(plan, sizes, is_optional=is_optional, begins_round=begins_round)
            note = {
                "ended_by": room.ended_by, "max_output": room.max_output_tokens, "shown": room.shown_bytes
            }  # fmt: skip
            await self._journal.note(f"decision/before_{name}", note)
        room = Room(note["ended_by"], note["max_output"], note["shown"])
        self._refusal = room.ended_by
        self.max_output_tokens = None
        if room.ended_by is None and self._have_money:
            self._begin(plan(room.shown_bytes), room.max_output_tokens)
        return room

    @property
    def _have_money(self) -> bool:
        return self._max_tokens is not None or self._max_micros is not None

    def _decide(
        self,
        plan: Callable[[int | None], Plan],
        sizes: Sequence[int | None],
        *,
        is_optional: bool,
        begins_round: bool,
    ) -> Room:
        limit = self._timeout_seconds
        is_late = limit is not None and self._journal.running_seconds() > limit * ROUNDS_SHARE
        if begins_round and is_late:
            return Room("timeout")
        if not self._have_money:
            return Room()
        # A model that thinks needs as much output as so far.
        longest = max(
            (entry.get("was", entry)["out"] for entry in self._journal.entries()), default=0
        )
        for size in sizes:
            planned = plan(size)
            calls, then = self._calls(planned)
            if not calls:  # it costs nothing: what follows is decided before it costs something
                return Room(None, None, size)
            exceeded, output = self._share(
                [*calls.values(), *then], max(longest, MIN_OUTPUT_TOKENS)
            )
            if exceeded is None:
                return Room(None, output, size)
        if is_optional:
            return Room(exceeded)
        exceeded, output, _ = self._squeeze([*calls.values()], then)
        return Room(exceeded, output, size)

    def _squeeze(
        self, calls: Sequence[CallBound], then: Sequence[CallBound]
    ) -> tuple[str | None, int | None, Sequence[CallBound]]:
        """As `_share` of both with the least output; if that does not fit, without `then`. Also return what
        of it remains.
        """
        exceeded, output = self._share([*calls, *then], MIN_OUTPUT_TOKENS)
        if exceeded is None:
            return None, output, then
        return *self._share(calls, MIN_OUTPUT_TOKENS), ()

    def _calls(self, plan: Plan) -> tuple[dict[str, CallBound], list[CallBound]]:
        """Return the calls of a phase that were not made, by name, and those after it."""
        todo = {n: each for n, each in plan.calls.items() if not self._journal.has_tries(n)}
        calls = quote.calls([*todo.values()], self._terms)
        return dict(zip(todo, calls, strict=True)), quote.calls(plan.then, self._terms)

    def _share(
        self, calls: Sequence[CallBound], least: int, reserved: Amount = NOTHING
    ) -> tuple[str | None, int | None]:
        """Return the limit that `calls` and what is `reserved` exceed with the output limit `least`; or None,
        and the largest with which they fit (None: the agents' own).
        """
        if self._exceeded(calls, None, reserved) is None:
            return None, None
        if (limit := self._exceeded(calls, least, reserved)) is not None:
            return limit, None
        fits, exceeds = least, max(call.output_tokens for call in calls)
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if self._exceeded(calls, middle, reserved) is None:
                fits = middle
            else:
                exceeds = middle
        return None, fits

    def _exceeded(
        self, calls: Sequence[CallBound], max_output: int | None, reserved: Amount
    ) -> str | None:
        return self._limit_below(reserved + _total(calls, max_output))

    def _limit_below(self, need: Amount) -> str | None:
        """Return the limit that what was spent and `need` exceed together; None if none."""
        tokens = self._journal.tokens() + need.tokens
        if self._max_tokens is not None and tokens > self._max_tokens:
            return "max_tokens"
        if self._max_micros is None:
            return None
        if need.micros is None or self._spent_micros() + need.micros > self._max_micros:
            return "max_cost"
        return None

    def _spent_micros(self) -> int:
        return sum(self._micros_of(entry) for entry in self._journal.ledger())

    def _micros_of(self, entry: Entry) -> int:
        usd = entry["usd"]
        if usd is None:  # as the gates book it
            price = self._terms_of(entry["seat"], entry["agent"]).price
            usd = price.worst_usd(entry["in"], entry["out"]) if price else 0.0
        return cost_micros(usd)

    def _terms_of(self, seat: int, agent: str) -> Terms:
        return self._fallbacks[seat].get(agent, self._terms[seat])

    def _begin(self, plan: Plan, max_output: int | None) -> None:
        """Reserve the calls of a phase that were not made, with the output limit that was decided."""
        calls, then = self._calls(plan)
        # Less may be left than when it was decided: calls that failed since may have been billed.
        self._refusal, left, kept = self._squeeze([*calls.values()], then)
        given = [limit for limit in (max_output, left) if limit is not None]
        self.max_output_tokens = output = min(given, default=None)
        self._kept = _total(kept, output)
        self._reserved = {name: call.at(output) for name, call in calls.items()}

    def take(
        self, name: str, seat: int, agent: str, request: AgentRequest, manner: Manner
    ) -> int | None:
        """Reserve the call `name` to `agent`; return its output limit, None: the agent's own.

        A phase reserves its first calls; a further one has to fit what they leave. A fallback gets a smaller
        output limit if that makes it fit.

        Raises:
            JobLimitReached: it does not fit, or the phase did not.

        """
        limit, output = self._refusal, self.max_output_tokens
        if not self._have_money:
            return output
        if limit is None and name not in self._reserved:
            terms = self._terms_of(seat, agent)
            call = terms.call(terms.input_tokens(request, manner.repair), larger=manner.larger)
            others = sum(self._reserved.values(), self._kept)
            limit = self._exceeded([call], output, others)
            if limit is not None and agent in self._fallbacks[seat]:
                limit, output = self._share([call], MIN_OUTPUT_TOKENS, others)
            if limit is None:
                self._reserved[name] = call.at(output)
        if limit is not None:
            field = {"max_cost": "max_cost_usd"}.get(limit, limit)
            raise JobLimitReached(
                f"what is left of {field} is too little for the call", limit=field
            )
        return output

    def end(self, name: str) -> None:
        """Free what is reserved for a call that has ended: what it took is in the journal."""
        self._reserved.pop(name, None)


def _total(calls: Iterable[CallBound], max_output: int | None) -> Amount:
    return sum((call.at(max_output) for call in calls), Amount())
