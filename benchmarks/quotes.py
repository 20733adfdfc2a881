"""Measure how good quotes are: `python -m benchmarks.quotes [DEBATES …]`, by default after 0, 10, 100, 1,000.

Debates of stub agents run in this process, with a history on a private server. A debate has 2 to 4 seats of
three models, a question of 10 to 1,500 words, and answers of 100 to 400 words. Each model has its price, its
tokens per byte, a length that it writes of what it was asked for, and thinks; both vary by the call, 2 % of the
replies have to be repeated, and chance ends a debate. After so many debates, the same EVALUATED others are
quoted and run, and not learned from. Reported: |expected - cost| / cost (median, and 90 % are below), sum of
expected / sum of costs - 1 (what is wrong with the quote of a file), the share of costs within [least, most].
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from types import MappingProxyType
from typing import Any

from aragora_q.base import Job
from aragora_q.bench import Testbed, find_server
from aragora_q.config.settings import QueueConfig
from aragora_q.context import DetachedAttempt
from aragora_q.executors.debate.estimate import quote_debate
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.prompts import max_input_tokens, prompt_for
from aragora_q.executors.debate.protocol import Debate
from aragora_q.executors.debate.quote import THINKING_TOKENS, Terms
from aragora_q.executors.debate.requests import (
    PLAIN,
    AgentRequest,
    Discuss,
    Manner,
    Propose,
    Reply,
    Review,
    Revise,
    Vote,
)
from aragora_q.gates.call_history import learn, read_history
from aragora_q.history import CallHistory
from aragora_q.job import DebateJobPayload
from aragora_q.redis.connection import Connection
from aragora_q.streams.queue import RedisStreamsQueue

EVALUATED = 200
REPEATED = 0.02
OPTIONS = ["yes", "no", "later"]


@dataclass(frozen=True)
class Style:
    """How a model replies."""

    price: Price
    bytes_per_token: float
    length: float
    """What it writes of the words that it was asked for."""
    thinking_tokens: float
    cached: float
    """Part of the input from the provider's cache, after the first phase."""


STYLES = {
    "stub:terse": Style(Price(1.0, 5.0, 0.1, "stub"), 4.3, 0.4, 0, 0.0),
    "stub:wordy": Style(Price(3.0, 15.0, 0.3, "stub"), 3.9, 1.1, 300, 0.5),
    "stub:thinks": Style(Price(2.0, 10.0, 0.2, "stub"), 4.1, 0.7, 2_500, 0.3),
}


@dataclass
class Case:
    """One debate: its payload, and what chance decides in it."""

    payload: DebateJobPayload
    chance: random.Random
    unlike: bool = field(init=False)
    """The proposals differ."""

    def __post_init__(self) -> None:
        self.unlike = self.chance.random() < 0.7


class StubAgent:
    """A seat in one debate."""

    settings = ""
    own_settings: Mapping[str, Any] = MappingProxyType({})
    provider = account = "stub"
    max_output_tokens, larger_output_tokens = 8_000, 32_000
    call_timeout_seconds = 900.0

    def __init__(self, name: str, case: Case) -> None:
        self.name = self.model = name
        self.price = STYLES[name].price
        self._style = STYLES[name]
        self._case = case

    def digest(self, _: AgentRequest) -> str:
        """Return the same for all requests: debates are not resumed."""
        return ""

    def max_input_tokens(self, request: AgentRequest, manner: Manner = PLAIN) -> int:
        """Return the bound of a model whose provider enforces forms."""
        return max_input_tokens(prompt_for(request), manner.repair, is_tool=False)

    async def reply(
        self, request: AgentRequest, manner: Manner = PLAIN, _: int | None = None
    ) -> Reply:
        """Return a reply of a random length."""
        chance, style = self._case.chance, self._style
        text = json.dumps(self._value(request))
        if chance.random() < REPEATED and not manner.repair:
            text = "no JSON"
        prompt = prompt_for(request)
        assert prompt.form is not None
        sent = prompt.instructions + prompt.text + json.dumps(prompt.form.schema)
        read = round(len(sent) / style.bytes_per_token) + 40
        thinking = style.thinking_tokens * chance.lognormvariate(0, 0.6)
        written = round(len(text) / style.bytes_per_token + thinking)
        cached = 0 if isinstance(request, Propose) else round(read * style.cached)
        usd = self.price.cost_usd(read, written, cached)
        return Reply(text, False, True, None, self.model, read, written, cached, usd)

    def _value(self, request: AgentRequest) -> dict[str, Any]:
        case, topic = self._case, request.topic
        best = next(iter(sorted(request.answers))) if not isinstance(request, Propose) else ""
        answer = {"answer": self._verdict(), "reasons": self._text(topic.max_words)}
        points = {"points": self._text(100), "best": best, "stop": case.chance.random() < 0.75}
        match request:
            case Propose():
                return answer
            case Review():
                return {**points, "same_as": []}
            case Revise():
                return {**answer, "changed": case.chance.random() < 0.3}
            case Discuss():
                return {**points, **answer}
            case Vote():
                return {"reason": self._text(20), "choice": best, "confidence": 70, "same_as": []}
        return {"text": self._text(topic.max_words)}

    def _verdict(self) -> str:
        case = self._case
        if not case.payload.options:
            return self._text(20)
        return case.chance.choice(OPTIONS) if case.unlike else OPTIONS[0]

    def _text(self, words: float) -> str:
        length = words * self._style.length * self._case.chance.lognormvariate(0, 0.3)
        return "words " * max(1, round(length))


