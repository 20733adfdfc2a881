"""One debate, from question to result: propose, then rounds of review and revision, then the vote.

Run by the executor. Labels and orders depend on the job alone, so that a resumed debate is the same
debate. Says what is asked; the asking is `seats.py`'s. Must not know models, prompts or Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from aragora_q import codec as wire
from aragora_q.base import Job
from aragora_q.context import AttemptContext
from aragora_q.errors import AgentUnavailable, PermanentError, RetryLater
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.consensus import Ballot, Decision, decide, stable_hash
from aragora_q.executors.debate.journal import MAX_BYTES, Journal
from aragora_q.executors.debate.participants import Participants, Phase, Value
from aragora_q.executors.debate.prompts import edition
from aragora_q.executors.debate.requests import Propose, Review, Revise, Task, Vote
from aragora_q.job import DebateJobPayload, DebateResult

MAX_ANSWER_BYTES = 8_000
VOTE_AT = 0.8
"""The share of the time after which no new round begins."""
END_EARLY = 0.01
END_EARLY_SECONDS = 0.1
"""How much before its time is up a debate fails, at least: the worker, which began to count a little
earlier, would end the attempt by the same limit, and try again.
"""
LABELS = "ABCDEFGHIJKLMNOP"


class Debate:
    """A debate of `job`. `run` gives its result, or raises what the queue should make of it."""

    def __init__(
        self,
        job: Job,
        payload: DebateJobPayload,
        roster: AgentRegistry,
        attempt: AttemptContext,
        max_result_bytes: int,
    ) -> None:
        self._job = job
        self._payload = payload
        self._roster = roster
        self._attempt = attempt
        self._max_result_bytes = max_result_bytes
        text = wire.encode(payload.to_dict()).decode()
        self._journal = Journal(attempt, stable_hash(text, edition())[:12])
        calls = len(payload.agents) * (2 + 2 * payload.rounds)
        answer_bytes = min(MAX_ANSWER_BYTES, MAX_BYTES // calls)
        self._seats = Participants(
            job, payload.agents, payload.rounds, roster, attempt, self._journal, answer_bytes
        )
        self._answers: dict[int, str] = {}
        self._rounds_used = 0

    async def run(self) -> DebateResult:
        """Debate. Raises PermanentError, RetryLater or AgentUnavailable if it cannot be finished now."""
        await self._journal.open()
        limit = self._payload.timeout_seconds
        left_seconds = None
        if limit is not None:
            left_seconds = (
                limit - max(limit * END_EARLY, END_EARLY_SECONDS) - self._elapsed_seconds()
            )
        try:
            async with asyncio.timeout(left_seconds):
                return self._result(*await self._debate())
        except TimeoutError:
            raise PermanentError(f"no decision within timeout_seconds ({limit})") from None

    async def _debate(self) -> tuple[Decision, dict[int, str]]:
        """The decision, and the answers it was made among."""
        await self._propose()
        for number in range(1, self._payload.rounds + 1):
            if len(self._options()) == 1 or not self._may_open_round(number):
                break
            self._rounds_used = number
            if await self._is_settled_by_review(number):
                break
        options = self._options()
        if self._payload.consensus == "none":
            return Decision(consensus_reached=False, winner=None, confidence=0.0), options
        ballots = await self._vote(options)
        judged = await self._judge(options) if self._payload.consensus == "judge" else ()
        mode, salt = self._payload.consensus, self._job.id
        return decide(mode, ballots, salt=salt, judged=judged), options

    async def _propose(self) -> None:
        tasks = dict.fromkeys(self._seats.live, Propose(self._payload.question))
        await self._take_answers(Phase("propose"), tasks)

    async def _is_settled_by_review(self, number: int) -> bool:
        """One round: review, then revise, unless the reviewers agree that nothing is left to say."""
        labels = self._labels(number, self._answers)
        phase = Phase("review", number)
        reviews = await self._seats.ask_all(
            phase,
            {
                n: Review(self._payload.question, self._shown(labels, phase, n))
                for n in self._seats.live
            },
            labels,
        )
        self._answers = {seat: self._answers[seat] for seat in self._seats.live}
        if _agree(reviews.values()):
            return True
        labels = {label: seat for label, seat in labels.items() if seat in self._answers}
        phase = Phase("revise", number)
        tasks: dict[int, Task] = {}
        for seat in self._seats.live:
            points = [review["points"] for n, review in reviews.items() if review and n != seat]
            own = next(label for label, owner in labels.items() if owner == seat)
            shown = self._shown(labels, phase, seat)
            tasks[seat] = Revise(self._payload.question, shown, own, points)
        await self._take_answers(phase, tasks)
        return False

    async def _take_answers(self, phase: Phase, tasks: Mapping[int, Task]) -> None:
        replies = await self._seats.ask_all(phase, tasks, {})
        self._answers = {seat: reply["text"] for seat, reply in replies.items() if reply}

    async def _vote(self, options: Mapping[int, str]) -> list[Ballot]:
        """One ballot of every seat. Where all hold the same answer, each has said its vote already."""
        if len(options) == 1:
            [choice] = options
            return [self._ballot(seat, {"choice": choice}) for seat in self._seats.live]
        phase, labels = Phase("vote"), self._labels(0, options)
        tasks = {
            n: Vote(self._payload.question, self._shown(labels, phase, n)) for n in self._seats.live
        }
        votes = await self._seats.ask_all(phase, tasks, labels)
        return [self._ballot(seat, vote) for seat, vote in votes.items()]

    def _ballot(self, seat: int, vote: Value | None) -> Ballot:
        weight = self._payload.weights.get(self._payload.agents[seat], 1.0)
        if vote is None:
            return Ballot(None, weight=weight)
        return Ballot(vote["choice"], vote.get("confidence", 0), weight)

    async def _judge(self, options: Mapping[int, str]) -> list[int | None]:
        """The judge's picks with the answers in one order and in the other; empty without a judge."""
        name = self._payload.judge or self._payload.agents[0]
        labels = self._labels(0, options)
        shown = self._shown(labels, Phase("judge"), len(self._payload.agents))
        picks: list[int | None] = []
        for n, answers in enumerate((shown, dict(reversed(shown.items())))):
            task = Vote(self._payload.question, answers, as_judge=True)
            try:
                agent = await self._roster.agent(name, 0)
                ruling = await self._seats.ask(f"judge.{n}", agent, task, labels)
            except (PermanentError, RetryLater, AgentUnavailable) as error:
                if not (isinstance(error, PermanentError) or self._attempt.is_last_attempt):
                    raise
                self._seats.troubles.append(f"judge {name}, so that the agents decide: {error}")
                return []
            picks.append(ruling["choice"] if ruling else None)
        return picks

    def _may_open_round(self, number: int) -> bool:
        """Whether time and budgets allow another round and the vote. One that was begun goes on."""
        if self._journal.has_begun(f"r{number}."):
            return True
        if self._journal.has_begun("vote"):
            return False
        limit = self._payload.timeout_seconds
        if limit is not None and self._elapsed_seconds() > limit * VOTE_AT:
            return False
        tokens, usd = self._journal.tokens(), self._journal.cost_usd()
        return self._fits(tokens, self._payload.max_tokens) and self._fits(
            usd, self._payload.max_cost_usd
        )

    def _fits(self, used: float, budget: float | None) -> bool:
        """Whether a round and the vote, at the calls' average so far, stay within the budget."""
        calls_ahead = 3 * len(self._seats.live)
        return budget is None or used + used / len(self._journal) * calls_ahead <= budget

    def _options(self) -> dict[int, str]:
        """The different answers, each under the first seat that holds it."""
        options: dict[str, int] = {}
        for seat, text in sorted(self._answers.items()):
            options.setdefault(_normalize(text), seat)
        return {seat: self._answers[seat] for seat in options.values()}

    def _labels(self, number: int, answers: Iterable[int]) -> dict[str, int]:
        """Labels for a round's answers, the same for all readers, so that reviews can name them."""
        shuffled = sorted(answers, key=lambda n: stable_hash(self._job.id, "label", number, n))
        return dict(zip(LABELS, shuffled, strict=False))

    def _shown(self, labels: Mapping[str, int], phase: Phase, reader: int) -> dict[str, str]:
        """The answers under their labels, in an order of the reader's own: no place is the best."""
        order = sorted(labels, key=lambda label: stable_hash(self._job.id, phase, reader, label))
        return {label: self._answers[labels[label]] for label in order}

    def _elapsed_seconds(self) -> float:
        return time.time() - self._journal.started_at

    def _result(self, decision: Decision, options: Mapping[int, str]) -> DebateResult:
        names = self._payload.agents
        if decision.winner is not None:
            answer = options[decision.winner]
        elif self._payload.consensus == "none":
            answer = "\n\n".join(f"{names[seat]}: {text}" for seat, text in options.items())
        else:
            answer = None
        troubles = list(self._seats.troubles)
        transcript = self._seats.transcript if self._payload.transcript else None
        if transcript and len(wire.encode(transcript)) > self._max_result_bytes // 2:
            transcript = None
            troubles.append("transcript left out: larger than half of max_result_bytes")
        return DebateResult(
            debate_id=self._job.id,
            consensus_reached=decision.consensus_reached,
            final_answer=answer,
            confidence=round(decision.confidence, 4),
            rounds_used=self._rounds_used,
            participants=[names[seat] for seat in self._seats.live],
            duration_seconds=round(self._elapsed_seconds(), 3),
            token_usage=self._journal.usage(),
            error="; ".join(troubles) or None,
            transcript=transcript,
        )


def _agree(reviews: Iterable[Value | None]) -> bool:
    """Whether all reviewers name the same answer as the best, and none sees use in another round."""
    found: list[Any] = [(review["best"], review["stop"]) if review else None for review in reviews]
    return len(set(found)) == 1 and found[0] is not None and found[0][1]


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")
