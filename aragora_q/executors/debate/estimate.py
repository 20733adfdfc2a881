"""What a debate will probably take: least, expected, most.

Used by `enqueue --quote` and by the executor before the first call; `quote.py` has the bounds. The prompts that
the debate would send are built with answers of the size that `call_sizes.py` expects. Which phases begin is
assumed, too, until finished debates of the queue show it. Must not know journals, models' libraries or Redis.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from aragora_q.executors.debate.call_sizes import DEVIATIONS, LEAST_SHARE, CallSizes, Level
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.quote import (
    NONCE,
    Fallbacks,
    Planned,
    Terms,
    answers_again,
    decision_requests,
    labeled,
)
from aragora_q.executors.debate.requests import Answer, Propose, Review, Topic
from aragora_q.history import CallHistory, PhaseKind, PhaseSums
from aragora_q.job import DebateJobPayload
from aragora_q.money import USD_DIGITS

ENDS = 0.5
"""Share of debates that end where `debate: auto` may end them, as long as nothing is known: the proposals in
a closed form agree, reviews settle a text, a round changes no verdict. And the share of votes in which a
judge has nothing to decide."""

ASSUMED_DEBATES = 3
"""How many finished debates this weighs as much as."""

VERDICT_CHARS = 20

STEP_TOKENS = 1_000
"""Within so much input, and within RATES_SECONDS, the price per token is taken as the same: lists compute
slowly."""

RATES_SECONDS = 3_600


@dataclass(frozen=True)
class Estimate:
    """What a debate may take. `usd` is None if a price is not known, `seconds` if nothing is known of it."""

    calls: float
    input_tokens: int
    output_tokens: int
    usd: float | None
    seconds: float | None = None


@dataclass(frozen=True)
class QuoteLine:
    """What is expected of one agent in one kind of phase."""

    phase: str
    """`propose`, `review`, `revise`, `discuss`, `vote`, `judge` or `synthesize`."""
    agent: str
    model: str
    service_tier: str | None
    calls: float
    input_tokens: int
    output_tokens: int
    usd: float | None


@dataclass(frozen=True)
class DebateQuote:
    """What a debate takes at least, probably, and at most."""

    least: Estimate
    expected: Estimate
    most: Estimate
    lines: tuple[QuoteLine, ...] = ()
    """The parts of what is expected."""
    debates: int = 0
    """How many finished debates of the queue it is based on; 0: only on the form of the debate."""
    agents_without_history: tuple[str, ...] = ()
    """Agents whose models none of these debates asked: what they take is assumed."""

    def to_dict(self) -> dict[str, Any]:
        """Return the quote as JSON data."""
        return asdict(self)


def quote_debate(
    payload: DebateJobPayload,
    terms: Sequence[Terms],
    history: CallHistory,
    fallbacks: Fallbacks = (),
) -> DebateQuote:
    """Return the quote of a debate. `terms` are those of all its agents.

    What the debate's own limits forbid is neither expected nor possible. Fallbacks are possible.
    """
    least = _Forecast(payload, terms, history, "least").estimate
    forecast = _Forecast(payload, terms, history, "expected")
    dearest = _dearest_agents(payload, terms, fallbacks)
    most = _Forecast(payload, dearest, history, "most").estimate
    expected = forecast.estimate
    return DebateQuote(
        combined(min, least, expected),
        expected,
        combined(max, most, expected),
        forecast.lines(),
        forecast.debates,
        forecast.agents_without_history,
    )


def expected_usd(
    payload: DebateJobPayload, terms: Sequence[Terms], history: CallHistory
) -> float | None:
    """Return what a debate will probably cost; None: a price is not known."""
    return _Forecast(payload, terms, history, "expected").estimate.usd


def phase_shares(payload: DebateJobPayload, *, is_text: bool) -> dict[str, float]:
    """Return the phases that a debate may hold, and the share of such debates that are assumed to begin it."""
    goes_on = 1 - ENDS if payload.debate == "auto" else 1.0
    shares, settled = {"propose": 1.0}, 0.0
    begun = 1.0 if is_text else goes_on
    for number in range(1, payload.max_rounds + 1):
        shares[f"r{number}.{'review' if is_text else 'discuss'}"] = begun
        if is_text:
            settled += begun * (1 - goes_on)
            begun *= goes_on
            shares[f"r{number}.revise"] = begun
        begun *= goes_on
    if payload.escalate:
        shares["escalation"] = shares["r1.revise"] if is_text else 1 - ENDS
    if payload.is_single:
        return shares
    if is_text and payload.consensus != "none":
        shares["vote"] = 1 - settled
    if payload.consensus == "judge":
        shares["judge"] = 1 - ENDS
    if payload.consensus == "synthesis":
        shares["synthesize"] = 1.0
    return shares


def _dearest_agents(
    payload: DebateJobPayload, terms: Sequence[Terms], fallbacks: Fallbacks
) -> Sequence[Terms]:
    """Return, for each agent, the terms of it or of the fallback whose calls can cost most.

    A fallback without a known price may cost anything, but is not asked under a limit of cost.
    """
    if not any(fallbacks):
        return terms
    propose, is_limited = Propose(Topic.of(payload, NONCE)), payload.max_cost_usd is not None

    def highest_price(each: Terms) -> float:
        micros = each.call(each.input_tokens(propose)).at().micros
        return math.inf if micros is None else micros  # unknown is never less

    return [
        max(
            [own, *(each for each in others.values() if each.price or not is_limited)],
            key=highest_price,
        )
        for own, others in zip(terms, fallbacks, strict=True)
    ]


class _Step(NamedTuple):
    """Requests that are made at the same time."""

    times: float
    """How often, on average."""
    requests: Sequence[Planned]


class _Part(NamedTuple):
    """What one seat takes in a step, in all its times."""

    phase: str
    seat: int
    calls: float
    input_tokens: float
    output_tokens: float
    usd: float | None


class _Forecast:
    """A debate at one level."""

    def __init__(
        self,
        payload: DebateJobPayload,
        terms: Sequence[Terms],
        history: CallHistory,
        level: Level,
    ) -> None:
        self._payload = payload
        self._terms = terms
        self._level = level
        self._topic = Topic.of(payload, NONCE)
        sizes = CallSizes(self._topic, history, level)
        self._size = cache(lambda seat, phase: sizes.of(terms[seat], phase))
        self._again = "discuss" if self._topic.form.is_closed else "revise"
        self._shares, used = self._known_shares(history)
        self._joining = self._shares.get("escalation", 0.0)
        self._seconds: float | None = 0.0
        self._parts = [part for step in self._steps() for part in self._parts_of(step)]
        self.debates = history.debates_of([*used, *sizes.used])
        """How many finished debates it is based on."""
        named = zip(payload.all_agents, terms, strict=True)
        unknown = (name for name, its_terms in named if not sizes.is_known(its_terms))
        self.agents_without_history = tuple(dict.fromkeys(unknown))
        self._share = 1.0
        """What the debate's own limits leave of it."""
        if level != "least":
            self._share = _share_within_limits(payload, self.estimate)

    @property
    def estimate(self) -> Estimate:
        """All that is taken."""
        seconds = None if self._seconds is None else round(self._share * self._seconds, 1)
        return Estimate(*self._sums(self._parts), seconds)

    def lines(self) -> tuple[QuoteLine, ...]:
        """Return the same by phase and agent."""
        names = self._payload.all_agents

        def key(part: _Part) -> tuple[str, str, str]:
            return part.phase, names[part.seat], self._terms[part.seat].model

        grouped: dict[tuple[str, str, str], list[_Part]] = {}
        for part in self._parts:
            grouped.setdefault(key(part), []).append(part)
        return tuple(
            QuoteLine(
                phase, agent, model, self._terms[parts[0].seat].service_tier, *self._sums(parts)
            )
            for (phase, agent, model), parts in grouped.items()
        )

    def _sums(self, parts: Sequence[_Part]) -> tuple[float, int, int, float | None]:
        """Return calls, tokens of input and of output, and US dollars of parts, within the limits."""
        share, costs = self._share, [part.usd for part in parts]
        return (
            round(share * sum(part.calls for part in parts), 2),
            round(share * sum(part.input_tokens for part in parts)),
            round(share * sum(part.output_tokens for part in parts)),
            None if None in costs else round(share * sum(usd or 0.0 for usd in costs), USD_DIGITS),
        )

    def _known_shares(self, history: CallHistory) -> tuple[dict[str, float], list[PhaseKind]]:
        """Return how often each phase begins, and on what of the history that is based."""
        payload, form = self._payload, self._topic.form
        assumed = phase_shares(payload, is_text=not form.is_closed)
        if self._level == "most":
            return dict.fromkeys(assumed, 1.0), []
        if self._level == "least":  # all seats may propose the same: only what is asked in any case
            is_fixed = payload.debate == "always"
            return {
                name: float(name == "propose" or (is_fixed and name.startswith("r")))
                for name in assumed
            }, []
        used = [
            kind
            for kind in history.phases
            if kind[:3] == (payload.debate, form.kind, payload.max_rounds) and kind.phase in assumed
        ]
        shares = assumed
        for kinds in (used, [kind for kind in used if kind.seats == payload.max_seats]):
            shares = _blended(shares, [(kind.phase, history.phases[kind]) for kind in kinds])
        return shares, used

    def _steps(self) -> Iterator[_Step]:
        payload, topic = self._payload, self._topic
        first, everyone = range(len(payload.agents)), range(payload.max_seats)
        # The answers that are shown: also of those that join, if that is likely.
        seats = everyone[: len(first) + round(self._joining * len(payload.escalate))]
        propose = Propose(topic)
        yield _Step(1.0, [Planned("propose", seat, propose) for seat in first])
        yield _Step(self._joining, [Planned("propose", n, propose) for n in everyone[len(first) :]])
        if payload.max_rounds:
            yield from self._round(first, seats, self._answers(seats, 0.0), range(1, 2))
        if payload.max_rounds > 1:  # all of them are alike
            rounds = range(2, payload.max_rounds + 1)
            yield from self._round(everyone, seats, self._answers(seats, 1.0), rounds)
        answers = self._answers(seats, self._shares.get(f"r1.{self._again}", 0.0))
        decision = decision_requests(payload, topic, everyone, answers)
        for (phase, _), requests in groupby(decision, key=lambda each: (each.phase, each.part)):
            yield _Step(self._shares[phase], list(requests))

    def _round(
        self,
        reviewers: Sequence[int],
        seats: Sequence[int],
        answers: Sequence[Answer],
        numbers: Sequence[int],
    ) -> Iterator[_Step]:
        """Yield what is asked in the rounds of these numbers."""
        topic = self._topic
        again = sum(self._shares[f"r{n}.{self._again}"] for n in numbers)
        if topic.form.is_closed:
            reviewed = seats[1:] if numbers[0] > 1 else ()  # those of the round before
            points = [self._points(seat, "discuss") for seat in reviewed]
            everyone = range(self._payload.max_seats)
            yield _Step(again, [*answers_again(topic, everyone, answers, points)])
            return
        review = Review(topic, labeled(answers[: len(reviewers)]))
        times = sum(self._shares[f"r{n}.review"] for n in numbers)
        yield _Step(times, [Planned("review", seat, review) for seat in reviewers])
        points = [self._points(seat, "review") for seat in reviewers[1 : len(seats)]]
        yield _Step(again, [*answers_again(topic, reviewers, answers, points)])

    def _answers(self, seats: Sequence[int], share_again: float) -> list[Answer]:
        """Return answers as long as those of the seats, of which a share has answered again."""
        return [
            self._answer(
                (1 - share_again) * self._size(seat, "propose").answer_bytes
                + share_again * self._size(seat, self._again).answer_bytes
            )
            for seat in seats
        ]

    def _answer(self, size: float) -> Answer:
        text = "x" * min(round(size), self._topic.max_answer_chars)
        return Answer(text[:VERDICT_CHARS], text[VERDICT_CHARS:])

    def _points(self, seat: int, phase: str) -> str:
        size = self._size(seat, phase).points_bytes
        return "x" * min(round(size), self._topic.max_points_chars)

    def _parts_of(self, step: _Step) -> Iterator[_Part]:
        """Yield what the seats take in a step; count its seconds."""
        longest, inputs = 0.0, dict[object, int]()
        for phase, seat, request, _ in step.requests:
            is_joining = len(self._payload.agents) <= seat < self._payload.max_seats
            times = min(step.times, self._joining) if is_joining else step.times
            if not times:
                continue
            terms = self._terms[seat]
            size = self._size(seat, phase)
            measure = id(request), terms.prompt_for, terms.is_tool
            if measure not in inputs:
                inputs[measure] = terms.input_tokens(request)
            read, calls = inputs[measure] * size.input_share, times * size.calls
            usd = self._usd(terms, read, size.output_tokens, read * size.cached_share)
            yield _Part(
                phase, seat, calls, calls * read, calls * size.output_tokens,
                None if usd is None else calls * usd,
            )  # fmt: skip
            if size.seconds is None:
                self._seconds = None
            else:  # the slowest of several takes longer than one
                deviations = DEVIATIONS[self._level] + math.sqrt(math.log(len(step.requests)))
                seconds = size.seconds + deviations * size.seconds_deviation
                longest = max(longest, size.calls * max(seconds, LEAST_SHARE * size.seconds))
        if self._seconds is not None:
            self._seconds += step.times * longest

    def _usd(self, terms: Terms, read: float, written: float, cached: float) -> float | None:
        """Return the price of a call; at most with what some providers charge to keep its input."""
        if terms.price is None:
            return None
        rates = _rates(
            terms.price,
            int(read // STEP_TOKENS),
            time.time() // RATES_SECONDS,
            is_worst=self._level == "most",
        )
        return (read - cached) * rates.read + cached * rates.cached + written * rates.written


class _Rates(NamedTuple):
    """US dollars per token."""

    read: float
    cached: float
    written: float


@lru_cache(maxsize=4_096)
def _rates(price: Price, steps: int, _now: float, *, is_worst: bool) -> _Rates:
    """Return what tokens of a call with so many STEP_TOKENS of input cost; at worst, if `is_worst`."""
    tokens = max(1, steps) * STEP_TOKENS
    if is_worst:
        input_usd, written = price.worst_parts(tokens)
        return _Rates(input_usd / tokens, input_usd / tokens, written)
    read, cached = price.cost_usd(tokens, 0), price.cost_usd(tokens, 0, tokens)
    return _Rates(read / tokens, cached / tokens, (price.cost_usd(tokens, tokens) - read) / tokens)


def _blended(
    assumed: Mapping[str, float], known: Sequence[tuple[str, PhaseSums]]
) -> dict[str, float]:
    """Return how often phases begin: the more debates are known, the less counts what is assumed."""
    shares = {}
    for name, share in assumed.items():
        sums = [each for phase, each in known if phase == name]
        begun = ASSUMED_DEBATES * share + sum(each.begun for each in sums)
        weight = ASSUMED_DEBATES + sum(each.debates for each in sums)
        shares[name] = min(begun / weight, 1.0)
    return shares


def _share_within_limits(payload: DebateJobPayload, estimate: Estimate) -> float:
    """Return the part of what a debate takes that its own limits allow."""
    taken = estimate.input_tokens + estimate.output_tokens
    share = 1.0
    if payload.max_tokens is not None and taken > payload.max_tokens:
        share = payload.max_tokens / taken
    if payload.max_cost_usd is not None and estimate.usd:
        share = min(share, payload.max_cost_usd / estimate.usd)
    return share


def combined(combine: Callable[[Any, Any], Any], one: Estimate, other: Estimate) -> Estimate:
    """Return what `combine` makes of each number, such as the lower of both; None where one is not known."""

    def known(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else combine(a, b)

    return Estimate(
        combine(one.calls, other.calls),
        combine(one.input_tokens, other.input_tokens),
        combine(one.output_tokens, other.output_tokens),
        known(one.usd, other.usd),
        known(one.seconds, other.seconds),
    )
