"""Measure debates of scripted agents through the real engine, for the tables of docs/debates.md.

No model is called: agents reply by a rule, and tokens are characters of real prompts divided by 4. So the
figures say what the protocol costs and how fair it is, not how good models are.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import permutations
from typing import Any

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import AgentConfig
from aragora_q.context import DetachedAttempt
from aragora_q.errors import PermanentError
from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.prices import FREE
from aragora_q.executors.debate.prompts import prompt_for
from aragora_q.executors.debate.protocol import Debate
from aragora_q.executors.debate.quote import Terms
from aragora_q.executors.debate.requests import (
    PLAIN,
    AgentRequest,
    Discuss,
    Manner,
    Reply,
    Review,
    Revise,
    Vote,
)
from aragora_q.job import DebateJobPayload

QUESTION = "Which database should a small team start with, and why? " * 4
REASONS = "It is the simplest one that does the job, and its faults are well known. " * 12
OPTIONS = [f"{letter}) option {letter}" for letter in "ABCD"]
CHARS_PER_TOKEN = 4
ARRANGEMENTS = 36

Choose = Callable[[AgentRequest], str]
"""How a voter picks a label."""


class Scripted:
    """An agent with an opinion.

    `moves_to` is the verdict that it takes over in the first round; `votes` picks its label, by default that
    of its own verdict.
    """

    def __init__(
        self, verdict: str, moves_to: str | None = None, votes: Choose | None = None
    ) -> None:
        self.name = self.model = self.settings = "scripted"
        self.own_settings: Mapping[str, Any] = {}
        self.provider = self.account = "scripted"
        self.price = FREE
        self.max_output_tokens, self.larger_output_tokens = 8_000, 32_000
        self.call_timeout_seconds = 900.0
        self.verdict = verdict
        self._moves_to = moves_to or verdict
        self._votes = votes

    def digest(self, request: AgentRequest) -> str:
        return stable_hash(repr(request))

    def max_input_tokens(self, request: AgentRequest, manner: Manner = PLAIN) -> int:  # noqa: ARG002 - as `Agent`
        return len(prompt_for(request).text) // CHARS_PER_TOKEN

    async def reply(
        self,
        request: AgentRequest,
        manner: Manner = PLAIN,  # noqa: ARG002 - as `Agent`
        max_output_tokens: int | None = None,  # noqa: ARG002 - likewise
    ) -> Reply:
        value: dict[str, Any] = {"answer": self.verdict, "reasons": REASONS}
        if isinstance(request, Revise | Discuss):
            value |= {"answer": self._moves_to, "changed": self._moves_to != self.verdict}
            self.verdict = self._moves_to
        if isinstance(request, Review | Discuss):
            value |= {"points": REASONS[:400], "best": self._label(request), "stop": False}
        if isinstance(request, Vote):
            value = {"reason": "It is best.", "choice": self._label(request), "confidence": 70}
        value["same_as"] = []
        prompt, text = prompt_for(request), json.dumps(value)
        prompt_chars = len(prompt.instructions) + len(prompt.text)
        return Reply(text, input_tokens=prompt_chars // CHARS_PER_TOKEN,
                     output_tokens=len(text) // CHARS_PER_TOKEN, cost_usd=0.0)  # fmt: skip

    def _label(self, request: AgentRequest) -> str:
        if self._votes:
            return self._votes(request)
        answers: Mapping[str, Any] = getattr(request, "answers", {})
        return next(
            (n for n, each in answers.items() if each.verdict == self.verdict), min(answers)
        )


class Registry:
    """Agents by seat."""

    config = QueueConfig(
        agents={"scripted": AgentConfig(model="openai-chat:scripted", max_tokens=1_000)}
    )

    def __init__(self, agents: Iterable[Scripted]) -> None:
        self._agents = list(agents)

    def resolve(self, names: Iterable[str]) -> None:
        """Accept all names."""

    async def agent(self, name: str, seat: int, *_: object) -> Scripted:  # noqa: ARG002 - as the registry
        return self._agents[seat]


def hold(
    agents: Iterable[Scripted], nonce: str = "c0ffee11", **fields: Any
) -> dict[str, Any] | None:
    """Run one debate and return its result; None if no seat could vote."""
    agents = list(agents)
    payload = DebateJobPayload.from_dict(
        {"question": QUESTION, "agents": ["scripted"] * len(agents), **fields}
    )
    attempt = DetachedAttempt()
    registry: Any = Registry(agents)

    async def run() -> dict[str, Any] | None:
        begun = {"at": 0.0, "nonce": nonce, "version": "", "prompt_version": ""}
        await attempt.checkpoint("begun", begun)
        try:
            job = Job({}, id="figures")
            debate = Debate(
                job, payload, registry, attempt, 1 << 20, [Terms(price=FREE)] * len(agents)
            )
            return (await debate.run()).to_dict()
        except PermanentError:
            return None

    return asyncio.run(run())


def opinions(seats: int, kind: str) -> list[Scripted]:
    """Return agents that agree at once, converge in the first round, or keep to their opinions."""
    verdicts = [OPTIONS[0]] * seats if kind == "agree" else [OPTIONS[n % 3] for n in range(seats)]
    target = OPTIONS[0] if kind == "converge" else None
    return [Scripted(verdict, target) for verdict in verdicts]


def calls_table() -> list[str]:
    """Return calls and tokens per debate, by seats, answer form and `debate`."""
    rows = [
        "| seats | answer form | `debate` | agree at once | converge in round 1 | never agree |",
        "|---|---|---|---|---|---|",
    ]
    for seats in (3, 5, 8):
        for form in ({}, {"answer_form": "choice", "options": OPTIONS}):
            for mode in ("auto", "always", "never"):
                cells = []
                for kind in ("agree", "converge", "hold"):
                    result = hold(opinions(seats, kind), debate=mode, rounds=3, **form)
                    assert result is not None
                    usage = result["token_usage"]
                    tokens = usage["input_tokens"] + usage["output_tokens"]
                    cells.append(f"{usage['requests']} calls, {tokens / 1000:.1f}k")
                name = "choice" if form else "text"
                rows.append(f"| {seats} | {name} | `{mode}` | {' | '.join(cells)} |")
    return rows


def bias_table() -> list[str]:
    """Return how often biased voters elect an answer by its place, its label or its author."""
    first: Choose = lambda request: next(iter(request.answers))  # type: ignore[union-attr]  # noqa: E731
    lowest: Choose = lambda request: min(request.answers)  # type: ignore[union-attr]  # noqa: E731
    rows = [
        "| three voters that always vote for … | votes for seat 1, 2, 3 | own answer | ends in a consensus |",
        "|---|---|---|---|",
    ]
    verdicts = ("use one", "take two", "try three")
    for name, choose in (
        ("the first answer shown", first),
        ("the alphabetically first label", lowest),
    ):
        by_seat: Counter[int] = Counter()
        own = agreed = 0
        for n in range(ARRANGEMENTS):
            order = list(permutations(verdicts))[n % 6]
            result = hold(
                [Scripted(verdict, votes=choose) for verdict in order],
                nonce=stable_hash(n)[:8], rounds=0,
            )  # fmt: skip
            assert result is not None
            for vote in result["votes"]:
                by_seat.update(result["groups"][vote["group"]]["seats"])
            own += sum(vote["self"] for vote in result["votes"])
            agreed += result["consensus_reached"]
        votes = 3 * ARRANGEMENTS
        shares = ", ".join(f"{by_seat[seat] / votes:.0%}" for seat in range(3))
        rows.append(f"| {name} | {shares} | {own / votes:.0%} | {agreed / ARRANGEMENTS:.0%} |")
    return rows


def choice_table() -> list[str]:
    """Return how multiple-choice questions end whose voters write an option instead of a label."""
    rows = [
        "| three voters that all mean option B | right | unanimous and wrong | fails, and says why |",
        "|---|---|---|---|",
    ]
    right = OPTIONS[1]
    writes_b: Choose = lambda request: "B"  # noqa: ARG005, E731
    cases: dict[str, tuple[Callable[[], list[Scripted]], dict[str, Any]]] = {
        "text, voters write `B`": (
            lambda: [Scripted(option, votes=writes_b) for option in OPTIONS[:3]], {"rounds": 0},
        ),
        "text, voters write labels": (
            lambda: [
                Scripted(option, votes=lambda request: _label_of(request, right))
                for option in OPTIONS[:3]
            ],
            {"rounds": 0},
        ),
        "`answer_form: choice`": (
            lambda: [Scripted(right) for _ in range(3)],
            {"answer_form": "choice", "options": OPTIONS},
        ),
    }  # fmt: skip
    for name, (agents, fields) in cases.items():
        outcomes: Counter[str] = Counter()
        for n in range(100):
            result = hold(agents(), nonce=stable_hash(name, n)[:8], **fields)
            if result is None:
                outcomes["fails"] += 1
            elif result["verdict"] == right:
                outcomes["right"] += 1
            elif result["confidence"] == 1:
                outcomes["wrong"] += 1
        cells = [f"{outcomes[kind]}%" for kind in ("right", "wrong", "fails")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _label_of(request: AgentRequest, verdict: str) -> str:
    answers: Mapping[str, Any] = getattr(request, "answers", {})
    return next(label for label, each in answers.items() if each.verdict == verdict)


def budget_table() -> list[str]:
    """Return what budgets of tokens end, and how much of them is used."""
    rows = [
        "| seats | `max_tokens` | used | rounds | `ended_by` |",
        "|---|---|---|---|---|",
    ]
    for seats, budgets in (
        (3, (10_000, 30_000, 60_000, 200_000)),
        (8, (40_000, 120_000, 400_000)),
        (16, (150_000, 1_000_000)),
    ):
        for budget in budgets:
            result = hold(opinions(seats, "hold"), debate="always", rounds=3, max_tokens=budget)
            assert result is not None
            usage = result["token_usage"]
            tokens = usage["input_tokens"] + usage["output_tokens"]
            rows.append(
                f"| {seats} | {budget:,} | {tokens:,} ({tokens / budget:.0%}) "
                f"| {result['rounds_used']} | `{result['ended_by']}` |"
            )
    return rows


TABLES = {
    "calls": calls_table,
    "bias": bias_table,
    "choice": choice_table,
    "budgets": budget_table,
}


@cache
def _measured(name: str) -> str:
    return "\n".join(TABLES[name]())


def page(text: str) -> str:
    """Return docs/debates.md with its tables measured again."""
    for name in TABLES:
        text = replaced(text, name, _measured(name))
    return text


def replaced(text: str, name: str, lines: str) -> str:
    """Return a page with other lines between its marks `<!-- NAME -->` and `<!-- end of NAME -->`."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (found and has_end):
        raise SystemExit(f"a page has no lines {begin.strip()} and {end}")
    return f"{before}{begin}\n{lines}\n\n{end}{after}"


if __name__ == "__main__":
    for measure in TABLES.values():
        print("\n".join(measure()), end="\n\n")  # noqa: T201
