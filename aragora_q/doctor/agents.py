"""Ask every configured agent for one ballot, as a debate does. Used by `aragora-q doctor --agents`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from aragora_q.config.settings import QueueConfig
from aragora_q.doctor.checks import Finding
from aragora_q.errors import AragoraQError, PermanentError
from aragora_q.executors.debate import replies
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.requests import PLAIN, Agent, Answer, Manner, Reply, Topic, Vote

BALLOT = Vote(
    Topic("What is 2 + 2?", nonce="QXZWV"), {"KRTS": Answer("4"), "LPMN": Answer("5")}
)  # labels as in a debate


@dataclass
class Checkup:
    """What came of asking one agent. `error` is empty if its ballot can be read."""

    agent: str
    model: str = ""
    answered_by: str = ""
    """The model that answered, as the provider names it."""
    structured: str | None = None
    """How the form was enforced: `native`, `tool` or `prompted`; None for agents that are no models."""
    streamed: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    seconds: float = 0.0
    error: str = ""
    hint: str = ""

    def finding(self) -> Finding:
        """Return the result as a finding: an error if no ballot came."""
        if self.error:
            return Finding("error", f"agent {self.agent}", self.error, self.hint)
        form = f"{self.structured} form, " if self.structured else ""
        price = "price unknown" if self.usd is None else f"${self.usd:.6f}"
        return Finding(
            "note",
            f"agent {self.agent}",
            f"{self.answered_by} answered in {self.seconds:.1f} s: {form}"
            f"{'streamed' if self.streamed else 'not streamed'}, "
            f"{self.input_tokens} + {self.output_tokens} tokens, {price}",
        )


async def check_agents(config: QueueConfig) -> list[Checkup]:
    """Ask each agent of the configuration and of `default_agents`, all at once."""
    names = list(dict.fromkeys([*config.agents, *config.default_agents]))
    registry = AgentRegistry(config)
    try:
        return list(await asyncio.gather(*(_check(registry, name) for name in names)))
    finally:
        await registry.close()


async def _check(registry: AgentRegistry, name: str) -> Checkup:
    checkup = Checkup(name)
    began = time.monotonic()
    try:
        agent = await registry.agent(name, 0)
        checkup.model = agent.model
        await _ask(agent, checkup)
    except AragoraQError as error:
        checkup.error, checkup.hint = f"{checkup.model or name}: {error}", error.hint
    checkup.seconds = round(time.monotonic() - began, 3)
    return checkup


async def _ask(agent: Agent, checkup: Checkup) -> None:
    """Ask for a ballot; if it cannot be read, once more in words. Raises as `Agent.reply`."""
    why = ""
    for manner in (PLAIN, Manner(prompted=True)):
        reply = await agent.reply(BALLOT, manner)
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
        checkup.usd = (checkup.usd or 0.0) + reply.cost_usd
    if (way_of := getattr(agent, "way_of", None)) is not None:  # of models only
        way = way_of(BALLOT, manner)
        checkup.structured, checkup.streamed = way.structured, way.streams
