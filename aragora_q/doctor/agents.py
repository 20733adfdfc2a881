"""Ask every configured agent for one ballot, as a debate does. Used by `aragora-q doctor --agents`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import chain

from aragora_q.config.settings import QueueConfig
from aragora_q.doctor.report import Finding
from aragora_q.errors import AragoraQError, PermanentError
from aragora_q.executors.debate import replies
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.calls import ask
from aragora_q.executors.debate.requests import PLAIN, Agent, Answer, Manner, Reply, Topic, Vote
from aragora_q.formats import dollars

# Labels are as in a debate.
BALLOT = Vote(Topic("What is 2 + 2?", nonce="QXZWV"), {"KRTS": Answer("4"), "LPMN": Answer("5")})


@dataclass
class Checkup:
    """What came of asking one agent. `error` is empty if its ballot can be read."""

    agent: str
    model: str = ""
    answered_by: str = ""
    """The model that answered, as the provider names it."""
    structured: str | None = None
    """How the form was enforced: `native`, `tool` or `prompted`; None for agents that are not models."""
    streamed: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    error: str = ""
    hint: str = ""
    fallback: list[str] = field(default_factory=list)
    """The agents that are asked instead while its provider takes no calls."""

    def finding(self) -> Finding:
        """Return the result as a finding: an error if no ballot came."""
        if self.error:
            return Finding("error", f"agent {self.agent}", self.error, self.hint)
        form = f"{self.structured} form, " if self.structured else ""
        price = "price unknown" if self.cost_usd is None else dollars(self.cost_usd)
        return Finding(
            "note",
            f"agent {self.agent}",
            f"{self.answered_by} answered in {self.seconds:.1f} s: {form}"
            f"{'streamed' if self.streamed else 'not streamed'}, "
            f"{self.input_tokens} tokens in, {self.output_tokens} out, {price}"
            + (f"; fallback: {', '.join(self.fallback)}" if self.fallback else ""),
        )


async def check_agents(config: QueueConfig) -> list[Checkup]:
    """Ask each agent of the configuration and of `default_agents`, and their fallbacks, all at once."""
    fallbacks = {name: list(agent.fallback) for name, agent in config.agents.items()}
    names = [*config.agents, *config.default_agents, *chain.from_iterable(fallbacks.values())]
    checkups = [Checkup(name, fallback=fallbacks.get(name, [])) for name in dict.fromkeys(names)]
    registry = AgentRegistry(config)
    try:
        # All are built before the first is asked: loading a client is not the provider's time.
        agents = [await _build(registry, checkup) for checkup in checkups]
        await asyncio.gather(
            *(
                _ask(agent, checkup)
                for agent, checkup in zip(agents, checkups, strict=True)
                if agent
            )
        )
    finally:
        await registry.close()
    return checkups


def none_to_ask() -> Finding:
    """Return what to say where no agent is configured."""
    return Finding(
        "warning",
        "agents",
        "none is configured, so that none was asked",
        'name some in aragora-q.toml, for example default_agents = ["claude", "gpt", "claude"]',
    )


async def _build(registry: AgentRegistry, checkup: Checkup) -> Agent | None:
    try:
        agent = await registry.agent(checkup.agent, 0)
    except AragoraQError as error:
        checkup.error, checkup.hint = str(error), error.hint
        return None
    checkup.model = agent.model
    return agent


async def _ask(agent: Agent, checkup: Checkup) -> None:
    began = time.monotonic()
    try:
        await _ask_for_ballot(agent, checkup)
    except AragoraQError as error:
        checkup.error, checkup.hint = f"{agent.model}: {error}", error.hint
    checkup.seconds = round(time.monotonic() - began, 3)


async def _ask_for_ballot(agent: Agent, checkup: Checkup) -> None:
    """Ask for a ballot; if it cannot be read, once more in words. Raises the errors of `CallFault`."""
    why = ""
    for manner in (PLAIN, Manner(prompted=True)):
        reply = await ask(agent, BALLOT, manner)
        _count(checkup, agent, reply, manner)
        if reply.refused is not None:
            raise reply.refused
        try:
            replies.read(BALLOT, reply)
        except replies.Unusable as error:
            why = str(error)
        else:
            return
    raise PermanentError(
        f"its ballots cannot be read: {why}", hint="the model may be too small for debates"
    )


def _count(checkup: Checkup, agent: Agent, reply: Reply, manner: Manner) -> None:
    checkup.answered_by = reply.model or agent.model
    checkup.input_tokens += reply.input_tokens
    checkup.output_tokens += reply.output_tokens
    if reply.cost_usd is not None:
        checkup.cost_usd = (checkup.cost_usd or 0.0) + reply.cost_usd
    if (way_of := getattr(agent, "way_of", None)) is not None:  # of models only
        way = way_of(BALLOT, manner)
        checkup.structured, checkup.streamed = way.structured, way.streams