class Stubs:
    """The agents of one debate, as the debate looks them up."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def resolve(self, names: object) -> None:
        """Take every name."""

    async def agent(self, name: str, *_: object) -> StubAgent:
        """Return the agent of a seat."""
        return StubAgent(name, self._case)


class Learning(DetachedAttempt):
    """An attempt whose debate is learned from, on the server."""

    def __init__(self, connection: Connection | None) -> None:
        super().__init__()
        self._connection = connection

    async def learn(self, debate: CallHistory) -> None:
        """As a worker does."""
        if self._connection is not None:
            await learn(self._connection, debate)


def new_case(number: int, mode: str) -> Case:
    """Return a debate."""
    chance = random.Random(f"{mode} {number}")
    agents = [chance.choice(list(STYLES)) for _ in range(chance.randint(2, 4))]
    is_closed = chance.random() < 0.3
    return Case(
        DebateJobPayload(
            "words " * round(10 * 150 ** chance.random()),
            agents,
            rounds=2,
            debate=mode,
            max_answer_words=chance.choice([100, 200, 400]),
            **({"answer_form": "choice", "options": OPTIONS} if is_closed else {}),
        ),
        chance,
    )


def terms_of(payload: DebateJobPayload) -> list[Terms]:
    """Return what calls of the stubs take, as for real models."""
    return [
        Terms(model=name, thinking_tokens=THINKING_TOKENS[None], price=STYLES[name].price)
        for name in payload.all_agents
    ]


async def run(case: Case, connection: Connection | None) -> float:
    """Run a debate; return what it cost."""
    job = Job(payload={}, id="j")
    stubs: Any = Stubs(case)
    attempt = Learning(connection)
    debate = Debate(job, case.payload, stubs, attempt, 10_000_000, terms_of(case.payload))
    return (await debate.run()).cost_usd or 0.0


async def measure(mode: str, sizes: list[int], connection: Connection) -> list[str]:
    """Return a line for each size of the history."""
    lines, learned = [], 0
    for size in sizes:
        while learned < size:
            await run(new_case(learned, mode), connection)
            learned += 1
        history = await read_history(connection)
        errors, expected, costs, within = [], 0.0, 0.0, 0
        for number in range(EVALUATED):
            case = new_case(1_000_000 + number, mode)
            quote = quote_debate(case.payload, terms_of(case.payload), history)
            cost = await run(case, None)
            least, usd, most = (
                each.usd or 0.0 for each in (quote.least, quote.expected, quote.most)
            )
            errors.append(abs(usd - cost) / cost)
            expected, costs = expected + usd, costs + cost
            within += least <= cost <= most
        lines.append(
            f"| `{mode}` | {size:,} | {median(errors):.0%} | {quantiles(errors, n=10)[8]:.0%} "
            f"| {expected / costs - 1:+.0%} | {within / EVALUATED:.0%} |"
        )
    return lines


async def main() -> None:
    """Measure both modes."""
    sizes = [int(size) for size in sys.argv[1:]] or [0, 10, 100, 1_000]
    print(
        "| `debate` | debates before | median error | 90 % below | all together | within bounds |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for mode in ("auto", "always"):
        testbed = Testbed(find_server())
        queue = RedisStreamsQueue(QueueConfig(redis_url=testbed.url))
        try:
            async with queue.connection.open_gates() as connection:
                for line in await measure(mode, sizes, connection):
                    print(line, flush=True)
        finally:
            await queue.close()
            testbed.close()


if __name__ == "__main__":
    asyncio.run(main())
