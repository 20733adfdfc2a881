"""Resolve agent names to agents, and build and cache them.

A name is looked up in this order: `[agents]` of the configuration, `demo` and `demo:<persona>`,
`local:<model>`, the built-in names in ALIASES, a model string `provider:model`. This module knows which
extra and which API key an agent needs; `llm/` and `local/` are imported when an agent is built.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import NOT_ASKED_WITH, AgentConfig
from aragora_q.errors import (
    AgentUnavailable,
    AragoraQError,
    ConfigError,
    InvalidPayload,
    PermanentError,
    WorkerUnable,
    did_you_mean,
    nearest,
)
from aragora_q.executors.debate import keys
from aragora_q.executors.debate.local import model_files
from aragora_q.executors.debate.prices import Price, price_list, price_of
from aragora_q.executors.debate.providers import (
    ADDRESSABLE,
    ALIASES,
    PERSONAS,
    PROVIDERS,
    in_tier,
    split_model,
)
from aragora_q.observability.logs import get_logger
from aragora_q.retry import describe, is_machine_limit

if TYPE_CHECKING:
    from aragora_q.executors.debate.requests import Agent

logger = get_logger(__name__)

KEYS = {name: keys.VARIABLES[model.partition(":")[0]] for name, model in ALIASES.items()}
"""The variable with the API key of each of these names."""

LLM_HINT = "pip install 'aragora-q[llm]'"

MAX_CACHED_MODELS = 32
"""Maximum cached models that only jobs name; each has its own HTTP client."""

MIN_CHOSEN_AGENTS = 3


KNOWN = (
    *ALIASES, "demo", *(f"demo:{persona}" for persona in PERSONAS),
    *(f"local:{model}" for model in model_files.MODELS),
)  # fmt: skip
"""Agents that need no configuration, without those that are named by provider and model."""


def known_agents(config: QueueConfig) -> list[str]:
    """Return the agents that jobs may name; `provider:model` is possible, too."""
    return list(dict.fromkeys([*config.agents, *KNOWN]))


def check_agents(names: Iterable[str], config: QueueConfig) -> None:
    """Check that every name resolves to an agent. Does not check API keys or extras.

    Raises:
        InvalidPayload: a name is unknown; the hint suggests the nearest known name.

    """
    for name in names:
        config_of(name, config)


def only_model(names: Iterable[str], config: QueueConfig) -> str | None:
    """Return the model of all these agents; None if they have several, or are demo agents.

    Raises:
        InvalidPayload: a name is unknown.

    """
    agents = [config_of(name, config) for name in names]
    models = {(agent.model, agent.base_url) for agent in agents}
    if len(models) != 1 or agents[0].model.partition(":")[0] == "demo":
        return None
    return agents[0].model


def has_tier(names: Iterable[str], service_tier: str, config: QueueConfig) -> bool:
    """Return True if one of these agents is asked in that tier by a job that asks for it.

    Raises:
        InvalidPayload: a name is unknown.

    """
    return any(config_of(n, config, service_tier).service_tier == service_tier for n in names)


def agent_settings(name: str, config: QueueConfig, service_tier: str | None) -> dict[str, Any]:
    """Return what is configured of an agent and may change its replies, in jobs of `service_tier`.

    `model`, `settings` (those that are not at their default; never an address or a key), and `rest`, a digest
    of its address and fallbacks.

    Raises:
        InvalidPayload: the name is unknown.

    """
    agent = config_of(name, config, service_tier)
    rest = json.dumps([agent.base_url, agent.fallback])
    return {
        "model": agent.model,
        "settings": agent.model_dump(mode="json", exclude=NOT_ASKED_WITH, exclude_defaults=True),
        "rest": sha256(rest.encode()).hexdigest()[:12],
    }


def agent_price(name: str, config: QueueConfig, service_tier: str | None = None) -> Price | None:
    """Return the price of an agent's model in jobs of `service_tier`; None: unknown.

    Raises:
        InvalidPayload: the name is unknown.
    """
    return price_of(config_of(name, config, service_tier), config, name=name)


def without_price(names: Iterable[str], config: QueueConfig) -> list[str]:
    """Return the agents among `names` whose price is not known.

    Raises:
        InvalidPayload: a name is unknown.
        ConfigError: the list that may have the price is not installed.

    """
    unpriced = _unpriced(names, config)
    for name in unpriced if price_list() is None else ():
        if not config_of(name, config).base_url:
            raise ConfigError(
                f"the price of agent {name:.100} needs an extra that is not installed",
                hint=f"{LLM_HINT}; or add the price of its model to [prices] of the configuration",
            )
    return unpriced


def check_prices(config: QueueConfig) -> None:
    """Raise ConfigError for a price of something that is neither an agent nor a model."""
    models = {agent.model for agent in config.agents.values()}
    for name in config.prices:
        try:
            if name not in models:
                config_of(name, config)
        except InvalidPayload as error:
            raise ConfigError(
                f"prices.{name:.100}: a price without a model: {error}", hint=error.hint
            ) from None


def unpriced_agents(config: QueueConfig) -> list[str]:
    """Return the configured and the default agents whose price is not known, sorted."""
    return sorted(_unpriced([*config.agents, *config.default_agents], config))


def _unpriced(names: Iterable[str], config: QueueConfig) -> list[str]:
    return [name for name in dict.fromkeys(names) if agent_price(name, config) is None]


def choose_agents(
    config: QueueConfig, log: Callable[[str], None] | None = None
) -> tuple[list[str], str]:
    """Return the best agents available on this machine, at least three, and a line that describes them.

    In this order: the agents of the configuration, models whose API keys are set, the local model,
    demo agents. The local model is downloaded if `log` is given; `log` receives the progress.
    """
    if config.agents:
        names = list(config.agents)
        return _fill_seats(names), f"{', '.join(names)}: from your configuration"
    if find_spec("pydantic_ai"):
        if names := [name for name, key in KEYS.items() if os.environ.get(key)]:
            description = "real answers, billed to your API key, a few cents per debate"
            return _fill_seats(names), f"{' and '.join(names)}: {description}"
        model = model_files.DEFAULT_MODEL
        if find_spec("xllamacpp") and model_files.is_available(model, log):
            description = "a real but very small model on this machine; free, slow, and often wrong"
            return _fill_seats([f"local:{model}"]), f"three seats of {model}: {description}"
    description = "their answers are computed from the question's words; no model is called"
    return [f"demo:{persona}" for persona in PERSONAS], f"three demo agents: {description}"


def _fill_seats(names: list[str]) -> list[str]:
    return [*names, *names * 2][: max(MIN_CHOSEN_AGENTS, len(names))]


class AgentRegistry:
    """The agents of one worker. Models are built when a debate first uses them, and cached."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._agents: dict[tuple[str, str | None], Agent] = {}
        """By name and service tier."""
        self._lock = asyncio.Lock()

    def check(self) -> None:
        """Build the agents of the configuration, their fallbacks, and those of ALIASES whose API key is set.

        So their libraries are loaded before the first job, from the same version.

        Raises:
            ConfigError: a configured one cannot be built, or the API key of another cannot be used.

        """
        check_prices(self._config)
        fallbacks = [name for agent in self._config.agents.values() for name in agent.fallback]
        for name in dict.fromkeys([*self._config.agents, *fallbacks]):
            try:
                config = config_of(name, self._config)
            except InvalidPayload as error:
                raise ConfigError(str(error), hint=error.hint) from None
            try:
                if config.model.partition(":")[0] not in ("demo", "local"):
                    self._agents[name, config.service_tier] = _build_agent(
                        name, config, self._config
                    )
            except (PermanentError, InvalidPayload, WorkerUnable) as error:
                raise ConfigError(f"agent {name}: {error}", hint=error.hint) from None
        if find_spec("pydantic_ai"):
            self._build_aliases()
        else:
            logger.warning(
                "no LLM support is installed; only demo agents are available",
                extra={"remedy": LLM_HINT},
            )

    def _build_aliases(self) -> None:
        for name, variable in KEYS.items():
            if name in self._config.agents or not os.environ.get(variable, "").strip():
                continue
            config = config_of(name, self._config)
            try:
                keys.read(variable, config)
            except PermanentError as error:
                raise ConfigError(str(error), hint=error.hint) from None
            with suppress(PermanentError, WorkerUnable):  # its library is not installed
                self._agents[name, config.service_tier] = _build_agent(name, config, self._config)

    def resolve(self, names: Iterable[str]) -> None:
        """Check that every name is one of an agent. Raises InvalidPayload for the first that is not."""
        check_agents(names, self._config)

    async def agent(self, name: str, seat: int, service_tier: str | None = None) -> Agent:
        """Return the agent called `name` as a job of `service_tier` asks it.

        `seat` chooses the persona of agents named just `demo`.

        Raises:
            InvalidPayload: the name is unknown.
            PermanentError: the agent cannot be built on this machine (missing extra, key or model).
            AgentUnavailable: it cannot be built for a reason that this module does not know.
            WorkerUnable: the libraries cannot be loaded, for example after an upgrade.

        """
        config = config_of(name, self._config, service_tier)
        if config.model.partition(":")[0] == "demo":
            from aragora_q.executors.debate import demo  # noqa: PLC0415 - names are checked without it

            _, _, persona = demo.model_of(config.model, seat).partition(":")
            return demo.DemoAgent(name, persona, agent_price(name, self._config))
        async with self._lock:
            key = name, config.service_tier
            agent = self._agents.pop(key, None)
            if agent is None:
                agent = await _build_in_thread(name, config, self._config)
            self._agents[key] = agent  # last: the order is that of use
            self._evict()
        return agent

    async def close(self) -> None:
        """Close the connections of all agents."""
        for agent in self._agents.values():
            if (close := getattr(agent, "close", None)) is not None:
                await close()

    def _evict(self) -> None:
        """Drop the least recently used models beyond MAX_CACHED_MODELS; configured ones stay."""
        evictable = [key for key in self._agents if key[0] not in self._config.agents]
        for key in evictable[:-MAX_CACHED_MODELS]:
            del self._agents[key]


