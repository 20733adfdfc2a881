"""What the strings of models mean: `provider:model`, and which providers may be reached at another address.

Kept here so that names can be checked without pydantic-ai; a test compares them with it.
"""

from __future__ import annotations

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


def split_model(model: str) -> tuple[str | None, str]:
    """Return the provider of a model string, and the model's name; None for a name without a known provider."""
    provider, colon, name = model.partition(":")
    if colon and provider.removeprefix("gateway/") in PROVIDERS:
        return provider, name
    return None, model
