"""One debate, from question to result: proposals, rounds of review and revision, then the vote.

Run by the executor. Labels and orders follow from the job and a nonce in its journal, so a resumed debate
is the same debate. This module decides what to ask; `participants.py` asks; `outcome.py` writes the
result. Must not know models, prompts or Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aragora_q._version import __version__
from aragora_q.answer_form import AnswerForm
from aragora_q.base import Job
from aragora_q.context import AttemptContext
from aragora_q.errors import AgentUnavailable, PermanentError
from aragora_q.executors.debate import consensus, labels
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.journal import MAX_BYTES, Journal
from aragora_q.executors.debate.outcome import Outcome, SeatVote
from aragora_q.executors.debate.participants import Participants, Phase
from aragora_q.executors.debate.prompt_version import prompt_version
from aragora_q.executors.debate.replies import Value
from aragora_q.executors.debate.requests import (
    Answer,
    Discuss,
    Propose,
    Review,
    Revise,
    Synthesize,
    Topic,
    Vote,
)
from aragora_q.job import DebateJobPayload, DebateResult

LAST_ROUND_START = 0.8
"""Share of `timeout_seconds` after which no new round starts."""

DECISION_SHARE = 0.05
MIN_DECISION_SECONDS = 0.1
"""Part of `timeout_seconds` that is kept to decide with the votes that are there."""

CHARS_PER_WORD = 40
"""Characters kept per word that was asked for: an answer is cut only far beyond its length."""

MAX_BYTES_PER_CHAR = 4
POINTS_CHARS = 700
POINTS_CHARS_PER_ANSWER = 250


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
        self._form = AnswerForm.parse(payload.answer_form, payload.options)
        self._journal = Journal(attempt, job.started_at)
        self._names = [*payload.agents, *payload.escalate]
        self._judge_seat = len(self._names)

    async def run(self) -> DebateResult:
        """Run the debate, or resume it where an earlier attempt stopped, and return its result.

        When `timeout_seconds` is nearly up, the debate decides with the replies that are there.

        Raises:
            InvalidPayload: an agent or the judge is unknown. Found before the first call.
            PermanentError: too few agents are left, or no seat could vote; then it has the answers as its
                partial result, and a requeued job continues at the vote.
            RetryLater, AgentUnavailable: an agent's fault may be temporary; finished calls are kept.

        """
        judge = [self._payload.judge] if self._payload.judge else []
        self._registry.resolve([*self._names, *judge])
        await self._journal.open(self._begin)
        self._topic = self._make_topic(self._journal.begun["nonce"])
        if not self._journal.find_note("life/time_up"):
            try:
                async with asyncio.timeout(self._remaining_seconds()) as deadline:
                    return await self._debate(is_closing=False)
            except TimeoutError:
                if not deadline.expired():
                    raise
            await self._journal.open(self._begin)  # a call may have been stored as time ran out
            await self._journal.note("life/time_up", {"at": self._journal.now()})
        return await self._debate(is_closing=True)

    def _begin(self) -> dict[str, Any]:
        material = (self._payload.question, *self._form.options, str(self._form.json_schema))
        return {
            "nonce": labels.draw_nonce(*material),
            "version": __version__,
            "prompt_version": prompt_version(),
        }

    def _make_topic(self, nonce: str) -> Topic:
        payload, seats = self._payload, len(self._names)
        reviews = seats * payload.max_rounds
        points = max(POINTS_CHARS, POINTS_CHARS_PER_ANSWER * (seats - 1))
        room = MAX_BYTES // MAX_BYTES_PER_CHAR - reviews * points
        return Topic(
            payload.question,
            self._form,
            nonce,
            payload.max_answer_words,
            max_answer_chars=min(
                payload.max_answer_words * CHARS_PER_WORD, room // (seats + reviews)
            ),
            max_points_chars=points,
        )

    def _remaining_seconds(self) -> float | None:
        limit = self._payload.timeout_seconds
        if limit is None:
            return None
        kept = max(limit * DECISION_SHARE, MIN_DECISION_SECONDS)
        return limit - kept - self._journal.running_seconds()

    async def _debate(self, *, is_closing: bool) -> DebateResult:
        """Run the debate from its first phase; finished calls come from the journal.

        With `is_closing`, nothing else is asked: it decides with what is there.
        """
        payload = self._payload
        judge = [payload.judge] if payload.judge else []
        self._answers: dict[int, Answer] = {}
        self._first: dict[int, Answer] = {}
        self._reviews: dict[int, Value] = {}
        self._labels_used: dict[str, int] = {}
        self._rounds_used = 0
        self._seats = Participants(
            self._job,
            [*self._names, *judge],
            self._registry,
            self._attempt,
            self._journal,
            rounds=payload.max_rounds,
            is_strict=payload.resume == "strict",
            is_closing=is_closing,
        )
        await self._propose(range(len(payload.agents)))
        ended_by = await self._hold_rounds()
        outcome = Outcome(
            self._job.id, payload, self._form, self._topic.nonce, self._journal, self._seats,
            first=self._first, answers=self._answers, rounds_used=self._rounds_used, ended_by=ended_by,
            labels=self._labels_used,
        )  # fmt: skip
        if payload.consensus != "none":
            await self._decide(outcome)
        return outcome.result(self._max_result_bytes)

    # Proposals and rounds

    async def _propose(self, seats: Sequence[int]) -> None:
        self._seats.join(seats)
        phase = Phase("propose")
        found = await self._seats.ask_all(phase, dict.fromkeys(seats, Propose(self._topic)), {})
        for seat, value in found.items():
            if value is not None:
                self._answers[seat] = Answer(value["answer"], value["reasons"])
        self._first = dict(sorted(self._answers.items()))
        if not self._seats.is_incomplete:
            await self._seats.require(phase, self._answers)

    async def _hold_rounds(self) -> str:
        """Hold the rounds, and return why there was no further one."""
        is_auto = self._payload.debate == "auto"
        for number in range(1, self._payload.max_rounds + 1):
            if self._seats.is_incomplete:
                return "timeout"
            if is_auto and self._has_one_verdict():
                return "agreement"
            if ended_by := await self._reason_to_stop(number):
                return ended_by
            self._rounds_used = number
            hold = self._discuss if self._form.is_closed else self._review_and_revise
            if (ended_by := await hold(number)) and is_auto:
                return ended_by
        if self._seats.is_incomplete:
            return "timeout"
        return "agreement" if is_auto and self._has_one_verdict() else "rounds"

    async def _review_and_revise(self, number: int) -> str | None:
        """Hold a round in text form; return why it is the last one, if it is."""
        names = self._round_labels()
        phase = Phase("review", number)
        requests = {
            seat: Review(self._topic, self._labeled(names, phase, seat))
            for seat in self._seats.active
        }
        found = await self._seats.ask_all(phase, requests, dict.fromkeys(requests, names))
        self._keep_active()
        self._reviews = {seat: value for seat, value in found.items() if value is not None}
        if self._seats.is_incomplete:
            return "timeout"
        if self._payload.debate == "auto" and self._is_settled_by_reviews():
            return "agreement"
        asked = list(self._answers)
        await self._escalate(number)
        return await self._revise(number, asked, names)

    async def _revise(
        self, number: int, asked: Sequence[int], names: Mapping[str, int]
    ) -> str | None:
        phase = Phase("revise", number)
        requests = {}
        for seat in asked:
            points = [
                each["points"] for n, each in self._reviews.items() if n != seat and each["points"]
            ]
            own = next(label for label, owner in names.items() if owner == seat)
            requests[seat] = Revise(self._topic, self._labeled(names, phase, seat), own, points)
        found = await self._seats.ask_all(phase, requests, {})
        self._keep_active()
        if self._seats.is_incomplete:
            return "timeout"  # the reviews are of the answers before
        moved = False
        for seat, value in found.items():
            if value is not None:
                moved = self._update(seat, value) or moved
        self._reviews = {}
        return None if moved else "unchanged"

    async def _discuss(self, number: int) -> str | None:
        """Hold a round in a closed form; return why it is the last one, if it is."""
        if number == 1:
            await self._escalate(number)
        phase = Phase("discuss", number)
        names = self._round_labels()
        requests = {}
        for seat in self._answers:
            points = [
                each["points"] for n, each in self._reviews.items() if n != seat and each["points"]
            ]
            own = next(label for label, owner in names.items() if owner == seat)
            requests[seat] = Discuss(self._topic, self._labeled(names, phase, seat), own, points)
        found = await self._seats.ask_all(phase, requests, dict.fromkeys(requests, names))
        self._keep_active()
        moved = False
        for seat, value in found.items():
            if value is not None:
                moved = self._update(seat, value) or moved
        self._reviews = {seat: value for seat, value in found.items() if value is not None}
        if self._seats.is_incomplete:
            return "timeout"
        if self._has_one_verdict():
            return "agreement"
        return None if moved else "unchanged"

    async def _escalate(self, number: int) -> None:
        """Let further agents join, once, after the first ones have disagreed."""
        if number == 1 and self._payload.escalate and not self._has_one_verdict():
            first = len(self._payload.agents)
            await self._propose(range(first, first + len(self._payload.escalate)))

    def _update(self, seat: int, value: Value) -> bool:
        """Take over a seat's answer; return True if its verdict is another one than before."""
        before, verdict = self._answers[seat].verdict, value["answer"]
        self._answers[seat] = Answer(verdict, value["reasons"])
        return value.get("changed") is not False and self._form.key(before) != self._form.key(
            verdict
        )

    def _keep_active(self) -> None:
        self._answers = {n: each for n, each in self._answers.items() if n in self._seats.active}

    def _has_one_verdict(self) -> bool:
        return len({self._form.key(answer.verdict) for answer in self._answers.values()}) == 1

    def _is_settled_by_reviews(self) -> bool:
        """Return True if the reviewers take all answers for the same, or all prefer one and want to stop."""
        if self._is_one_group():
            return True
        best = {self._option_of(review["best"]) for review in self._reviews.values()}
        wants_to_stop = all(review["stop"] for review in self._reviews.values())
        is_complete = len(self._reviews) == len(self._seats.active)
        return is_complete and wants_to_stop and len(best) == 1 and None not in best

    def _is_one_group(self) -> bool:
        claims = self._claims(review["same_as"] for review in self._reviews.values())
        return len(consensus.group(list(self._options()), claims, self._topic.nonce)) == 1

    async def _reason_to_stop(self, number: int) -> str | None:
        """Return which limit forbids another round and the vote; None if none does.

        A round that has begun continues. The decision is kept: after a requeue, too, the vote follows.
        """
        if self._journal.has_begun(f"r{number}."):
            return None
        name = f"decision/before_round_{number}"
        if note := self._journal.find_note(name):
            return str(note["ended_by"])
        ended_by = self._used_up(number)
        if ended_by:
            await self._journal.note(name, {"ended_by": ended_by})
        return ended_by

    def _used_up(self, number: int) -> str | None:
        payload, tokens = self._payload, self._journal.tokens()
        limit = payload.timeout_seconds
        if limit is not None and self._journal.running_seconds() > limit * LAST_ROUND_START:
            return "timeout"
        if payload.max_tokens is None and payload.max_cost_usd is None:
            return None
        ahead = self._expected_tokens(number)
        if payload.max_tokens is not None and tokens + ahead > payload.max_tokens:
            return "max_tokens"
        cost = self._journal.cost_usd()
        if (
            payload.max_cost_usd is not None
            and cost + cost / max(tokens, 1) * ahead > payload.max_cost_usd
        ):
            return "max_cost"
        return None

    def _expected_tokens(self, number: int) -> int:
        """Return the tokens of a round and the vote after it, from what the proposals took.

        A prompt holds what the proposals' prompts held, all answers, and in a revision all reviews.
        """
        proposals = [entry for entry in self._journal.entries() if entry["phase"] == "propose"]
        seats, count = len(self._seats.active), max(len(proposals), 1)
        prompt = sum(entry["in"] for entry in proposals) // count
        answers = sum(entry["out"] for entry in proposals) * seats // count
        longest = max((entry["out"] for entry in self._journal.entries()), default=0)
        with_answers = prompt + answers + longest
        with_reviews = with_answers + seats * longest
        if self._form.is_closed:
            calls = seats * (with_answers if number == 1 else with_reviews)
        else:
            calls = seats * (2 * with_answers + with_reviews)
        return calls + {"judge": 2, "synthesis": 1}.get(self._payload.consensus, 0) * with_answers

    # The vote

    async def _decide(self, outcome: Outcome) -> None:
        options = self._options()
        votes, claims = await self._votes(options)
        groups = [
            [seat for seat in self._answers if self._option_of(seat) in members]
            for members in consensus.group(list(options), claims, self._topic.nonce)
        ]
        outcome.count(groups, votes)
        if self._payload.consensus == "judge" and len(groups) > 1:
            outcome.judged(await self._judge(options, groups))
        if outcome.decision.winner is None:
            raise PermanentError(
                f"no seat could vote: {outcome.reasons_not_to_vote()}",
                hint="requeue continues at the vote",
                partial_result=outcome.result(self._max_result_bytes).to_dict(),
            )
        if self._payload.consensus == "synthesis" and len(options) > 1:
            outcome.written(await self._synthesize(options, outcome))

    async def _votes(
        self, options: Mapping[int, Answer]
    ) -> tuple[dict[int, SeatVote], list[list[list[int]]]]:
        """Return the votes by seat, each for an option, and what the voters say about equal answers.

        A vote that is known is not asked for: all options are one, verdicts of a closed form are votes, or
        all reviewers agree. When time is up, reviews count as votes of those who did not vote.
        """
        if self._form.is_closed or len(options) <= 1:
            own = {seat: self._option_of(seat) for seat in self._answers}
            return {
                seat: SeatVote(each, is_implied=True)
                for seat, each in own.items()
                if each is not None
            }, []
        if self._reviews and not self._seats.is_incomplete:
            return self._votes_by_reviews()
        found = await self._ballots(options) if not self._reviews else {}
        votes = {
            seat: SeatVote(value["choice"], value["confidence"], value["reason"])
            for seat, value in found.items()
            if value is not None
        }
        if not votes and self._reviews:
            return self._votes_by_reviews()
        return votes, self._claims(
            value["same_as"] for value in found.values() if value is not None
        )

    def _votes_by_reviews(self) -> tuple[dict[int, SeatVote], list[list[list[int]]]]:
        claims = self._claims(review["same_as"] for review in self._reviews.values())
        if self._is_one_group():
            chosen = {seat: seat for seat in self._answers}
        else:
            chosen = {seat: review["best"] for seat, review in self._reviews.items()}
        options = {seat: self._option_of(choice) for seat, choice in chosen.items()}
        votes = {
            seat: SeatVote(option, is_implied=True)
            for seat, option in options.items()
            if option is not None
        }
        return votes, claims

    async def _ballots(self, options: Mapping[int, Answer]) -> dict[int, Value | None]:
        phase, requests, names = Phase("vote"), {}, {}
        for seat in self._seats.active:
            names[seat] = self._labels(f"vote.{seat}", options)
            requests[seat] = Vote(self._topic, self._labeled(names[seat], phase, seat))
        return await self._seats.ask_all(phase, requests, names)

    async def _judge(
        self, options: Mapping[int, Answer], groups: Sequence[Sequence[int]]
    ) -> int | None:
        """Return the group that the judge picks with the answers in one order and in the reverse order.

        None if the two differ or the judge failed: permanently, or in any way on the last attempt.
        """
        names = self._labels("judge", options)
        answers = self._labeled(names, Phase("judge"), self._judge_seat)
        self._seats.next_step()
        chosen: list[int | None] = []
        for n, ordered in enumerate((answers, dict(reversed(answers.items())))):
            value = await self._ask_outsider(
                Phase("judge"), Vote(self._topic, ordered, as_judge=True), names, f".{n}"
            )
            if value is None:
                return None
            option = value["choice"]
            chosen.append(next(n for n, members in enumerate(groups) if option in members))
        return chosen[0] if len(set(chosen)) == 1 else None

    async def _synthesize(self, options: Mapping[int, Answer], outcome: Outcome) -> Value | None:
        names = self._labels("judge", options)
        answers = self._labeled(names, Phase("synthesize"), self._judge_seat)
        counts = {label: outcome.votes_for(names[label]) for label in answers}
        winner = next(label for label, seat in names.items() if seat == outcome.best_option())
        self._seats.next_step()
        request = Synthesize(self._topic, answers, counts, winner)
        return await self._ask_outsider(Phase("synthesize"), request, names)

    async def _ask_outsider(
        self, phase: Phase, request: Vote | Synthesize, names: Mapping[str, int], part: str = ""
    ) -> Value | None:
        """Ask the judge; None if it failed: permanently, or on the last attempt for any reason but overload."""
        try:
            return await self._seats.ask_one(phase, self._judge_seat, request, names, part)
        except (PermanentError, AgentUnavailable) as error:
            if not (isinstance(error, PermanentError) or self._attempt.is_last_attempt):
                raise
            self._seats.abstained[self._judge_seat] = str(error)
            return None

    # Options, labels and orders

    def _options(self) -> dict[int, Answer]:
        """Return the different answers, each under the first seat that gave it."""
        options: dict[str, int] = {}
        for seat, answer in sorted(self._answers.items()):
            options.setdefault(self._form.key(answer.verdict), seat)
        return {seat: self._answers[seat] for seat in options.values()}

    def _option_of(self, seat: int | None) -> int | None:
        """Return the option that holds the answer of `seat`."""
        if seat is None or seat not in self._answers:
            return None
        key = self._form.key(self._answers[seat].verdict)
        return next(n for n, each in self._options().items() if self._form.key(each.verdict) == key)

    def _claims(self, found: Iterable[list[list[int]]]) -> list[list[list[int]]]:
        """Return what voters say about equal answers, in options instead of seats."""
        return [
            [
                [option for seat in each if (option := self._option_of(seat)) is not None]
                for each in lists
            ]
            for lists in found
        ]

    def _round_labels(self) -> dict[str, int]:
        """Return the labels of the rounds: the same for all readers, so that reviews can use them."""
        names = self._labels("rounds", range(len(self._names)))
        self._labels_used.update(names)
        return names

    def _labels(self, scope: str, seats: Iterable[int]) -> dict[str, int]:
        """Return `seats` by labels. Each voter has its own: a bias for a label must not look like a vote."""
        owners = sorted(seats)
        material = "\n".join(
            [self._topic.question]
            + [
                f"{self._form.text(each.verdict)}\n{each.reasons}"
                for each in self._answers.values()
            ]
        )
        made = labels.labels(self._topic.nonce, scope, len(owners), material)
        shuffled = sorted(owners, key=lambda seat: stable_hash(self._topic.nonce, scope, seat))
        return dict(zip(made, shuffled, strict=True))

    def _labeled(self, names: Mapping[str, int], phase: Phase, reader: int) -> dict[str, Answer]:
        """Return the answers by label. Over all readers, each answer is equally often at each place."""
        ordered = sorted(
            (label for label, seat in names.items() if seat in self._answers),
            key=lambda label: names[label],
        )
        places = labels.order(self._topic.nonce, str(phase), reader, len(ordered))
        return {ordered[place]: self._answers[names[ordered[place]]] for place in places}
