"""Build the model that an agent's configuration names, with the HTTP client that collects streamed replies."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, cast

import httpx2
from pydantic_ai.models import Model, ModelRequestParameters, infer_model
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.providers import Provider, infer_provider_class
from pydantic_ai.providers.gateway import gateway_provider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from aragora_q.config.tables import AgentConfig
from aragora_q.executors.debate.llm.streaming import CONNECT_SECONDS, Client, hide_trace
from aragora_q.executors.debate.prompts import Form
from aragora_q.executors.debate.providers import split_model
from aragora_q.observability.logs import get_logger
from aragora_q.retry import describe

logger = get_logger(__name__)

OWN_STREAMS = frozenset({"openai-codex", "openai-chatgpt", "github-copilot"})
"""Providers whose models stream differently."""


def build(config: AgentConfig, key: str | None) -> tuple[Model, bool]:
    """Return the model of `config`, and whether its HTTP client is ours, which collects streamed replies.

    Raises whatever the libraries raise: UserError, ImportError, ValueError, errors of a provider's client.
    """
    model, is_ours = _build(config, key)
    if is_ours:
        model.client.max_retries = (
            0  # as a setting of calls, it would copy the client for each of them
        )
    return model, is_ours


def _build(config: AgentConfig, key: str | None) -> tuple[Any, bool]:
    provider_name, model_name = split_model(config.model)
    if provider_name is None:
        from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415 - an extra

        return OpenAIChatModel(model_name, provider=_compatible(config, key)), True
    collects = False

    def provider_of(name: str) -> Provider[Any]:
        nonlocal collects
        if config.base_url is not None and name.startswith("openai"):
            collects = True
            return _compatible(config, key)
        made, collects = _provider(name, config, key)
        return made

    return infer_model(f"{provider_name}:{model_name}", provider_of), collects


def _compatible(config: AgentConfig, key: str | None) -> Provider[Any]:
    """Return a server that speaks a protocol of OpenAI. It gets `key`, never one from the environment."""
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415 - an extra

    return OpenAICompatibleProvider(
        "openai-compatible",
        base_url=config.base_url or "",
        api_key=key or "none",
        http_client=Client(),
    )


def _provider(name: str, config: AgentConfig, key: str | None) -> tuple[Provider[Any], bool]:
    """Return a provider, and whether it uses our HTTP client. Without `key`, its SDK finds one."""
    if name.startswith("gateway/"):
        return _without_trace(gateway_provider(name.removeprefix("gateway/"), api_key=key)), False
    known = inspect.signature(kind := infer_provider_class(name)).parameters
    options = {"api_key": key, "base_url": config.base_url}
    make = partial(kind, **{name: value for name, value in options.items() if value is not None})
    provider = make()
    if name in OWN_STREAMS or "http_client" not in known or not _is_known_client(provider.client):
        return _without_trace(provider), False
    return make(http_client=Client()), True  # type: ignore[call-arg] # see the signature


def _without_trace(provider: Provider[Any]) -> Provider[Any]:
    """Let a provider send no trace context. Its HTTP client, if it has one, is a private attribute."""
    if (client := getattr(provider, "_own_http_client", None)) is not None:
        hide_trace(client)
    return provider


def _is_known_client(client: object) -> bool:
    """Return True for clients of OpenAI and Anthropic and those derived from them: they take our Client."""
    return any(
        (base.__module__.partition(".")[0], base.__name__)
        in (("openai", "AsyncOpenAI"), ("anthropic", "AsyncAnthropic"))
        for base in type(client).__mro__
    )


async def close(model: Model) -> None:
    """Close the connections of a model's client."""
    closing = getattr(getattr(model, "client", None), "close", None)
    if inspect.isawaitable(done := closing() if closing else None):
        await done


def key_of(model: Model) -> str | None:
    """Return the API key that a model's client uses, wherever it found it."""
    key = getattr(getattr(model, "client", None), "api_key", None)
    return key if isinstance(key, str) else None


def best_structure(model: Model, config: AgentConfig) -> str:
    """Return how replies of a form are enforced: as configured, or as the model's profile allows."""
    if config.structured != "auto":
        return config.structured
    if model.profile.get("supports_json_schema_output"):
        return "native"
    return "tool" if model.profile.get("supports_tools", True) else "prompted"


def parameters_of(model: Model, form: Form, structured: str) -> ModelRequestParameters:
    """Return the parameters that enforce `form`; plain ones if the library does not take its schema."""
    schema = dict(form.schema)
    if structured == "native":
        output = OutputObjectDefinition(json_schema=schema, name=form.name)
        made = ModelRequestParameters(output_mode="native", output_object=output)
    else:
        tool = ToolDefinition(
            name=form.name,
            parameters_json_schema=schema,
            description="Give your reply.",
            kind="output",
        )
        made = ModelRequestParameters(
            output_mode="tool", output_tools=[tool], allow_text_output=False
        )
    try:
        model.prepare_request(None, made)
    except Exception as error:  # noqa: BLE001 - a library may stumble over any schema
        extra = {"form": form.name, "reason": describe(error)}
        logger.warning(
            "a library does not take a schema; its form is asked for in words", extra=extra
        )
        return ModelRequestParameters()
    return made


def settings(config: AgentConfig, model: Model, *, is_ours: bool, streams: bool) -> ModelSettings:
    """Return the settings of one call.

    `is_ours`: the model has our HTTP client, which collects the stream that the settings then ask for.
    """
    made: Any = {"max_tokens": config.max_tokens}  # also settings of one provider
    optional = {
        "temperature": config.temperature,
        "seed": config.seed,
        "service_tier": config.service_tier,
        "thinking": False if config.effort == "off" else config.effort,
    }
    made |= {name: value for name, value in optional.items() if value is not None}
    if is_ours:
        seconds = config.silence_seconds
        made["timeout"] = httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    else:
        made |= {"timeout": config.silence_seconds, "max_retries": 0}
    if _is_a(model, "OpenAIResponsesModel") or config.store:
        made["openai_store"] = config.store
    if is_ours and streams:
        options = {"stream_options": {"include_usage": True}}
        made["extra_body"] = {
            "stream": True,
            **(options if _is_a(model, "OpenAIChatModel") else {}),
        }
    return cast(ModelSettings, made)


def _is_a(model: Model, name: str) -> bool:
    return any(base.__name__ == name for base in type(model).__mro__)
