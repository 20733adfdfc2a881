"""What the strings of models mean: `provider:model`, and which providers may be reached at another address.

Kept here so that names can be checked without pydantic-ai; a test compares them with it.
"""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import urlsplit

from aragora_q.base import MAX_HOLD_BY_BYTES
from aragora_q.config.tables import AgentConfig
from aragora_q.context import FLEX_GATE
from aragora_q.job import SERVICE_TIERS

ALIASES = {
    "claude": "anthropic:claude-sonnet-5-5",
    "gpt": "openai:gpt-6.1-terra",
}
"""Names that work without configuration; `[agents]` and ARAGORA_AGENT_<NAME> override them."""

_PROVIDER_NAMES = (
    "alibaba anthropic azure azure-responses bedrock bedrock-mantle cerebras cohere crusoe "
    "deepseek fireworks github github-copilot google google-cloud groq heroku huggingface "
    "litellm meta mistral moonshotai nebius ollama openai openai-chat openai-chatgpt "
    "openai-codex openai-responses openrouter ovhcloud sambanova snowflake together vercel "
    "vllm xai zai"
)
PROVIDERS = frozenset(_PROVIDER_NAMES.split())
"""Providers of model strings, as pydantic-ai names them."""

_ADDRESSABLE_NAMES = (
    "alibaba anthropic bedrock bedrock-mantle github-copilot google google-cloud groq heroku huggingface "
    "mistral moonshotai ollama openai openai-chat openai-responses sambanova snowflake vllm zai"
)
ADDRESSABLE = frozenset(_ADDRESSABLE_NAMES.split())
"""Providers whose protocol is also spoken at a `base_url`."""


PERSONAS = ("bold", "careful", "curious")
"""The demo agents are `demo:<persona>`; they call no model."""

_EVERY_TIER = frozenset(SERVICE_TIERS)
TIERS = {
    "anthropic": frozenset({"auto", "default"}),
    **dict.fromkeys(
        ("bedrock", "google", "google-cloud", "openai", "openai-chat", "openai-responses"),
        _EVERY_TIER,
    ),
}
"""Service tiers of providers, by the prefix of their models. Others have those that `[agents]` asks for."""


def in_tier(config: AgentConfig, asked: str | None) -> AgentConfig:
    """Return `config` with the service tier that is asked for in a job that asks for `asked`.

    What `[agents]` says of an agent counts first, but for a tier that its provider is known not to have. A
    server at a `base_url` is not known to have tiers.
    """
    known = TIERS.get(config.model.partition(":")[0])
    tier: str | None = config.service_tier
    if tier is None and known and not config.base_url:
        tier = asked
    if known and tier not in known:
        tier = None
    if tier == config.service_tier:
        return config
    return config.model_copy(update={"service_tier": tier})


def split_model(model: str) -> tuple[str | None, str]:
    """Return the provider of a model string, and the model's name; None for a name without a known provider."""
    provider, colon, name = model.partition(":")
    if colon and provider.removeprefix("gateway/") in PROVIDERS:
        return provider, name
    return None, model


def provider_of(config: AgentConfig) -> str:
    """Return whose limits apply to an agent: as configured, else the host of its address or its model's prefix.

    One provider may speak several protocols, so `openai-chat` is `openai`.
    """
    if config.provider:
        return config.provider
    if config.base_url:
        return urlsplit(config.base_url).hostname or "unknown"
    kind = config.model.partition(":")[0]
    if kind.startswith("gateway/"):
        return "gateway"
    return "openai" if kind in ("openai-chat", "openai-responses") else kind


def account_of(
    provider: str, address: str, key: str | None, service_tier: str | None = None
) -> str:
    """Return a printable name of what shares a provider's limits; the key cannot be found from it.

    A job that it holds keeps it whole. The flex tier has a gate for itself: it may have no capacity while
    the others have.
    """
    digest = sha256(f"{address} {key or ''}".encode(errors="replace")).hexdigest()[:8]
    room = MAX_HOLD_BY_BYTES - len(f"@{digest}{FLEX_GATE}")
    account = f"{provider.encode()[:room].decode(errors='ignore')}@{digest}"
    return account + FLEX_GATE if service_tier == "flex" else account
