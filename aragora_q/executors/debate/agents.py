"""Who is meant by an agent's name: the one table of names, and what stands behind each.

In this order: the configuration's `[agents]`, `demo` and `demo:<persona>`, `local:<model>`, the
built-in names below, a model string `provider:model`. Knows which extra and which key an agent
needs; the models themselves are `llm.py`'s and `local.py`'s, imported when one is to be built.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec

from aragora_q.config.settings import AgentConfig, QueueConfig
from aragora_q.errors import ConfigError, InvalidPayload, PermanentError
from aragora_q.executors.debate import demo
from aragora_q.executors.debate.local import model_files as weights
from aragora_q.executors.debate.requests import Agent

logger = logging.getLogger(__name__)

ALIASES = {
    "claude": "anthropic:claude-sonnet-5-5",
    "gpt": "openai:gpt-6.1-terra",
}
"""Names that work without configuration; `[agents]` and ARAGORA_AGENT_<NAME> override them."""

PROVIDERS = frozenset(
    re.findall(
        r"\S+",
        "alibaba anthropic azure azure-responses bedrock bedrock-mantle cerebras cohere crusoe "
        "deepseek fireworks github github-copilot google google-cloud groq heroku huggingface "
        "litellm meta mistral moonshotai nebius ollama openai openai-chat openai-chatgpt "
        "openai-codex openai-responses openrouter ovhcloud sambanova snowflake together vercel "
        "vllm xai zai",
    )
)
"""What a model string may begin with; pydantic-ai's names."""

LLM_HINT = "pip install 'aragora-q[llm]'"

KEYS = {"claude": "ANTHROPIC_API_KEY", "gpt": "OPENAI_API_KEY"}
"""Where the built-in names' providers look for their keys."""


def check_agents(names: Iterable[str], config: QueueConfig) -> None:
    """Raise InvalidPayload, with the nearest name, for the first name that no agent answers to."""
    for name in names:
        _behind(name, config)


def choose_agents(
    config: QueueConfig, say: Callable[[str], None] | None = None
) -> tuple[list[str], str]:
    """Three seats with the best agents at hand, and a line about what to expect of them.

    Those of the configuration; else models whose keys are set; else the local model, if its weights
    are there or `say` is given, to tell of fetching them; else demo agents.
    """
    if config.agents:
        names = list(config.agents)
        return _three(names), f"{', '.join(names)}: as your configuration says"
    if find_spec("pydantic_ai"):
        if paid := [name for name, key in KEYS.items() if os.environ.get(key)]:
            text = "real answers, paid with your key, some cents a debate"
            return _three(paid), f"{' and '.join(paid)}: {text}"
        if find_spec("xllamacpp") and (found := _local_model(say)):
            text = "a real but very small model on this machine; free, slow, and often wrong"
            return _three([f"local:{found}"]), f"three seats of {found}: {text}"
    text = "what they say is computed from the words of the question; no model thinks here"
    return [f"demo:{persona}" for persona in demo.PERSONAS], f"three demo agents: {text}"


def _three(names: list[str]) -> list[str]:
    return [*names, *names * 2][: max(3, len(names))]


def _local_model(say: Callable[[str], None] | None) -> str | None:
    name = "smollm2"
    if weights.find(name) is None:
        if say is None:
            return None
        try:
            weights.fetch(name, say)
        except ConfigError as error:
            say(f"the local model cannot be had: {error}")
            return None
    return name


MAX_CACHED_MODELS = 32
"""Models that jobs name and the configuration does not, kept at once: each holds a client of its own."""


class AgentRegistry:
    """The agents of one worker. A model is built when a debate first wants it, and kept for others."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._built: dict[str, Agent] = {}
        self._lock = asyncio.Lock()

    def check(self) -> None:
        """Raise ConfigError if an agent of the configuration cannot be built."""
        for name, agent in self._config.agents.items():
            try:
                _behind(name, self._config)
                if not _is_built_in(agent.model):
                    self._built[name] = _model(name, agent)
            except (PermanentError, InvalidPayload) as error:
                raise ConfigError(f"agent {name}: {error}", hint=error.hint) from None
        if not find_spec("pydantic_ai"):
            logger.warning("only demo agents can debate here", extra={"remedy": LLM_HINT})

    async def agent(self, name: str, seat: int) -> Agent:
        """Whoever is meant by `name`, on seat number `seat`.

        Raises InvalidPayload if nobody is, PermanentError if it cannot be had on this machine.
        """
        behind = _behind(name, self._config)
        kind, _, which = behind.model.partition(":")
        if kind == "demo":
            persona = which or demo.PERSONAS[seat % len(demo.PERSONAS)]
            return demo.DemoAgent(name, persona)
        async with self._lock:
            agent = self._built.pop(name, None)
            if agent is None:
                agent = await asyncio.to_thread(_model, name, behind)
            self._built[name] = agent  # the latest used stands last
            passing = [each for each in self._built if each not in self._config.agents]
            for each in passing[:-MAX_CACHED_MODELS]:
                del self._built[each]
        return agent


def _behind(name: str, config: QueueConfig) -> AgentConfig:
    """What stands behind a name. Raises InvalidPayload."""
    found = config.agents.get(name) or AgentConfig(model=name)
    if found.model in ALIASES and not found.base_url:
        found = found.model_copy(update={"model": ALIASES[found.model]})
    kind, colon, which = found.model.partition(":")
    if kind == "demo" and (not colon or which in demo.PERSONAS):
        return found
    if kind == "local" and which in weights.MODELS:
        return found
    if found.base_url or (which and kind.removeprefix("gateway/") in PROVIDERS):
        return found
    known = [
        *config.agents, *ALIASES, "demo", *(f"demo:{each}" for each in demo.PERSONAS),
        *(f"local:{each}" for each in weights.MODELS),
    ]  # fmt: skip
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if which and not near:
        near = [f"{each}:{which}" for each in difflib.get_close_matches(kind, PROVIDERS, n=1)]
    raise InvalidPayload(
        f"unknown agent {name!r:.100}: neither {', '.join(known)}, nor provider:model",
        hint=f"did you mean {near[0]!r}?" if near else "",
    )


def _is_built_in(model: str) -> bool:
    return model.partition(":")[0] in ("demo", "local")


def _model(name: str, behind: AgentConfig) -> Agent:
    """Build a model's agent. Slow: it imports what it needs. Raises PermanentError."""
    if not find_spec("pydantic_ai"):
        raise PermanentError(f"{behind.model} needs an extra that is not installed", hint=LLM_HINT)
    key, is_small = None, behind.model.startswith("local:")
    if is_small:
        from aragora_q.executors.debate.local import model as local  # noqa: PLC0415 - imported where it is used

        behind, key = local.served(behind)
    elif behind.api_key_env is not None:
        key = os.environ.get(behind.api_key_env)
        if not key:
            raise PermanentError(f"{behind.model}: the environment has no {behind.api_key_env}")
    from aragora_q.executors.debate import llm  # noqa: PLC0415 - imported where it is used

    return llm.ModelAgent(name, behind, key, is_small=is_small)
