"""Agents that are language models: the only module that imports pydantic-ai.

Made by the roster for names that mean a model. Puts a task as a prompt, asks once (the library's
own retries are off: the queue retries), and says in our errors what the queue should make of a
fault.
"""

from __future__ import annotations

from typing import Any

import pydantic_ai
from pydantic import BaseModel
from pydantic_ai import Agent as Conversation
from pydantic_ai import NativeOutput
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelRequestTimeout,
    ModelServerError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import Provider, infer_provider_class
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RunUsage

from aragora_q.config.settings import AgentConfig
from aragora_q.errors import AgentUnavailable, PermanentError, RetryLater
from aragora_q.executors.debate.prompts import Prompt, prompt_for, small_prompt_for
from aragora_q.executors.debate.requests import Reply, Review, Task

pydantic_ai.BANNER_ENABLED = False  # a terminal that watches a debate is ours

DEFAULT_RETRY_AFTER_SECONDS = 30.0
"""How long a rate limit lasts whose provider does not say."""

MAX_FAULT_CHARS = 300

POINTS_CHARS_PER_TOKEN = 2
"""A review as long as it may be, and the JSON around it, fit into the tokens of a call."""

TRANSIENT_STATUS = (408, 409, 425)
TRANSIENT = (
    UnexpectedModelBehavior,
    ModelConnectionError,
    ModelRequestTimeout,
    ModelServerError,
    ModelUnavailableError,
    TimeoutError,
    ConnectionError,
)


class ModelAgent:
    """A language model with a seat. Raises PermanentError if it cannot be built."""

    def __init__(
        self, name: str, behind: AgentConfig, key: str | None, *, is_small: bool = False
    ) -> None:
        self.name = name
        self._key = key
        self._is_small = is_small
        self._max_tokens = behind.max_tokens
        try:
            self._model = _build(behind, key)
        except (UserError, ImportError, ValueError) as error:
            raise PermanentError(f"{behind.model}: {_first_sentence(error)}") from None
        self._settings = ModelSettings(
            timeout=behind.timeout_seconds,
            request_timeout=behind.timeout_seconds * 1.5,
            max_retries=0,
            max_tokens=behind.max_tokens,
        )

    async def reply(self, task: Task) -> Reply:
        """Ask the model once."""
        prompt = self._prompt_for(task)
        usage, cost_usd = RunUsage(), 0.0
        try:
            value, cost_usd = await self._ask(prompt, usage)
            if self._is_small and isinstance(task, Review):
                value = {"points": value["text"], "best": None, "stop": False}
        except UnexpectedModelBehavior as error:
            is_reply = usage.requests > 0 and not isinstance(error, ContentFilterError)
            if prompt.form is None or not is_reply:
                raise self._fault(error) from error
            value = None  # it answered, but not in the form asked for
        except (ModelAPIError, UserError, TimeoutError, ConnectionError) as error:
            raise self._fault(error) from error
        return Reply(value, usage.input_tokens, usage.output_tokens, cost_usd)

    def _prompt_for(self, task: Task) -> Prompt:
        if self._is_small:
            return small_prompt_for(task)
        return prompt_for(task, max_points_chars=self._max_tokens * POINTS_CHARS_PER_TOKEN)

    async def _ask(self, prompt: Prompt, usage: RunUsage) -> tuple[dict[str, Any], float]:
        conversation: Conversation[None, Any] = Conversation(
            self._model,
            instructions=prompt.instructions or None,
            output_type=self._form(prompt.form),
            retries=0,
        )
        done = await conversation.run(prompt.text, model_settings=self._settings, usage=usage)
        if isinstance(done.output, BaseModel):
            return done.output.model_dump(), _cost_usd(done.response)
        return {"text": str(done.output).strip()}, _cost_usd(done.response)

    def _form(self, form: type[BaseModel] | None) -> Any:
        """How the model is held to a form: by its own grammar where it has one, else by a tool."""
        if form is None:
            return str
        if self._model.profile.get("supports_json_schema_output"):
            return NativeOutput(form)
        return form

    def _fault(self, error: Exception) -> Exception:
        text = self._without_key(f"{type(error).__name__}: {' '.join(str(error).split())}")
        if isinstance(error, ModelRateLimitError):
            delay_seconds = error.retry_after or DEFAULT_RETRY_AFTER_SECONDS
            return RetryLater(text, delay_seconds=delay_seconds)
        return AgentUnavailable(text) if _is_transient(error) else PermanentError(text)

    def _without_key(self, text: str) -> str:
        """`text`, short, and without the agent's key, which a provider may quote."""
        return (text.replace(self._key, "***") if self._key else text)[:MAX_FAULT_CHARS]


def _cost_usd(response: ModelResponse) -> float:
    """What a call cost by the provider's price list; 0 if the model is on none."""
    try:
        return float(response.cost().total_price)
    except (LookupError, ValueError):
        return 0.0


def _is_transient(error: Exception) -> bool:
    refused = (
        ContentFilterError,
        ModelQuotaExceededError,
        ModelRequestRejectedError,
        UserError,
    )
    if isinstance(error, refused):
        return False
    if isinstance(error, TRANSIENT):
        return True
    if isinstance(error, ModelHTTPError):
        return error.status_code in TRANSIENT_STATUS or error.status_code >= 500
    return True  # a body that cannot be understood, such as a proxy's page of HTML


def _build(behind: AgentConfig, key: str | None) -> Model:
    """The model behind a configuration. Raises UserError, ImportError or ValueError."""
    provider, _, model_name = behind.model.partition(":")
    if behind.base_url is None:
        return _keyed(behind.model, key)
    if provider == "anthropic":
        from pydantic_ai.models.anthropic import AnthropicModel  # noqa: PLC0415
        from pydantic_ai.providers.anthropic import AnthropicProvider  # noqa: PLC0415

        return AnthropicModel(
            model_name, provider=AnthropicProvider(api_key=key, base_url=behind.base_url)
        )
    from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415

    service = OpenAICompatibleProvider(
        "openai-compatible", base_url=behind.base_url, api_key=key or "none"
    )
    return OpenAIChatModel(model_name or behind.model, provider=service)


def _keyed(model: str, key: str | None) -> Model:
    """A provider's model; its key from where the provider looks for it, unless there is one."""
    if key is None:
        return infer_model(model)

    def provider_with_key(name: str) -> Provider[Any]:
        return infer_provider_class(name)(api_key=key)  # type: ignore[call-arg] # most take one

    return infer_model(model, provider_with_key)


def _first_sentence(error: Exception) -> str:
    """What is wrong, without the library's advice to its own users."""
    return str(error).partition(". ")[0].partition("\n")[0][:MAX_FAULT_CHARS]
