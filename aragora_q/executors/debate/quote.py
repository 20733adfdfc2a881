"""What a debate needs at least, and what it can take at most: calls, tokens and US dollars, by phase and seat.

Made of the prompts that the debate would send, with answers of the least or the largest size. Used at
enqueue, by the executor before the first call, and by `limits.py` while a debate runs. Must not know
journals, models' libraries or Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aragora_q.answer_form import MAX_JSON_CHARS, MAX_NUMBER_CHARS, MAX_TEXT_CHARS
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import AgentConfig
from aragora_q.errors import InvalidPayload
from aragora_q.executors.debate import demo, labels
from aragora_q.executors.debate.agents import agent_price, config_of
from aragora_q.executors.debate.local import prompts as local_prompts
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.prompts import Prompt, max_input_tokens, prompt_for
from aragora_q.executors.debate.requests import (
    AgentRequest,
    Answer,
    Discuss,
    Propose,
    Review,
    Revise,
    Synthesize,
    Topic,
    Vote,
    larger_output,
)
from aragora_q.formats import dollars
from aragora_q.job import DebateJobPayload
from aragora_q.money import MICROS, cost_micros

MIN_OUTPUT_TOKENS = 256
"""No call may answer in less, unless its agent always does: the rest of a budget buys nothing then."""

THINKING_TOKENS: Mapping[str | None, int] = {
    None: 500, "off": 0, "minimal": 200, "low": 500, "medium": 1_500, "high": 4_000, "xhigh": 8_000,
    "max": 16_000,
}  # fmt: skip
"""What a call thinks by the `effort` of its agent (None: the provider's default), as long as nothing better is
known. An assumption, not a limit."""

SHORTEST_BYTES = 120
"""Size to which an answer is cut at most where it is shown to voters."""

NATIVE = frozenset({"anthropic", "openai", "openai-chat", "openai-responses"})
"""Providers that enforce a form without a tool."""

MAX_TRIES = 3
"""Calls per request: the first one, one with a larger output limit, and one repair."""

MAX_REMARK = "\U0001d554" * 300
"""As long as the reason of any repair."""

FLOOR_HINT = "raise it, or ask fewer agents or a shorter question"
ELLIPSIS = "…"
NONCE = "0" * 2 * labels.NONCE_BYTES


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens, input and output, and micro-dollars; None: a price is unknown."""

    tokens: int = 0
    micros: int | None = 0

    def __add__(self, other: Amount) -> Amount:
        known = self.micros is not None and other.micros is not None
        micros = (self.micros or 0) + (other.micros or 0) if known else None
        return Amount(self.tokens + other.tokens, micros)

    def __mul__(self, count: int) -> Amount:
        micros = None if self.micros is None else self.micros * count
        return Amount(self.tokens * count, micros)


class CallBound(NamedTuple):
    """A call before it is made: its input at most, the agent's output limit, and what they cost."""

    input_tokens: int
    output_tokens: int
    input_usd: float | None
    """The price of the input; None: unknown."""
    output_usd: float
    """The price of one token of output."""

    def at(self, output_tokens: int | None = None) -> Amount:
        """Return what the call takes at most with that output limit; None: with the agent's own."""
        output = self.output_tokens
        if output_tokens is not None:
            output = min(output, output_tokens)
        if self.input_usd is None:
            return Amount(self.input_tokens + output, None)
        usd = self.input_usd + output * self.output_usd
        return Amount(self.input_tokens + output, cost_micros(usd))


class Terms(NamedTuple):
    """What a call of an agent takes: how it is asked, how much it may answer, and at which price."""

    prompt_for: Callable[[AgentRequest], Prompt] = prompt_for
    is_tool: bool = False
    """The form of a reply may be a tool."""
    max_output_tokens: int = 8_000
    larger_output_tokens: int = 32_000
    model: str = ""
    """The configured model; blank: nothing is known of what its calls took."""
    service_tier: str | None = None
    thinking_tokens: int = 0
    """What a call thinks, if nothing is known of other calls."""
    price: Price | None = None

    def input_tokens(self, request: AgentRequest, remark: str = "") -> int:
        """Return the input of `request` at most; `remark` asks for a repair."""
        return max_input_tokens(self.prompt_for(request), remark, is_tool=self.is_tool)

    def call(self, input_tokens: int, *, larger: bool = False) -> CallBound:
        """Return a call with that input."""
        output = self.larger_output_tokens if larger else self.max_output_tokens
        if self.price is None:
            return CallBound(input_tokens, output, None, 0.0)
        return CallBound(input_tokens, output, *self.price.worst_parts(input_tokens))


Fallbacks = Sequence[Mapping[str, Terms]]
"""Of each agent of a debate, the terms of those that may answer in its place, by name, in order."""


def terms_of(
    names: Sequence[str], config: QueueConfig, service_tier: str | None = None
) -> list[Terms]:
    """Return the terms of agents in jobs of `service_tier`, in order.

    Raises:
        InvalidPayload: a name is unknown.
    """
    return [
        _terms(config_of(name, config, service_tier), agent_price(name, config, service_tier), seat)
        for seat, name in enumerate(names)
    ]


def _terms(agent: AgentConfig, price: Price | None, seat: int) -> Terms:
    thinking = THINKING_TOKENS[agent.effort]
    match agent.model.partition(":")[0]:
        case "demo":
            return Terms(
                max_output_tokens=demo.MAX_OUTPUT_WORDS,
                larger_output_tokens=demo.MAX_OUTPUT_WORDS,
                model=demo.model_of(agent.model, seat),
                price=price,
            )
        case "local":
            prompts, is_tool, thinking = local_prompts.prompt_for, False, 0
        case provider:
            is_native = agent.structured == "native" or (
                agent.structured == "auto" and not agent.base_url and provider in NATIVE
            )
            prompts, is_tool = prompt_for, not (is_native or agent.structured == "prompted")
    return Terms(
        prompts, is_tool, agent.max_tokens, larger_output(agent.max_tokens),
        agent.model, agent.service_tier, thinking, price,
    )  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A part of a quote: what one seat takes in one phase."""

    phase: str
    seat: int
    calls: int
    amount: Amount


@dataclass(frozen=True)
class Quote:
    """What a debate needs or takes."""

    lines: tuple[Line, ...]

    @property
    def calls(self) -> int:
        """The number of calls."""
        return sum(line.calls for line in self.lines)

    @property
    def amount(self) -> Amount:
        """All tokens and micro-dollars."""
        return sum((line.amount for line in self.lines), Amount())

    @property
    def usd(self) -> float | None:
        """The US dollars; None if a price is unknown."""
        micros = self.amount.micros
        return None if micros is None else micros / MICROS


def check_budget(payload: DebateJobPayload, terms: Sequence[Terms], least: Quote) -> None:
    """Check the limits of tokens and cost of a debate, which needs at least `least`, its `floor`.

    Raises:
        InvalidPayload: a limit is below what any such debate needs, or the price of an agent is not known.

    """
    limit, tokens = payload.max_tokens, least.amount.tokens
    if limit is not None and limit < tokens:
        raise InvalidPayload(
            f"max_tokens is {limit}, but this debate needs at least {tokens} tokens",
            hint=FLOOR_HINT,
        )
    usd = payload.max_cost_usd
    if usd is None:
        return
    if unpriced := unpriced_agents(payload, terms):
        raise InvalidPayload(
            f"max_cost_usd is {usd:g}, but the price of agent {unpriced[0]:.100} is not known",
            hint="add the price of its model to [prices] of the configuration, or limit max_tokens instead",
        )
    if least.usd is not None and usd < least.usd:
        raise InvalidPayload(
            f"max_cost_usd is {usd:g}, but this debate needs at least {least.usd:g} USD",
            hint=FLOOR_HINT,
        )


def unpriced_agents(payload: DebateJobPayload, terms: Sequence[Terms]) -> list[str]:
    """Return the agents whose price is not known."""
    names = zip(payload.all_agents, terms, strict=True)
    return [name for name, each in names if each.price is None]


class Approval(NamedTuple):
    """Why a debate needs someone's approval, and the most that it can cost; None: unknown."""

    reason: str
    usd: float | None


def approval_above(
    max_usd: float,
    payload: DebateJobPayload,
    terms: Sequence[Terms],
    fallbacks: Fallbacks = (),
) -> Approval | None:
    """Return why a debate needs an approval: it may cost more than `max_usd`. None if it cannot."""
    if unpriced := unpriced_agents(payload, terms):
        return Approval(
            f"cannot be priced: the price of agent {unpriced[0]:.100} is not known", None
        )
    usd = highest(payload, terms, fallbacks).usd
    if payload.max_cost_usd is not None:
        usd = payload.max_cost_usd if usd is None else min(usd, payload.max_cost_usd)
    if usd is None:
        return Approval("cannot be priced: the price of a fallback is not known", None)
    if usd <= max_usd:
        return None
    return Approval(
        f"may cost up to {dollars(usd)} in the worst case, above the {dollars(max_usd)} that need no approval",
        usd,
    )


class Planned(NamedTuple):
    """A request that a debate will make of a seat."""

    phase: str
    seat: int
    request: AgentRequest
    part: str = ""
    """Tells several requests of a phase to one seat apart."""


def floor(payload: DebateJobPayload, terms: Sequence[Terms]) -> Quote:
    """Return the least that a debate needs for a result: proposals and the vote, with the shortest answers."""
    topic = Topic.of(payload, NONCE)
    seats = range(len(payload.agents))
    answers = [smallest_answer(topic)] * len(seats)
    requests = [
        *(Planned("propose", seat, Propose(topic)) for seat in seats),
        *decision_requests(payload, topic, seats, answers),
    ]
    made = calls(requests, terms)
    return Quote(
        tuple(
            Line(each.phase, each.seat, 1, call.at(MIN_OUTPUT_TOKENS))
            for each, call in zip(requests, made, strict=True)
        )
    )


def highest(payload: DebateJobPayload, terms: Sequence[Terms], fallbacks: Fallbacks = ()) -> Quote:
    """Return the most that a debate can take: all seats and rounds, the largest answers, each call repeated.

    Each call counts with the dearest of its agent and that agent's fallbacks. Limits of the payload do not
    count.
    """
    variants = _variants(terms, fallbacks)
    topic = Topic.of(payload, NONCE)
    seats = range(payload.max_seats)
    answers = [largest_answer(topic)] * len(seats)
    points = [_widest(topic.max_points_chars)] * (len(seats) - 1)
    in_rounds = [*answers_again(topic, seats, answers, points)]
    if not topic.form.is_closed:
        review = Review(topic, labeled(answers))
        in_rounds += [Planned("review", seat, review) for seat in seats]
    others = [
        *(Planned("propose", seat, Propose(topic)) for seat in seats),
        *decision_requests(payload, topic, seats, answers),
    ]
    lines = []
    for requests, times in (
        (others, 1),
        (in_rounds if payload.max_rounds else (), payload.max_rounds),
    ):
        first = _dearest(requests, variants)
        again = _dearest(requests, variants, MAX_REMARK, larger=True)
        for each, one, more in zip(requests, first, again, strict=True):
            amount = one + more * (MAX_TRIES - 1)
            lines.append(Line(each.phase, each.seat, MAX_TRIES * times, amount * times))
    return Quote(tuple(lines))


def _dearest(
    requests: Sequence[Planned],
    variants: Iterable[Sequence[Terms]],
    remark: str = "",
    *,
    larger: bool = False,
) -> Iterator[Amount]:
    """Yield the most that each of `requests` takes with the terms of any of `variants`."""
    made = [calls(requests, terms, remark, larger=larger) for terms in variants]
    for bounds in zip(*made, strict=True):
        amounts = [bound.at() for bound in bounds]
        micros = [amount.micros for amount in amounts if amount.micros is not None]
        known = max(micros) if len(micros) == len(amounts) else None
        yield Amount(max(amount.tokens for amount in amounts), known)


def _variants(terms: Sequence[Terms], fallbacks: Fallbacks) -> list[Sequence[Terms]]:
    """Return the terms by seat: those of the seats' agents, then of each one's fallbacks, in order."""
    if not fallbacks:
        return [terms]
    columns = [[own, *others.values()] for own, others in zip(terms, fallbacks, strict=True)]
    return [
        [column[min(n, len(column) - 1)] for column in columns]
        for n in range(max(map(len, columns)))
    ]


def calls(
    requests: Iterable[Planned], terms: Sequence[Terms], remark: str = "", *, larger: bool = False
) -> list[CallBound]:
    """Return what each of `requests` takes at most. The same request to several seats is measured once."""
    known: dict[object, CallBound] = {}
    made = []
    for each in requests:
        asked = terms[each.seat]
        key = id(each.request), *asked[:-1], id(asked.price)
        if key not in known:
            known[key] = asked.call(asked.input_tokens(each.request, remark), larger=larger)
        made.append(known[key])
    return made


def answers_again(
    topic: Topic, seats: Iterable[int], answers: Sequence[Answer], points: Sequence[str]
) -> Iterator[Planned]:
    """Yield the requests of a round for new answers. `points`: the reviews that are shown."""
    shown = labeled(answers)
    is_closed = topic.form.is_closed
    request = (Discuss if is_closed else Revise)(topic, shown, next(iter(shown)), points)
    yield from (Planned("discuss" if is_closed else "revise", seat, request) for seat in seats)


def decision_requests(
    payload: DebateJobPayload, topic: Topic, seats: Iterable[int], answers: Sequence[Answer]
) -> Iterator[Planned]:
    """Yield the requests that follow the rounds: ballots in text form, and those to a judge or chair."""
    if payload.consensus == "none" or payload.is_single or not answers:
        return
    shown = labeled(answers)
    if not topic.form.is_closed:
        ballot = Vote(topic, shown)
        yield from (Planned("vote", seat, ballot) for seat in seats)
    if payload.consensus == "judge":
        ballot = Vote(topic, shown, as_judge=True)
        yield from (Planned("judge", payload.max_seats, ballot, part) for part in (".0", ".1"))
    elif payload.consensus == "synthesis":
        votes = dict.fromkeys(shown, 1)
        request = Synthesize(topic, shown, votes, next(iter(shown)))
        yield Planned("synthesize", payload.max_seats, request)


def labeled(answers: Sequence[Answer]) -> dict[str, Answer]:
    """Return answers under labels of the usual length."""
    return {
        f"{first}{'X' * (labels.LABEL_CHARS - 1)}": answer
        for first, answer in zip(labels.FIRST_LETTERS, answers, strict=False)
    }


def largest_answer(topic: Topic) -> Answer:
    """Return an answer that is as large as any."""
    sizes = {"number": MAX_NUMBER_CHARS, "boolean": len("false"), "schema": MAX_JSON_CHARS}
    longest = max(topic.form.options, key=lambda text: len(text.encode()), default=None)
    verdict = longest or _widest(sizes.get(topic.form.kind, MAX_TEXT_CHARS))
    return Answer(verdict, _widest(topic.max_answer_chars))


def smallest_answer(topic: Topic) -> Answer:
    """Return an answer as voters see it at least."""
    if topic.form.kind == "schema":
        return Answer("x" * SHORTEST_BYTES)
    return shortened(largest_answer(topic), topic, SHORTEST_BYTES)


def shortened(answer: Answer, topic: Topic, max_bytes: int) -> Answer:
    """Return `answer` with at most so many bytes. A verdict of a closed form is not cut: only its reasons."""
    verdict = answer.verdict
    if not topic.form.is_closed:
        verdict = _cut(verdict, max_bytes)
        max_bytes = max(0, max_bytes - len(verdict.encode(errors="replace")) - len("\n\n"))
    return Answer(verdict, _cut(answer.reasons, max_bytes))


def _cut(text: str, max_bytes: int) -> str:
    raw = text.encode(errors="replace")
    if len(raw) <= max_bytes:
        return text
    kept = raw[: max(0, max_bytes - len(ELLIPSIS.encode()))].decode(errors="ignore")
    return f"{kept}{ELLIPSIS}" if kept else ""


def _widest(chars: int) -> str:
    return "\U0001d554" * chars
