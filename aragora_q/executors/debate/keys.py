"""API keys of models: where they are, whether they can be sent, and how they are kept out of messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import quote

from aragora_q.config.tables import AgentConfig
from aragora_q.errors import PermanentError
from aragora_q.executors.debate.providers import split_model

VARIABLES = {
    "anthropic": "ANTHROPIC_API_KEY",
    **dict.fromkeys(("openai", "openai-chat", "openai-responses"), "OPENAI_API_KEY"),
}
"""Where these providers' clients find their API keys."""

MASK = "***"
MIN_SECRET_CHARS = 6
"""Shorter values are not masked: they are not keys, and ordinary words contain them."""

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRETS = re.compile(
    r"\b(?:(?:sk|pk|rk|gsk|xai|hf|r8|pplx|nvapi)[-_]|AIza|ya29\.|eyJ)[-_.A-Za-z0-9*\u2026]{8,}"  # forms of keys
    r"|(?i:(?<=bearer )|(?<=bearer: )|(?<=key=)|(?<=token=)|(?<=api-key: ))[^\s'\",;&]+"
    r"|(?<=://)[^/\s@]+(?=@)"
)


def variable_of(config: AgentConfig) -> str | None:
    """Return the variable with an agent's API key: the configured one, or that of its provider's client."""
    if config.api_key_env or config.base_url:
        return config.api_key_env
    provider = (split_model(config.model)[0] or "").removeprefix("gateway/")
    if provider in VARIABLES:
        return VARIABLES[provider]
    usual = f"{provider.replace('-', '_').upper()}_API_KEY"
    return usual if usual in os.environ else None  # else its client may read another one


def read(variable: str, config: AgentConfig) -> str:
    """Return the API key in `variable`, without blanks around it. Raises PermanentError, without the key."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise PermanentError(
            f"{config.model}: environment variable {variable} is not set where the worker runs"
        )
    if not re.fullmatch("[!-~]+", key):
        raise PermanentError(
            f"{config.model}: the API key in environment variable {variable} contains a blank, a line break "
            "or a letter outside ASCII, which no HTTP header can hold",
            hint="copy the key again",
        )
    return key


def mask(text: str, known: Iterable[str | None] = ()) -> str:
    """Return `text` without keys: those in `known`, those in the environment, and what looks like one."""
    environment = [value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    secrets = {
        secret for secret in (*known, *environment) if secret and len(secret) >= MIN_SECRET_CHARS
    }
    written = {form for secret in secrets for form in (secret, repr(secret)[1:-1], quote(secret))}
    for form in sorted(written, key=len, reverse=True):
        text = text.replace(form, MASK)
    return _SECRETS.sub(MASK, text)
