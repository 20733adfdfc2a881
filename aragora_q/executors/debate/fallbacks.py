"""Agents that answer in place of others whose providers take no calls: who may, and when.

Used where agents are asked, and where a debate is planned. An agent's fallbacks are tried in order; those of a
fallback do not count. Must not know journals or models' libraries.
"""

from __future__ import annotations

from collections.abc import Sequence

from aragora_q.config.settings import QueueConfig
from aragora_q.errors import (
    AragoraQError,
    ConfigError,
    GateClosed,
    HoldJob,
    InvalidPayload,
    RetryLater,
)
from aragora_q.executors.debate.agents import config_of
from aragora_q.job import DebateJobPayload

UNNAMED_WAIT_SECONDS = 5.0
"""Taken as the wait for a provider that names none: how long its gate is closed then."""


def check_fallbacks(config: QueueConfig) -> None:
    """Raise ConfigError for a fallback that is not an agent, or is the agent itself."""
    for agent, settings in config.agents.items():
        for name in settings.fallback:
            if name == agent:
                raise ConfigError(f"agents.{agent:.100}.fallback: an agent cannot replace itself")
            try:
                config_of(name, config)
            except InvalidPayload as error:
                raise ConfigError(
                    f"agents.{agent:.100}.fallback: {error}", hint=error.hint
                ) from None


def fallbacks_by_seat(payload: DebateJobPayload, config: QueueConfig) -> list[tuple[str, ...]]:
    """Return the agents that may answer in place of each of `payload.all_agents`, in order.

    A judge never judges an answer by the same model: it replaces no seat's agent, and is not replaced by what
    may answer for a seat.
    """
    authors = [*payload.agents, *payload.escalate]
    judges = [payload.judge] if payload.judge else []
    found = [_fallbacks(name, judges, config) for name in authors]
    answering = [*authors, *(name for names in found for name in names)]
    return found + [_fallbacks(judge, answering, config) for judge in judges]


def _fallbacks(name: str, excluded: Sequence[str], config: QueueConfig) -> tuple[str, ...]:
    settings = config.agents.get(name)
    if settings is None or not settings.fallback:
        return ()
    models = {_model_of(each, config) for each in excluded}
    return tuple(
        each
        for each in settings.fallback
        if each not in excluded and _model_of(each, config) not in models
    )


def _model_of(name: str, config: QueueConfig) -> tuple[str, str | None]:
    agent = config_of(name, config)
    return agent.model, agent.base_url


def closed_seconds(error: AragoraQError) -> float | None:
    """Return for how long a provider takes no calls, if that is what `error` says.

    Infinite: until someone acts. None: it says something else, or the time is short enough to wait.
    """
    match error:
        case HoldJob(cause="provider"):
            return float("inf") if error.until_seconds is None else error.until_seconds
        case GateClosed():
            return error.delay_seconds if error.by else None
        case RetryLater():
            from aragora_q.contracts import MAX_CLOSED_SECONDS  # noqa: PLC0415 - only where agents are asked

            seconds = error.delay_seconds or UNNAMED_WAIT_SECONDS
            return seconds if seconds > MAX_CLOSED_SECONDS else None
    return None
