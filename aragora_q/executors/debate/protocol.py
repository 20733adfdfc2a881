"""One debate, from question to result: proposals, rounds of review and revision, then the vote.

Run by the executor. Labels and orders are computed from the job, so a resumed debate is the same
debate. This module decides what to ask; `participants.py` asks. Must not know models, prompts or Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aragora_q import codec
from aragora_q.base import Job
from aragora_q.context import AttemptContext
from aragora_q.errors import AgentUnavailable, PermanentError, RetryLater
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.consensus import Ballot, Decision, decide, stable_hash
from aragora_q.executors.debate.journal import MAX_BYTES, Journal
from aragora_q.executors.debate.participants import Participants, Phase, StoredReply
from aragora_q.executors.debate.prompt_version import prompt_version
from aragora_q.executors.debate.requests import AgentRequest, Propose, Review, Revise, Vote
from aragora_q.job import DebateJobPayload, DebateResult

MAX_ANSWER_BYTES = 8_000

LAST_ROUND_START = 0.8
"""Share of `timeout_seconds` after which no new round starts."""

TIMEOUT_MARGIN = 0.01
MIN_TIMEOUT_MARGIN_SECONDS = 0.1
"""A debate fails this much before its timeout. The worker enforces the same timeout, started its clock
slightly earlier, and would retry the job instead of failing it.
"""

LABELS = "ABCDEFGHIJKLMNOP"


class Debate:
    """The debate of one job. Create one per attempt and call `run` once."""

    def __init__(
        self,
        job: Job,
        payload: DebateJobPayload,
        registry: AgentRegistry,
        attempt: AttemptContext,
        max_result_bytes: int,
    ) -> None:
        self._job = job
        self._payload = payload
        self._registry = registry
        self._attempt = attempt
        self._max_result_bytes = max_result_bytes
        text = codec.encode(payload.to_dict()).decode()
        version = stable_hash(text, prompt_version())[:12]
        self._journal = Journal(attempt, version, job.started_at)
        calls = len(payload.agents) * (2 + 2 * payload.rounds)
        max_answer_bytes = min(MAX_ANSWER_BYTES, MAX_BYTES // calls)
        self._participants = Participants(
            job, payload, registry, attempt, self._journal, max_answer_bytes
        )
        self._answers: dict[int, str] = {}
        self._rounds_used = 0

    async def run(self) -> DebateResult:
        """Run the debate, or resume it where an earlier attempt stopped, and return its result.

        Raises:
            PermanentError: too few agents are left, or `timeout_seconds` passed.
            RetryLater, AgentUnavailable: an agent's fault may be temporary; finished calls are kept.

        """
        await self._journal.open()
        try:
            async with asyncio.timeout(self._remaining_seconds()):
                return self._result(*await self._debate())
        except TimeoutError:
            limit = self._payload.timeout_seconds
            raise PermanentError(f"no decision within timeout_seconds ({limit})") from None

    def _remaining_seconds(self) -> float | None:
        limit = self._payload.timeout_seconds
        if limit is None:
            return None
        margin = max(limit * TIMEOUT_MARGIN, MIN_TIMEOUT_MARGIN_SECONDS)
        return limit - margin - self._journal.elapsed_seconds()

    async def _debate(self) -> tuple[Decision, dict[int, str]]:
        """Return the decision and the different answers that were voted on."""
        requests = dict.fromkeys(self._participants.active, Propose(self._payload.question))
        await self._collect_answers(Phase("propose"), requests)
        for number in range(1, self._payload.rounds + 1):
            if len(self._options()) == 1 or not self._may_open_round(number):
                break
            self._rounds_used = number
            if await self._is_settled_by_review(number):
                break
        options = self._options()
        if self._payload.consensus == "none":
            return Decision(), options
        ballots = await self._vote(options)
        judged = await self._judge(options) if self._payload.consensus == "judge" else ()
        mode, salt = self._payload.consensus, self._job.id
        return decide(mode, ballots, salt=salt, judged=judged), options

    async def _is_settled_by_review(self, number: int) -> bool:
        """Run one round; return True if the reviewers agree and nothing is to be revised."""
        labels = self._labels(number, self._answers)
        reviews = await self._ask_about_answers(Review, Phase("review", number), labels)
        self._answers = {seat: self._answers[seat] for seat in self._participants.active}
        if _agree(reviews.values()):
            return True
        labels = {label: seat for label, seat in labels.items() if seat in self._answers}
        await self._revise(number, labels, reviews)
        return False

    async def _ask_about_answers(
        self, kind: type[Review | Vote], phase: Phase, labels: Mapping[str, int]
    ) -> dict[int, StoredReply | None]:
        """Show every seat the labeled answers in a different order and return the replies."""
        requests = {
            seat: kind(self._payload.question, self._labeled_answers(labels, phase, seat))
            for seat in self._participants.active
        }
        return await self._participants.ask_all(phase, requests, labels)

    async def _revise(
        self, number: int, labels: Mapping[str, int], reviews: Mapping[int, StoredReply | None]
    ) -> None:
        phase = Phase("revise", number)
        requests: dict[int, AgentRequest] = {}
        for seat in self._participants.active:
            points = [review["points"] for n, review in reviews.items() if review and n != seat]
            own = next(label for label, owner in labels.items() if owner == seat)
            answers = self._labeled_answers(labels, phase, seat)
            requests[seat] = Revise(self._payload.question, answers, own, points)
        await self._collect_answers(phase, requests)

    async def _collect_answers(self, phase: Phase, requests: Mapping[int, AgentRequest]) -> None:
        replies = await self._participants.ask_all(phase, requests, {})
        self._answers = {seat: reply["text"] for seat, reply in replies.items() if reply}

    async def _vote(self, options: Mapping[int, str]) -> list[Ballot]:
        """Return one ballot per seat. No agent is asked if there is only one answer to vote for."""
        if len(options) == 1:
            [choice] = options
            return [self._ballot(seat, {"choice": choice}) for seat in self._participants.active]
        votes = await self._ask_about_answers(Vote, Phase("vote"), self._labels(0, options))
        return [self._ballot(seat, vote) for seat, vote in votes.items()]

    def _ballot(self, seat: int, vote: StoredReply | None) -> Ballot:
        weight = self._payload.weights.get(self._payload.agents[seat], 1.0)
        if vote is None:
            return Ballot(None, weight=weight)
        return Ballot(vote["choice"], vote.get("confidence", 0), weight)

    async def _judge(self, options: Mapping[int, str]) -> list[int | None]:
        """Return the judge's choices with the answers in one order and in the reverse order.

        Empty if the judge failed: permanently, or in any way on the last attempt.
        """
        name = self._payload.judge or self._payload.agents[0]
        labels = self._labels(0, options)
        answers = self._labeled_answers(labels, Phase("judge"), len(self._payload.agents))
        choices: list[int | None] = []
        for n, ordered in enumerate((answers, dict(reversed(answers.items())))):
            request = Vote(self._payload.question, ordered, as_judge=True)
            try:
                agent = await self._registry.agent(name, 0)
                vote = await self._participants.ask(f"judge.{n}", agent, request, labels)
            except (PermanentError, RetryLater, AgentUnavailable) as error:
                if not (isinstance(error, PermanentError) or self._attempt.is_last_attempt):
                    raise
                self._participants.dropouts.append(
                    f"judge {name} failed, so the agents' votes decide: {error}"
                )
                return []
            choices.append(vote["choice"] if vote else None)
        return choices

    def _may_open_round(self, number: int) -> bool:
        """Return True if time and budgets allow another round and the vote. A round begun before goes on."""
        if self._journal.has_begun(f"r{number}."):
            return True
        if self._journal.has_begun("vote"):
            return False
        limit = self._payload.timeout_seconds
        if limit is not None and self._journal.elapsed_seconds() > limit * LAST_ROUND_START:
            return False
        return self._fits(self._journal.tokens(), self._payload.max_tokens) and self._fits(
            self._journal.cost_usd(), self._payload.max_cost_usd
        )

    def _fits(self, used: float, budget: float | None) -> bool:
        """Return True if a round and the vote, at the average of the calls so far, stay within `budget`."""
        calls_ahead = 3 * len(self._participants.active)
        return budget is None or used + used / len(self._journal) * calls_ahead <= budget

    def _options(self) -> dict[int, str]:
        """Return the different answers, each under the first seat that gave it."""
        options: dict[str, int] = {}
        for seat, text in sorted(self._answers.items()):
            options.setdefault(_normalize(text), seat)
        return {seat: self._answers[seat] for seat in options.values()}

    def _labels(self, number: int, seats: Iterable[int]) -> dict[str, int]:
        """Return the labels of a round's answers: the same for all readers, so that reviews can use them."""
        shuffled = sorted(seats, key=lambda seat: stable_hash(self._job.id, "label", number, seat))
        return dict(zip(LABELS, shuffled, strict=False))

    def _labeled_answers(
        self, labels: Mapping[str, int], phase: Phase, reader: int
    ) -> dict[str, str]:
        """Return the answers by label. The order depends on the reader, so that no answer is always first."""
        order = sorted(labels, key=lambda label: stable_hash(self._job.id, phase, reader, label))
        return {label: self._answers[labels[label]] for label in order}

    def _result(self, decision: Decision, options: Mapping[int, str]) -> DebateResult:
        names = self._payload.agents
        errors = list(self._participants.dropouts)
        transcript = self._participants.transcript if self._payload.transcript else None
        if transcript and len(codec.encode(transcript)) > self._max_result_bytes // 2:
            transcript = None
            errors.append("transcript left out: larger than half of max_result_bytes")
        return DebateResult(
            debate_id=self._job.id,
            consensus_reached=decision.consensus_reached,
            final_answer=self._final_answer(decision, options),
            confidence=round(decision.confidence, 4),
            rounds_used=self._rounds_used,
            participants=[names[seat] for seat in self._participants.active],
            duration_seconds=round(self._journal.elapsed_seconds(), 3),
            token_usage=self._journal.usage(),
            error="; ".join(errors) or None,
            transcript=transcript,
        )

    def _final_answer(self, decision: Decision, options: Mapping[int, str]) -> str | None:
        """Return the winning answer; in mode `none` all answers with their agents' names."""
        if decision.winner is not None:
            return options[decision.winner]
        if self._payload.consensus == "none":
            names = self._payload.agents
            return "\n\n".join(f"{names[seat]}: {text}" for seat, text in options.items())
        return None


def _agree(reviews: Iterable[StoredReply | None]) -> bool:
    """Return True if all reviewers name the same best answer and none wants another round."""
    verdicts: list[Any] = [
        (review["best"], review["stop"]) if review else None for review in reviews
    ]
    return len(set(verdicts)) == 1 and verdicts[0] is not None and verdicts[0][1]


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")