def config_of(name: str, config: QueueConfig, service_tier: str | None = None) -> AgentConfig:
    """Return what `name` stands for in jobs of `service_tier`: with the tier that it has there.

    Raises:
        InvalidPayload: the name is unknown.
    """
    return in_tier(_known_config(name, config), service_tier)


def _known_config(name: str, config: QueueConfig) -> AgentConfig:
    try:
        agent = config.agents.get(name) or AgentConfig(model=name)
    except ValidationError:  # an empty name, or one with a null character
        raise InvalidPayload(f"unknown agent {name!r:.100}: this cannot be a model") from None
    if agent.model in ALIASES and not agent.base_url:
        agent = agent.model_copy(update={"model": ALIASES[agent.model]})
    kind, colon, detail = agent.model.partition(":")
    if kind == "demo" and (not colon or detail in PERSONAS):
        return agent
    if kind == "local" and detail in model_files.MODELS:
        return agent
    provider, model = split_model(agent.model)
    if agent.base_url and provider not in (None, *ADDRESSABLE):
        raise InvalidPayload(
            f"agent {name:.100}: models of {provider} cannot be at a base_url",
            hint="for a server with an OpenAI-compatible API, the model is openai-chat:NAME, "
            "openai-responses:NAME, or NAME alone",
        )
    if model and (agent.base_url or provider):
        return agent
    if name in config.agents:
        known = list(KNOWN)
        fault = f"agent {name:.100}: unknown model {agent.model!r:.100}"
    else:
        known = known_agents(config)
        fault = f"unknown agent {name!r:.100}"
    if detail and (provider := nearest(kind, PROVIDERS)):
        known_like = [*known, f"{provider}:{detail}"]
    else:
        known_like = known
    raise InvalidPayload(
        f"{fault}: must be {', '.join(known)} or provider:model",
        hint=did_you_mean(agent.model, known_like, cutoff=0.5),
    )


