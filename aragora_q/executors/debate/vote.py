"""The vote of a debate: ballots, or what is known without them; then a judge or a chair if there is one.

Used by the protocol, after the rounds. Must not know models, prompts or Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aragora_q.errors import AgentUnavailable, PermanentError
from aragora_q.executors.debate import quote
from aragora_q.executors.debate.answers import Answers, Claims, SeatsByLabel, label_of
from aragora_q.executors.debate.limits import SHOWN_BYTES, Limits, Plan
from aragora_q.executors.debate.outcome import Choice, Outcome, SeatVote
from aragora_q.executors.debate.participants import Participants, Phase
from aragora_q.executors.debate.replies import Value
from aragora_q.executors.debate.requests import Answer, Synthesize, Topic, Vote
from aragora_q.job import DebateJobPayload

Votes = dict[int, SeatVote]


class Election:
    """The vote on the answers of a debate.

    `reviews` are those of the current answers, if there are any; `are_decisive`: they ended the rounds.
    """

    def __init__(
        self,
        payload: DebateJobPayload,
        topic: Topic,
        seats: Participants,
        answers: Answers,
        reviews: Mapping[int, Value],
        limits: Limits,
        *,
        are_decisive: bool,
    ) -> None:
        self._payload = payload
        self._topic = topic
        self._seats = seats
        self._answers = answers
        self._reviews = reviews
        self._limits = limits
        self._are_decisive = are_decisive
        self._options = answers.options()
        self._outsider = payload.max_seats

        self._shown_bytes: int | None = None

    async def hold(self, outcome: Outcome) -> None:
        """Vote and put the decision into `outcome`. Without a vote, its decision has no winner."""
        votes, claims = await self._votes()
        groups = self._answers.groups(claims)
        outcome.count(groups, votes)
        if self._payload.consensus == "judge" and len(groups) > 1:
            outcome.judged(await self._judge(groups))
        best = outcome.best_option()
        if self._payload.consensus == "synthesis" and best is not None and len(self._options) > 1:
            outcome.written(await self._synthesize(best, votes))
        outcome.shown_bytes = self._shown_bytes

    async def _votes(self) -> tuple[Votes, Claims]:
        """Return the votes by seat, and what the voters say about equal answers.

        A vote that is known is not asked for: verdicts of a closed form are votes; all options may be one;
        and reviews that ended the rounds are votes. Reviews count, too, if time was up before any vote.
        """
        if self._topic.form.is_closed or len(self._options) <= 1:
            return self._own_votes(), []
        if self._are_decisive:
            return self._votes_by_reviews()
        votes, claims = await self._ballots()
        if self._seats.incomplete and not votes:
            return self._votes_by_reviews()
        return votes, claims

    def _own_votes(self) -> Votes:
        return self._implied({seat: seat for seat in self._answers.by_seat})

    def _votes_by_reviews(self) -> tuple[Votes, Claims]:
        claims = self._answers.claims(review["same_as"] for review in self._reviews.values())
        if len(self._answers.groups(claims)) == 1:
            return self._implied({seat: seat for seat in self._reviews}), claims
        return self._implied(
            {seat: review["best"] for seat, review in self._reviews.items()}
        ), claims

    def _implied(self, chosen: Mapping[int, int | None]) -> Votes:
        options = {seat: self._answers.option_of(choice) for seat, choice in chosen.items()}
        return {seat: SeatVote(option) for seat, option in options.items() if option is not None}

    async def _ballots(self) -> tuple[Votes, Claims]:
        """Ask each seat for its vote; return the votes by seat, and what the voters say about equal answers."""
        phase, requests, names = Phase("vote"), {}, {}
        size = await self._reserve(phase)
        for seat in self._seats.active:
            names[seat] = self._answers.draw_labels("vote", self._options, seat)
            shown = self._shown(names[seat], phase, seat, size)
            requests[seat] = Vote(self._topic, shown)
        replies = await self._seats.ask_all(phase, requests, names)
        found = {seat: value for seat, value in replies.items() if value is not None}
        votes = {
            seat: SeatVote(
                value["choice"],
                value["confidence"],
                value["reason"],
                _choice(value["choice"], requests[seat], names[seat]),
            )
            for seat, value in found.items()
        }
        return votes, self._answers.claims(value["same_as"] for value in found.values())

    async def _judge(self, groups: Sequence[Sequence[int]]) -> int | None:
        """Return the group that the judge picks with the answers in one order and in the reverse order.

        None if the two differ or the judge failed: permanently, or in any way on the last attempt.
        """
        phase = Phase("judge")
        names = self._answers.draw_labels("judge", self._options)
        size = await self._reserve(phase)
        shown = self._shown(names, phase, self._outsider, size)
        picked: set[int] = set()
        with self._seats.step(phase):
            for part, answers in ((".0", shown), (".1", dict(reversed(shown.items())))):
                request = Vote(self._topic, answers, as_judge=True)
                value = await self._ask_outsider(phase, request, names, part)
                if value is None:
                    return None
                picked.add(next(n for n, seats in enumerate(groups) if value["choice"] in seats))
        if len(picked) > 1:
            self._seats.abstained[self._outsider] = (
                "its choice depended on the order of the answers"
            )
            return None
        return picked.pop()

    async def _synthesize(self, best: int, votes: Votes) -> Value | None:
        phase = Phase("synthesize")
        names = self._answers.draw_labels("judge", self._options)
        size = await self._reserve(phase)
        shown = self._shown(names, phase, self._outsider, size)
        counts = {
            label: sum(vote.option == names[label] for vote in votes.values()) for label in shown
        }
        winner = label_of(best, names)
        request = Synthesize(self._topic, shown, counts, winner)
        with self._seats.step(phase):
            return await self._ask_outsider(phase, request, names)

    async def _reserve(self, phase: Phase) -> int | None:
        """Reserve a phase of the vote; return the size to which answers are cut in it, None: they are whole."""
        room = await self._limits.reserve(
            str(phase), lambda size: self._plan(phase, size), sizes=SHOWN_BYTES
        )
        self._shown_bytes = room.shown_bytes or self._shown_bytes
        return room.shown_bytes

    def _plan(self, phase: Phase, size: int | None) -> Plan:
        """Return what a phase of the vote takes, and those after it, if answers are shown in `size` bytes."""
        answers = [self._sized(answer, size) for answer in self._options.values()]
        seats = self._seats.active
        planned = [*quote.decision_requests(self._payload, self._topic, seats, answers)]
        now = [each for each in planned if each.phase == phase.name]
        then = [each for each in planned if each.seat == self._outsider and each not in now]
        return Plan.of(phase, now, then)

    def _shown(
        self, names: SeatsByLabel, phase: Phase, reader: int, size: int | None
    ) -> dict[str, Answer]:
        shown = self._answers.labeled(names, str(phase), reader)
        return {label: self._sized(answer, size) for label, answer in shown.items()}

    def _sized(self, answer: Answer, size: int | None) -> Answer:
        return answer if size is None else quote.shortened(answer, self._topic, size)

    async def _ask_outsider(
        self, phase: Phase, request: Vote | Synthesize, names: Mapping[str, int], part: str = ""
    ) -> Value | None:
        """Ask the judge; None if it failed: permanently, or on the last attempt for any reason but overload."""
        try:
            return await self._seats.ask_one(phase, self._outsider, request, names, part)
        except (PermanentError, AgentUnavailable) as error:
            if not self._seats.is_final(error):
                raise
            self._seats.abstained[self._outsider] = str(error)
            return None


def _choice(option: int, request: Vote, names: SeatsByLabel) -> Choice:
    label, labels = label_of(option, names), list(request.answers)
    return Choice(len(labels), labels.index(label) + 1, sorted(labels).index(label) + 1)
