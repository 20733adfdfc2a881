"""Agents that are language models, called through pydantic-ai.

Built by the agent registry; the only module that imports pydantic-ai. An agent sends each request once
(the library's retries are off, because the queue retries) and translates provider errors into those
that the queue understands.
"""

from __future__ import annotations

from contextlib import suppress
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any

import pydantic_ai
from pydantic import BaseModel
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import Provider, infer_provider_class
from pydantic_ai.run import AgentRunResult
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RunUsage

from aragora_q.config.settings import AgentConfig
from aragora_q.errors import AgentUnavailable, PermanentError, RetryLater, WorkerUnable
from aragora_q.executors.debate.prompts import Prompt, prompt_for
from aragora_q.executors.debate.requests import AgentRequest, Reply
from aragora_q.retry import describe, is_machine_limit

for _name in ("anyio._backends._asyncio", "opentelemetry.propagate"):
    with suppress(ImportError):
        import_module(_name)  # before the first job, not with the first connection

pydantic_ai.BANNER_ENABLED = False  # it would be printed between the lines of `aragora-q demo`

DEFAULT_RETRY_AFTER_SECONDS = 30.0
"""Delay after a rate limit whose response names none."""

MAX_ERROR_CHARS = 300

POINTS_CHARS_PER_TOKEN = 2
"""Low enough that the longest review and its JSON fit into `max_tokens`."""

TRANSIENT_STATUS_CODES = (408, 409, 425)
PERMANENT_ERRORS = (
    ContentFilterError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
    UserError,
)


class ModelAgent:
    """A language model as a participant. Raises PermanentError if it cannot be built from `config`."""

    def __init__(self, name: str, config: AgentConfig, key: str | None) -> None:
        self.name = name
        self._key = key
        self._max_tokens = config.max_tokens
        try:
            self._model = _build_model(config, key)
        except Exception as error:  # noqa: BLE001 - a provider's library may raise anything
            text = self._redact(_first_sentence(error))
            raise PermanentError(f"{config.model}: {text}") from None
        self._settings = ModelSettings(
            timeout=config.timeout_seconds,
            request_timeout=config.timeout_seconds * 1.5,
            max_retries=0,
            max_tokens=config.max_tokens,
        )

    async def reply(self, request: AgentRequest) -> Reply:
        """Send the request to the model once; raises as `Agent.reply`."""
        prompt = self.prompt_for(request)
        usage, cost_usd = RunUsage(), 0.0
        try:
            result = await self._run(prompt, usage)
            value, cost_usd = self.to_value(request, result.output), _cost_usd(result.response)
        except UnexpectedModelBehavior as error:
            has_replied = usage.requests > 0 and not isinstance(error, ContentFilterError)
            if prompt.form is None or not has_replied:
                raise self._translate(error) from error
            value = None  # it replied, but not in the requested form
        except Exception as error:  # a library may stumble over anything that a provider sends
            raise self._translate(error) from error
        return Reply(value, usage.input_tokens, usage.output_tokens, cost_usd)

    def prompt_for(self, request: AgentRequest) -> Prompt:
        """Return the prompt for `request`."""
        return prompt_for(request, max_points_chars=self._max_tokens * POINTS_CHARS_PER_TOKEN)

    def to_value(self, request: AgentRequest, output: Any) -> dict[str, Any]:  # noqa: ARG002 - for subclasses
        """Return the model's output as the `value` of a Reply to `request`."""
        if isinstance(output, BaseModel):
            return output.model_dump()
        return {"text": str(output).strip()}

    async def _run(self, prompt: Prompt, usage: RunUsage) -> AgentRunResult[Any]:
        agent: pydantic_ai.Agent[None, Any] = pydantic_ai.Agent(
            self._model,
            instructions=prompt.instructions or None,
            output_type=self._output_type(prompt.form),
            retries=0,
        )
        return await agent.run(prompt.text, model_settings=self._settings, usage=usage)

    def _output_type(self, form: type[BaseModel] | None) -> Any:
        """Return how to enforce `form`: the provider's JSON schema mode if it has one, else a tool call."""
        if form is None:
            return str
        if self._model.profile.get("supports_json_schema_output"):
            return pydantic_ai.NativeOutput(form)
        return form

    def _translate(self, error: Exception) -> Exception:
        text = self._redact(" ".join(describe(error).split()))
        if is_machine_limit(error):
            return WorkerUnable(text)
        if isinstance(error, ModelRateLimitError):
            return RetryLater(text, delay_seconds=_retry_after_seconds(error))
        return AgentUnavailable(text) if _is_transient(error) else PermanentError(text)

    def _redact(self, text: str) -> str:
        """Remove the API key, which a provider may quote, and cut `text` to MAX_ERROR_CHARS."""
        return (text.replace(self._key, "***") if self._key else text)[:MAX_ERROR_CHARS]


def _cost_usd(response: ModelResponse) -> float:
    """Return the price of a call by the provider's price list, or 0 if the model has no known price."""
    try:
        return float(response.cost().total_price)
    except (LookupError, ValueError):
        return 0.0


def _retry_after_seconds(error: ModelRateLimitError) -> float:
    """Return the delay that the provider asks for. A date counts from the provider's own, not by our clock."""
    headers = getattr(error, "headers", None) or {}
    seconds = error.retry_after
    with suppress(KeyError, TypeError, ValueError):  # one of them is missing, or not a date
        until, now = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        seconds = max(0.0, (until - now).total_seconds())
    return seconds or DEFAULT_RETRY_AFTER_SECONDS


def _is_transient(error: Exception) -> bool:
    """Return True if the same call may succeed later.

    Errors of unknown kind count as transient, for example an HTML page of a proxy instead of JSON.
    """
    if isinstance(error, PERMANENT_ERRORS):
        return False
    if isinstance(error, ModelUnavailableError | ModelServerError):
        return True
    if isinstance(error, ModelHTTPError):
        return error.status_code in TRANSIENT_STATUS_CODES or error.status_code >= 500
    return True


def _build_model(config: AgentConfig, key: str | None) -> Model:
    """Build the model that `config` names. Raises UserError, or anything else from a provider's library."""
    provider, _, model_name = config.model.partition(":")
    if config.base_url is None:
        return _infer_model(config.model, key)
    if provider == "anthropic":
        from pydantic_ai.models.anthropic import AnthropicModel  # noqa: PLC0415
        from pydantic_ai.providers.anthropic import AnthropicProvider  # noqa: PLC0415

        return AnthropicModel(
            model_name, provider=AnthropicProvider(api_key=key, base_url=config.base_url)
        )
    from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415

    service = OpenAICompatibleProvider(
        "openai-compatible", base_url=config.base_url, api_key=key or "none"
    )
    return OpenAIChatModel(model_name or config.model, provider=service)


def _infer_model(model: str, key: str | None) -> Model:
    """Build a model from its string. Without `key`, the provider's SDK finds one in the environment."""
    if key is None:
        return infer_model(model)

    def provider_with_key(name: str) -> Provider[Any]:
        return infer_provider_class(name)(api_key=key)  # type: ignore[call-arg] # most take one

    return infer_model(model, provider_with_key)


def _first_sentence(error: Exception) -> str:
    """Return the error's first sentence; the rest is advice for users of the library's API."""
    text = (
        str(error) if isinstance(error, UserError | ImportError | ValueError) else describe(error)
    )
    return text.partition(". ")[0].partition("\n")[0][:MAX_ERROR_CHARS]