async def _build_in_thread(name: str, config: AgentConfig, settings: QueueConfig) -> Agent:
    try:
        return await asyncio.to_thread(_build_agent, name, config, settings)
    except Exception as error:
        if isinstance(error, AragoraQError) or is_machine_limit(error):
            raise
        reason = keys.mask(describe(error))
        raise AgentUnavailable(f"{config.model} cannot be built: {reason}") from error


def _build_agent(name: str, config: AgentConfig, settings: QueueConfig) -> Agent:
    """Build a model's agent. Slow, because it imports the libraries it needs. Raises PermanentError."""
    if not find_spec("pydantic_ai"):
        raise PermanentError(f"{config.model} needs an extra that is not installed", hint=LLM_HINT)
    if config.model.startswith("local:"):
        from aragora_q.executors.debate.local import agent as local  # noqa: PLC0415 - an extra

        return local.create(name, config, settings)
    variable = keys.variable_of(config)
    key = keys.read(variable, config) if variable else None  # else the client reads it
    try:
        from aragora_q.executors.debate import llm  # noqa: PLC0415 - an extra
    except Exception as error:
        raise WorkerUnable(
            f"the libraries of {config.model} cannot be loaded: {keys.mask(describe(error))}"
        ) from error
    return llm.ModelAgent(name, config, key, settings)
