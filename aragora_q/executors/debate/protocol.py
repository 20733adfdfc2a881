"""One debate, from question to result: proposals, rounds of review and revision, then the vote.

Run by the executor. Labels and orders follow from the job and a nonce in its journal, so a resumed debate
is the same debate. This module decides what to ask next and when to stop; `participants.py` asks,
`vote.py` votes, `outcome.py` writes the result. Must not know models, prompts or Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aragora_q._version import __version__
from aragora_q.base import Job
from aragora_q.context import AttemptContext
from aragora_q.errors import AgentUnavailable, HoldJob, PermanentError, RetryLater
from aragora_q.executors.debate import labels, quote
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.answers import Answers, SeatsByLabel, label_of
from aragora_q.executors.debate.calls import CallBook
from aragora_q.executors.debate.estimate import expected_usd
from aragora_q.executors.debate.journal import Entry, Journal
from aragora_q.executors.debate.lesson import lesson_of
from aragora_q.executors.debate.limits import Limits, Plan
from aragora_q.executors.debate.outcome import Outcome
from aragora_q.executors.debate.participants import Participants, Phase
from aragora_q.executors.debate.prompt_version import prompt_version
from aragora_q.executors.debate.quote import Fallbacks, Planned, Terms
from aragora_q.executors.debate.replies import Value
from aragora_q.executors.debate.requests import Answer, Discuss, Propose, Review, Revise, Topic
from aragora_q.executors.debate.vote import Election
from aragora_q.job import DebateJobPayload, DebateResult

DECISION_SHARE = 0.05
MIN_DECISION_SECONDS = 0.3
"""Part of `timeout_seconds` that is kept to decide with the votes that are there, before the worker's own
limit. At most half of it.
"""

LEAD_SECONDS = 10.0
LEAD_SHARE = 0.05
"""How long proposals wait for the first one of their model, which fills its provider's cache: at most this
share of `timeout_seconds`. The provider has read the prompt by then, though it may still answer.
"""


class Debate:
    """The debate of one job. Create one per attempt and call `run` once.

    `terms` are those of all agents of the payload.
    """

    def __init__(
        self,
        job: Job,
        payload: DebateJobPayload,
        registry: AgentRegistry,
        attempt: AttemptContext,
        max_result_bytes: int,
        terms: Sequence[Terms],
        fallbacks: Fallbacks = (),
    ) -> None:
        self._job = job
        self._payload = payload
        self._registry = registry
        self._attempt = attempt
        self._max_result_bytes = max_result_bytes
        self._journal = Journal(attempt, job.started_at)
        self._terms = terms
        self._fallbacks = fallbacks or [{}] * len(terms)
        self._limits = Limits(payload, terms, self._journal, self._fallbacks)
        self._floor = quote.floor(payload, terms)
        self._calls = CallBook(
            attempt,
            self._journal,
            self._limits,
            max_tokens=payload.max_tokens,
            max_cost_usd=payload.max_cost_usd,
            least_usd=self._floor.usd,
        )

    async def run(self) -> DebateResult:
        """Run the debate, or resume it where an earlier attempt stopped, and return its result.

        When `timeout_seconds` is nearly up, the debate decides with the replies that are there.

        Raises:
            InvalidPayload: an agent or the judge is unknown, or a limit is below what any debate needs.
                Found before the first call.
            PermanentError: too few agents are left, or no seat could vote. It has the answers and what they
                cost as its partial result, and a requeued job continues where the debate ended.
            RetryLater, AgentUnavailable: an agent's fault may be temporary; finished calls are kept.
            HoldJob: a budget has no room, or a provider takes no calls until someone acts.

        """
        self._registry.resolve(self._payload.all_agents)
        await self._journal.open(self._begin)
        await self._calls.settle_again()
        if self._payload.has_budget and not any(self._journal.ledger()):
            quote.check_budget(self._payload, self._terms, self._floor)
        topic = Topic.of(self._payload, self._journal.begun["nonce"])
        result = await self._hold(topic)
        await self._attempt.learn(lesson_of(self._payload, topic, self._journal, result))
        return result

    async def _hold(self, topic: Topic) -> DebateResult:
        if not self._journal.find_note("life/time_up"):
            try:
                async with self._attempt.waits.timeout(self._remaining_seconds()) as deadline:
                    return await self._debate(topic, is_closing=False)
            except (RetryLater, AgentUnavailable, HoldJob):
                await self._journal.note_running()  # this attempt's time counts, too
                raise
            except TimeoutError:
                if not deadline.expired():
                    raise
            await self._journal.save()  # replies that were being stored as time ran out
            await self._journal.note("life/time_up", {"at": self._journal.now()})
        return await self._debate(topic, is_closing=True)

    async def _begin(self) -> dict[str, Any]:
        payload = self._payload
        history = await self._attempt.call_history()
        material = (payload.question, *payload.options, str(payload.answer_form))
        return {
            "nonce": labels.draw_nonce(*material),
            "version": __version__,
            "prompt_version": prompt_version(),
            "quote_usd": expected_usd(payload, self._terms, history),
        }

    def _remaining_seconds(self) -> float | None:
        limit = self._payload.timeout_seconds
        if limit is None:
            return None
        kept = min(max(limit * DECISION_SHARE, MIN_DECISION_SECONDS), limit / 2)
        return limit - kept - self._journal.running_seconds()

    async def _debate(self, topic: Topic, *, is_closing: bool) -> DebateResult:
        """Run the debate from its first phase; finished calls come from the journal.

        With `is_closing`, nothing else is asked: it decides with what is there.
        """
        payload = self._payload
        seats = Participants(
            self._job,
            list(zip(payload.all_agents, self._fallbacks, strict=True)),
            self._registry,
            self._attempt,
            self._journal,
            self._calls,
            rounds=payload.max_rounds,
            is_strict=payload.resume == "strict",
            is_closing=is_closing,
        )
        rounds = Rounds(payload, topic, seats, self._limits)
        try:
            await rounds.hold()
            outcome = self._outcome(topic, seats, rounds)
            if payload.consensus != "none":
                await self._vote(topic, seats, rounds, outcome)
            return await self._result(outcome, seats.why_incomplete)
        except PermanentError as error:
            if any(_has_taken(entry) for entry in self._journal.ledger()):
                outcome = self._outcome(topic, seats, rounds)
                outcome.count(rounds.answers.groups([]), {})
                error.partial_result = (await self._write(outcome)).to_dict()
            raise

    async def _vote(
        self,
        topic: Topic,
        seats: Participants,
        rounds: Rounds,
        outcome: Outcome,
    ) -> None:
        is_settled = bool(rounds.reviews) and rounds.ended_by == "agreement"
        election = Election(
            self._payload,
            topic,
            seats,
            rounds.answers,
            rounds.reviews,
            self._limits,
            are_decisive=is_settled,
        )
        await election.hold(outcome)
        if outcome.decision.winner is None:
            raise PermanentError(
                f"no seat could vote: {outcome.reasons_not_to_vote()}",
                hint="requeue continues where the debate ended",
            )

    async def _result(self, outcome: Outcome, why: str) -> DebateResult:
        result = await self._write(outcome)
        if result.final_answer is None:
            raise PermanentError(f"no seat has answered: {why}")
        return result

    async def _write(self, outcome: Outcome) -> DebateResult:
        # In a thread: it looks for flags in every text of the debate.
        return await asyncio.to_thread(outcome.result, self._max_result_bytes)

    def _outcome(self, topic: Topic, seats: Participants, rounds: Rounds) -> Outcome:
        outcome = Outcome(self._job.id, self._payload, topic, self._journal, seats, rounds.answers)
        outcome.rounds_used, outcome.ended_by = rounds.used, rounds.ended_by
        return outcome


class Rounds:
    """Proposals and rounds: what the seats answer before the vote."""

    def __init__(
        self, payload: DebateJobPayload, topic: Topic, seats: Participants, limits: Limits
    ) -> None:
        self.answers = Answers(topic)
        self.reviews: dict[int, Value] = {}
        """The reviews of the current answers, by seat: empty if answers have changed since."""
        self.used = 0
        self.ended_by: str | None = None
        """Why there was no further round; None: they are not over."""
        self._payload = payload
        self._topic = topic
        self._seats = seats
        self._limits = limits
        self._is_auto = payload.debate == "auto" and not payload.is_single

    async def hold(self) -> None:
        """Ask for proposals, then hold the rounds that the payload and its limits allow."""
        seats = range(len(self._payload.agents))
        await self._limits.reserve("propose", lambda _: self._plan_of_proposals(seats))
        await self._propose(seats)
        hold_round = self._discuss if self._topic.form.is_closed else self._review_and_revise
        for number in range(1, self._payload.max_rounds + 1):
            if reason := self._reason_to_end() or await hold_round(number):
                self.ended_by = reason
                return
        self.ended_by = self._reason_to_end() or "rounds"

    def _reason_to_end(self) -> str | None:
        if self._seats.incomplete:
            return self._seats.incomplete
        return "agreement" if self._is_auto and self.answers.have_one_verdict() else None

    async def _propose(self, seats: Sequence[int]) -> None:
        self._seats.join(seats)
        phase, request = Phase("propose"), Propose(self._topic)
        await self._seats.ask_all(
            phase,
            dict.fromkeys(seats, request),
            take=self.answers.propose,
            lead_seconds=self._lead_seconds() if self._topic.shares_prefix else 0.0,
        )
        if not self._seats.incomplete:
            await self._seats.require(phase, self.answers.by_seat)

    def _lead_seconds(self) -> float:
        limit = self._payload.timeout_seconds
        return LEAD_SECONDS if limit is None else min(LEAD_SECONDS, limit * LEAD_SHARE)

    def _joining(self, number: int) -> Sequence[int]:
        """Return the seats that join in a round: further agents, once, if the first ones disagree."""
        if number == 1 and not self.answers.have_one_verdict():
            return range(len(self._payload.agents), self._payload.max_seats)
        return ()

    async def _review_and_revise(self, number: int) -> str | None:
        """Hold a round in text form; return why it is the last one, if it is."""
        phase = Phase("review", number)
        if reason := await self._limit_before(
            str(phase), lambda _: self._plan_of_reviews(phase), begins_round=True
        ):
            return reason
        self.used = number
        names = self._draw_labels()
        requests = {
            seat: Review(self._topic, self.answers.labeled(names, str(phase), seat))
            for seat in self._seats.active
        }
        self.reviews = await self._ask(phase, requests, names)
        if self._seats.incomplete:
            return self._seats.incomplete
        if self._is_auto and self._is_settled_by_reviews():
            return "agreement"
        reviewers = list(self.answers.by_seat)
        if joining := self._joining(number):
            if reason := await self._limit_before(
                "escalation", lambda _: self._plan_of_proposals(joining, reviewers)
            ):
                return reason
            await self._propose(joining)
        return await self._revise(Phase("revise", number), reviewers, names)

    async def _revise(
        self, phase: Phase, reviewers: Sequence[int], names: SeatsByLabel
    ) -> str | None:
        if reason := await self._limit_before(
            str(phase), lambda _: self._plan_of_answers(phase, reviewers)
        ):
            return reason
        found = await self._ask(phase, self._requests(Revise, phase, reviewers, names), names)
        if self._seats.incomplete:
            return self._seats.incomplete  # with the answers that were reviewed
        has_moved = self._update(found)
        if has_moved:
            self.reviews = {}
        return None if has_moved or not self._is_auto else "unchanged"

    async def _discuss(self, number: int) -> str | None:
        """Hold a round in a closed form; return why it is the last one, if it is."""
        phase = Phase("discuss", number)
        joining = self._joining(number)
        if joining:
            if reason := await self._limit_before(
                "escalation",
                lambda _: self._plan_of_proposals(joining, self._seats.active),
                begins_round=True,
            ):
                return reason
            self.used = number
            await self._propose(joining)
        if reason := await self._limit_before(
            str(phase),
            lambda _: self._plan_of_answers(phase, self._seats.active),
            begins_round=not joining,
        ):
            return reason
        self.used = number
        names = self._draw_labels()
        requests = self._requests(Discuss, phase, self.answers.by_seat, names)
        self.reviews = await self._ask(phase, requests, names)
        has_moved = self._update(self.reviews)
        if reason := self._reason_to_end():
            return reason
        return None if has_moved or not self._is_auto else "unchanged"

    def _requests(
        self,
        kind: type[Revise | Discuss],
        phase: Phase,
        seats: Iterable[int],
        names: SeatsByLabel,
    ) -> dict[int, Revise | Discuss]:
        """Return a request to answer again for each of `seats`, with the reviews by others.

        Where calls share their prefix, a round has one order, so that they share the answers, too.
        """
        is_revision = phase.name == "revise"
        order = str(
            Phase("review", phase.round) if is_revision and self._topic.shares_prefix else phase
        )
        return {
            seat: kind(
                self._topic,
                self.answers.labeled(names, order, seat),
                label_of(seat, names),
                self._points_by_others(seat),
            )
            for seat in seats
        }

    async def _ask(
        self, phase: Phase, requests: Mapping[int, Review | Revise | Discuss], names: SeatsByLabel
    ) -> dict[int, Value]:
        """Return the usable replies, by seat; the answers of seats that dropped out are removed."""
        found = await self._seats.ask_all(phase, requests, dict.fromkeys(requests, names))
        self.answers.keep(self._seats.active)
        return {seat: value for seat, value in found.items() if value is not None}

    def _update(self, found: Mapping[int, Value]) -> bool:
        """Take over new answers; return True if a verdict has changed."""
        moved = [self.answers.update(seat, value) for seat, value in found.items()]
        return any(moved)

    def _draw_labels(self) -> dict[str, int]:
        return self.answers.draw_round_labels(range(self._payload.max_seats))

    def _points_by_others(self, seat: int) -> list[str]:
        return [each["points"] for n, each in self.reviews.items() if n != seat and each["points"]]

    def _is_settled_by_reviews(self) -> bool:
        """Return True if the reviewers take all answers for the same, or all prefer one and want to stop.

        They are the votes then, so none may be missing.
        """
        reviews = self.reviews.values()
        if len(reviews) < len(self._seats.active):
            return False
        claims = self.answers.claims(review["same_as"] for review in reviews)
        if len(self.answers.groups(claims)) == 1:
            return True
        best = {self.answers.option_of(review["best"]) for review in reviews}
        wants_to_stop = all(review["stop"] for review in reviews)
        return wants_to_stop and len(best) == 1 and None not in best

    async def _limit_before(
        self, name: str, plan: Callable[[int | None], Plan], *, begins_round: bool = False
    ) -> str | None:
        """Return which limit forbids a phase and the vote after it; None if none does.

        The decision is kept: a phase that has begun continues, and after a requeue, too, the vote follows.
        """
        room = await self._limits.reserve(name, plan, is_optional=True, begins_round=begins_round)
        return room.ended_by

    def _plan_of_proposals(self, joining: Sequence[int], answering: Sequence[int] = ()) -> Plan:
        """Return what proposals take. After those that join in a round, `answering` answer again, too."""
        propose = Propose(self._topic)
        seats = [*self._seats.active, *joining]
        then = []
        if answering:
            again = [*answering, *joining] if self._topic.form.is_closed else answering
            then = self._answers_again(again, self._sized(seats))
        return Plan.of(
            "propose",
            [Planned("propose", seat, propose) for seat in joining],
            [*then, *self._decision(seats)],
        )

    def _plan_of_reviews(self, phase: Phase) -> Plan:
        """Return what reviews take, and the rest of a round that begins with them."""
        reviewers, joining = self._seats.active, self._joining(phase.round)
        review = Review(self._topic, quote.labeled(self._sized(reviewers)))
        rest = self._plan_of_proposals(joining, reviewers)
        return Plan.of(
            phase,
            [Planned(phase.name, seat, review) for seat in reviewers],
            [*rest.calls.values(), *rest.then],
        )

    def _plan_of_answers(self, phase: Phase, seats: Sequence[int]) -> Plan:
        """Return what new answers of `seats` take."""
        answers = self._sized(self._seats.active)
        return Plan.of(
            phase, self._answers_again(seats, answers), self._decision(self._seats.active)
        )

    def _answers_again(self, seats: Sequence[int], answers: Sequence[Answer]) -> list[Planned]:
        points = [each["points"] for each in self.reviews.values()]
        if not points and not self._topic.form.is_closed:
            points = ["x" * self._topic.max_points_chars] * len(seats)
        return list(quote.answers_again(self._topic, seats, answers, points))

    def _decision(self, seats: Sequence[int]) -> list[Planned]:
        """Return what a vote of `seats` takes."""
        return list(quote.decision_requests(self._payload, self._topic, seats, self._sized(seats)))

    def _sized(self, seats: Iterable[int]) -> list[Answer]:
        """Return the answers of `seats`, or others of the size that they are expected to have."""
        least, known = quote.smallest_answer(self._topic), self.answers.by_seat

        def size(answer: Answer) -> int:
            return len(answer.text(self._topic.form).encode(errors="replace"))

        longest = max([least, *known.values()], key=size)
        return [max(least, known.get(seat, longest), key=size) for seat in seats]


def _has_taken(entry: Entry) -> bool:
    """Return True if a call brought a reply, or may have cost something."""
    return "why" not in entry or entry["usd"] != 0 or bool(entry["in"])
