"""The arms of an evaluation that names none: one call, samples of an agent, a vote and a debate, at equal cost.

A debate asks more often than one call, and more calls alone make answers better: self-consistency (Wang et al.
2022) takes the majority of samples of one agent. So samples and votes get as many seats as the debate pays
for. Used by the command `eval`. Reads history and prices by way of quotes; enqueues nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from aragora_q.errors import InvalidPayload
from aragora_q.experiments.arms import Arm
from aragora_q.experiments.notes import ARM_TAG
from aragora_q.experiments.sweep import Experiment
from aragora_q.job_fields import AGENTS_HINT, content_id, create_job
from aragora_q.job_rules import AGENTS_RANGE
from aragora_q.labels import JobFilter

if TYPE_CHECKING:
    from aragora_q.experiments.questions import Question
    from aragora_q.intake.quoter import Quoter
    from aragora_q.streams.queue import RedisStreamsQueue

ONE, SAMPLES, VOTE, DEBATE = "one", "samples", "vote", "debate"

MAX_QUOTED = 20
"""Questions, evenly spread, whose quotes decide about the number of seats."""

WITHOUT_ROUNDS: Mapping[str, Any] = {
    "debate": "never",
    "consensus": "majority",
    "escalate": [],
    "judge": None,
    "weights": {},
}


class _Cost(NamedTuple):
    """What an arm is expected to take. `usd` is None if a price is not known."""

    usd: float | None
    calls: float

    def pays_for(self, other: _Cost) -> bool:
        """Compare dollars; calls if they cost nothing, or a price is not known."""
        if self.usd and other.usd is not None:
            return other.usd <= self.usd
        return other.calls <= self.calls


async def default_arms(
    quoter: Quoter,
    group: str,
    questions: Sequence[Question],
    agents: Sequence[str],
    defaults: Mapping[str, Any],
) -> list[Arm]:
    """Return the arms `one`, `samples`, `vote` and `debate` of these agents; the first one is that of samples.

    Where the group has the arm already, it keeps its number of seats: quotes change as debates end, and
    another number would buy the arm again.

    Raises:
        InvalidPayload: there are no agents.
        ConfigError: a price is in a list that is not installed.
    """
    agents = defaults.get("agents") or agents
    if not agents:
        raise InvalidPayload(
            "agents are missing: neither options nor setting default_agents names them",
            hint=AGENTS_HINT,
        )
    sample = questions[:: -(-len(questions) // MAX_QUOTED) or 1]

    async def cost(arm: Arm) -> _Cost:
        return await _cost(quoter, Experiment(group, sample, [arm], agents))

    debate = Arm(DEBATE, {}, defaults)
    budget = await cost(debate)

    async def affordable(name: str, seated: Sequence[str], least: int) -> Arm:
        """Return an arm of as many seats as the debate pays for, at least `least`."""
        most = AGENTS_RANGE[1]
        if known := await _seats_of(quoter.queue, group, name):
            least = most = known
        while least < most:
            middle = (least + most + 1) // 2
            if budget.pays_for(await cost(_arm(name, seated, middle, defaults))):
                least = middle
            else:
                most = middle - 1
        return _arm(name, seated, least, defaults)

    return [
        _arm(ONE, agents, 1, defaults),
        await affordable(SAMPLES, agents[:1], 1),
        await affordable(VOTE, agents, len(agents)),
        debate,
    ]


def _arm(name: str, agents: Sequence[str], seats: int, defaults: Mapping[str, Any]) -> Arm:
    """Return an arm of that many seats, which the agents take in turn."""
    seated = list(islice(cycle(agents), seats))
    return Arm(name, {"agents": seated, **WITHOUT_ROUNDS}, defaults)


async def _cost(quoter: Quoter, experiment: Experiment) -> _Cost:
    usd: float | None = 0.0
    calls = 0.0
    for debate in experiment:
        with suppress(InvalidPayload):  # reported when all is checked
            job = create_job(experiment.line(debate), {}, content_id)
            expected = (await quoter.quote(job.payload)).quote.expected
            usd = None if usd is None or expected.usd is None else usd + expected.usd
            calls += expected.calls
    return _Cost(usd, calls)


async def _seats_of(queue: RedisStreamsQueue, group: str, arm: str) -> int:
    """Return the seats of an arm that the group has; 0 if it has none."""
    for job_id in await queue.find_newest(JobFilter(group=group, tags={ARM_TAG: arm}), 1):
        with suppress(InvalidPayload):  # corrupted
            job = await queue.get_job(job_id)
            agents = job.payload.get("agents") if job else None
            return len(agents) if isinstance(agents, list) else 0
    return 0
