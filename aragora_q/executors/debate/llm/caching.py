"""What providers' prompt caches need, so that the calls of a debate read the prefix that they share.

OpenAI caches what requests have in common, and routes those with one key to one place. Its newer models and
those of Anthropic, also at Bedrock and OpenRouter, read only up to points that requests name, and charge for
what is written there. Other servers get requests without any of this: it is not known what they accept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from pydantic_ai.messages import CachePoint, UserContent
from pydantic_ai.models import Model

from aragora_q.config.tables import AgentConfig
from aragora_q.executors.debate.prompts import Prompt
from aragora_q.executors.debate.providers import split_model

OPENAI = "openai"
OWN_HOSTS = {OPENAI: "api.openai.com", "anthropic": "api.anthropic.com"}
"""Hosts of the providers whose clients an environment variable may send elsewhere."""


class Caching:
    """How the requests of one model use its provider's cache."""

    def __init__(self, config: AgentConfig, model: Model) -> None:
        provider, _ = split_model(config.model)
        client = (provider or "").partition("-")[0]
        host = urlsplit(str(model.base_url)).hostname or ""
        is_own = not config.base_url and provider is not None
        is_own = is_own and host.endswith(OWN_HOSTS.get(client, ""))
        self._has_keys = is_own and client == OPENAI
        self._needs_points = is_own and bool(model.profile.get("supports_cache"))
        self._has_modes = bool(model.profile.get("openai_supports_prompt_cache_breakpoints"))

    def content(self, prompt: Prompt, text: str) -> str | Sequence[UserContent]:
        """Return `text`, which begins with that of `prompt`, with points after what other calls share."""
        if not (self._needs_points and prompt.shared):
            return text
        parts: list[UserContent] = []
        for start, end in pairwise((0, *prompt.shared)):
            parts += [text[start:end], CachePoint()]
        return [*parts, text[prompt.shared[-1] :]]

    def settings(self, prompt: Prompt) -> dict[str, Any]:
        """Return the settings of a call with `prompt`, as pydantic-ai names them."""
        made: dict[str, Any] = {}
        if prompt.debate and self._has_keys:
            made["openai_prompt_cache_key"] = f"debate-{prompt.debate}"
        if prompt.debate and self._needs_points and self._has_modes:
            # Else all of the prompt enters the cache, which costs more, and is not read again.
            made["openai_prompt_cache_options"] = {"mode": "explicit"}
        return made
