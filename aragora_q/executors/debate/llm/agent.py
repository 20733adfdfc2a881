"""Ask a language model, with one request to its provider at a time, and judge what came back.

Built by the agent registry. The library's retries are off, because the queue retries. The text of a reply
is not judged here: `replies.py` does.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import pydantic_ai
from pydantic_ai.exceptions import ModelContextWindowExceededError, ModelRequestRejectedError
from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters

from aragora_q import tracing
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import NOT_ASKED_WITH, AgentConfig
from aragora_q.errors import AgentUnavailable, PermanentError
from aragora_q.executors.debate import prompts
from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.llm import faults, instrumentation, models
from aragora_q.executors.debate.llm.caching import Caching
from aragora_q.executors.debate.llm.streaming import Events, received
from aragora_q.executors.debate.prices import Price, price_of
from aragora_q.executors.debate.prompts import Form, Prompt
from aragora_q.executors.debate.providers import account_of, provider_of
from aragora_q.executors.debate.requests import (
    PLAIN,
    AgentRequest,
    CallFault,
    Manner,
    Reply,
    larger_output,
)
from aragora_q.observability.logs import get_logger

for _name in ("anyio._backends._asyncio", "opentelemetry.propagate"):
    with suppress(ImportError, ValueError):  # ValueError: OTEL_PROPAGATORS has an unknown name
        import_module(_name)  # before the first job, not with the first connection

pydantic_ai.BANNER_ENABLED = False  # it would be printed between the lines of `aragora-q demo`

logger = get_logger(__name__)

PROMPTED = "Answer only with JSON, without any other text. It must be valid against this JSON schema:\n{schema}"
REPAIR = "Your reply to this could not be used: {why}. Answer again, only with JSON of this form."

MAX_KNOWN_FORMS = 200
"""Number of forms whose parameters an agent keeps; schemas of jobs make more."""


REFUSAL_WORDS = re.compile(
    "(?i)filter|guardrail|safety|moderat|refus|block|sensitive|prohibit|recitation"
)
CUT_WORDS = re.compile("(?i)length|max_|token")
"""Words in finish reasons that the library does not know."""

SCHEMA_WORDS = re.compile("(?i)schema|format|output_config|structured|tool|grammar")
STREAM_WORDS = re.compile("(?i)stream")
"""Words of a provider that rejects a form, or a stream."""


class Way(NamedTuple):
    """How a request is sent."""

    streams: bool
    parameters: ModelRequestParameters
    """How the form is enforced; PLAIN_TEXT: in words."""

    @property
    def structured(self) -> str:
        """`native` (JSON schema), `tool`, or `prompted` (in words)."""
        mode = self.parameters.output_mode
        return "prompted" if mode == "text" else mode


PLAIN_TEXT = ModelRequestParameters()


class OtherWay(NamedTuple):
    """How to send a request instead, after a provider rejected it for `reason`."""

    way: Way
    reason: str


class ModelAgent:
    """A language model as a participant. Raises PermanentError if it cannot be built from `config`.

    `settings` has the prices of the configuration.
    """

    def __init__(
        self,
        name: str,
        config: AgentConfig,
        key: str | None,
        settings: QueueConfig | None = None,
    ) -> None:
        self.name = name
        self.model = config.model
        self._config = config
        self._key = key
        try:
            self._model, self._collects = models.build(config, key)
        except Exception as error:  # noqa: BLE001 - a provider's library may raise anything
            raise PermanentError(f"{config.model}: {faults.first_sentence(error, [key])}") from None
        self._key = key or models.key_of(self._model)
        address = str(self._model.base_url)
        self.provider = provider_of(config)
        self.account = account_of(self.provider, address, self._key, config.service_tier)
        self.price: Price | None = price_of(config, settings, name=name, address=address)
        self.max_output_tokens = config.max_tokens
        self.larger_output_tokens = larger_output(config.max_tokens)
        self.call_timeout_seconds = config.call_seconds
        configured = config.model_dump(mode="json", exclude=NOT_ASKED_WITH)
        self.settings = stable_hash(_text_of({**configured, "served by": self.served_by()}))
        self.own_settings: Mapping[str, Any] = config.model_dump(
            mode="json", exclude=NOT_ASKED_WITH, exclude_defaults=True
        )
        self._streams = config.stream
        self._structured = models.best_structure(self._model, config)
        self._caching = Caching(config, self._model)
        self._parameters: dict[str, ModelRequestParameters] = {}

    def digest(self, request: AgentRequest) -> str:
        """Return a digest of the exact prompt and form of `request`."""
        prompt = self.prompt_for(request)
        form = (prompt.form.name, _text_of(prompt.form.schema)) if prompt.form else ()
        return stable_hash(prompt.instructions, prompt.text, *form)

    async def reply(
        self,
        request: AgentRequest,
        manner: Manner = PLAIN,
        max_output_tokens: int | None = None,
    ) -> Reply:
        """Send the request to the model once; raises as `Agent.reply`.

        If the provider may have rejected the form of the request, or the stream, the fault has another way;
        once that works, it is used for all requests.
        """
        prompt = self.prompt_for(request)
        way = self._way(prompt.form, manner)
        limit = self.larger_output_tokens if manner.larger else self.max_output_tokens
        if max_output_tokens is not None:
            limit = min(limit, max_output_tokens)
        streams: list[Events] = []
        token = received.set(streams)
        try:
            response = await self._call(prompt, manner, way, limit)
            if manner.other_way is not None:
                self._learn(prompt.form, manner.other_way)
            is_enforced = prompt.form is not None and way.structured != "prompted"
            return replace(self._judged(response), is_form_enforced=is_enforced)
        except CallFault:
            raise
        except Exception as error:  # a library may stumble over anything that a provider sends
            raise self._fault(error, way, streams) from error
        finally:
            received.reset(token)

    def max_input_tokens(self, request: AgentRequest, manner: Manner = PLAIN) -> int:
        prompt = self.prompt_for(request)
        way = self._way(prompt.form, manner)
        is_tool = way.structured == "tool"
        return prompts.max_input_tokens(prompt, manner.repair, is_tool=is_tool)

    async def close(self) -> None:
        """Close the connections to the provider."""
        await models.close(self._model)

    def prompt_for(self, request: AgentRequest) -> Prompt:
        """Return the prompt for `request`."""
        return prompts.prompt_for(request)

    def way_of(self, request: AgentRequest, manner: Manner = PLAIN) -> Way:
        """Return how `request` is sent, after what earlier replies taught."""
        return self._way(self.prompt_for(request).form, manner)

    def _way(self, form: Form | None, manner: Manner) -> Way:
        if manner.other_way is not None:
            way: Way = manner.other_way.way
            return way
        if form is None or manner.prompted or self._structured == "prompted":
            return Way(self._streams, PLAIN_TEXT)
        key = _text_of(form.schema)
        if key not in self._parameters:
            if len(self._parameters) >= MAX_KNOWN_FORMS:
                self._parameters.clear()
            self._parameters[key] = models.parameters_of(self._model, form, self._structured)
        return Way(self._streams, self._parameters[key])

    def served_by(self) -> str:
        """Return what serves the model, for the digest of the settings."""
        return str(self._model.base_url)

    def _fault(self, error: Exception, way: Way, streams: Sequence[Events]) -> CallFault:
        """Return the fault of an error, with what the reply took as far as it came.

        The price is known if the provider has counted all tokens, as for a reply that says that it failed.
        """
        events = streams[-1] if streams else Events()
        fault = faults.fault_of(
            error,
            self.account,
            [self._key],
            has_begun=events.has_begun,
            is_flex=self._config.service_tier == "flex",
        )
        usage = events.usage()
        fault.model, fault.cached_tokens = events.model(), usage["cached_tokens"]
        fault.input_tokens, fault.output_tokens = usage["input_tokens"], usage["output_tokens"]
        is_counted = events.has_ended and events.error is None and fault.input_tokens
        if self.price is not None and (self.price.is_free or is_counted):
            fault.cost_usd = self.price.cost_usd(**usage)
        other = _other_way(way, error)
        if other is not None:
            fault.other_way = OtherWay(other, faults.message(error, [self._key]))
        return fault

    def _learn(self, form: Form | None, other: OtherWay) -> None:
        """Keep to a way that worked."""
        way = other.way
        self._streams = self._streams and way.streams
        if form:
            self._parameters[_text_of(form.schema)] = way.parameters
        logger.warning(
            "a provider rejected how it was asked; it is now asked in another way",
            extra={
                "agent": self.name, "streamed": way.streams, "structured": way.structured,
                "reason": other.reason,
            },
        )  # fmt: skip

    async def _call(
        self, prompt: Prompt, manner: Manner, way: Way, max_output_tokens: int
    ) -> ModelResponse:
        config = self._config
        text = _with_remarks(prompt, manner, way)
        content = self._caching.content(prompt, text)
        messages: list[ModelMessage] = [
            ModelRequest([UserPromptPart(content)], instructions=prompt.instructions or None)
        ]
        parameters = way.parameters
        if prompt.instructions:
            part = InstructionPart(content=prompt.instructions)
            parameters = replace(parameters, instruction_parts=[part])
        settings = models.settings(config, self._model, is_ours=self._collects, streams=way.streams)
        settings["max_tokens"] = max_output_tokens
        settings.update(self._caching.settings(prompt))  # type: ignore[typeddict-item]
        model = self._traced_model if tracing.is_on() else self._model
        limit = config.call_seconds
        if not way.streams:
            limit = min(limit, config.silence_seconds)
        try:
            async with asyncio.timeout(limit) as deadline:
                if not way.streams or self._collects:
                    return await model.request(messages, settings, parameters)
                async with model.request_stream(messages, settings, parameters) as stream:
                    async for _ in stream:
                        pass
                return stream.get()
        except TimeoutError:
            if deadline.expired():
                raise TimeoutError(f"no complete reply within {limit:g} s") from None
            raise

    @cached_property
    def _traced_model(self) -> Model:
        return instrumentation.traced(self._model)

    def _judged(self, response: ModelResponse) -> Reply:
        reason = _finish_reason(response)
        usage, cost_usd = response.usage, self._cost(response)
        if reason == "error" or (reason is None and response.state != "complete"):
            raise CallFault(
                AgentUnavailable(f"the reply is not complete: {response.state}"),
                "unavailable",
                model=response.model_name or "",
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=usage.cache_read_tokens,
                cost_usd=cost_usd,
            )
        return Reply(
            text=_said(response),
            is_cut=reason == "length",
            refused=self._refusal(response) if reason == "content_filter" else None,
            model=response.model_name or "",
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cache_read_tokens,
            cost_usd=cost_usd,
            service_tier=str((response.provider_details or {}).get("service_tier") or ""),
        )

    def _cost(self, response: ModelResponse) -> float | None:
        """Return the price of a response; None if it has no token counts, or no price is known."""
        usage, price = response.usage, self.price
        if price is None:
            return None
        if price.is_free:
            return 0.0
        if not (usage.input_tokens or usage.output_tokens):
            return None
        with suppress(LookupError, ValueError, TypeError, ArithmeticError):  # odd token counts
            return price.reply_usd(
                usage, response.model_name or "", response.timestamp, response.provider_details
            )
        return None

    def _refusal(self, response: ModelResponse) -> PermanentError:
        said = str((response.provider_details or {}).get("refusal") or "")
        text = f"the model refused to answer, or its provider filtered the reply: {said}".rstrip(
            ": "
        )
        return PermanentError(faults.masked(text, [self._key]))


def _with_remarks(prompt: Prompt, manner: Manner, way: Way) -> str:
    """Return the text of `prompt`, with the form in words and the reason of a repair after it if needed."""
    parts = [prompt.text]
    if prompt.form and (way.structured == "prompted" or manner.repair):
        parts.append(PROMPTED.format(schema=prompt.form.in_words))
    if manner.repair:
        parts.append(REPAIR.format(why=manner.repair.rstrip(".")))
    return "\n\n".join(parts)


def _other_way(way: Way, error: Exception) -> Way | None:
    """Return how to ask instead if `error` may be due to the way; else None. Rejected calls cost nothing."""
    if not isinstance(error, ModelRequestRejectedError):
        return None
    text = str(error)
    if way.streams and STREAM_WORDS.search(text):
        return way._replace(streams=False)
    if way.structured == "prompted" or isinstance(error, ModelContextWindowExceededError):
        return None
    may_be_form = faults.status_code(error) in (400, 422) or SCHEMA_WORDS.search(text)
    return way._replace(parameters=PLAIN_TEXT) if may_be_form else None


def _finish_reason(response: ModelResponse) -> str | None:
    """Return why the reply ended: `stop`, `length`, `content_filter`, `tool_call`, `error`; None if unknown."""
    if response.finish_reason is not None:
        return response.finish_reason
    named = str((response.provider_details or {}).get("finish_reason") or "")
    if REFUSAL_WORDS.search(named):
        return "content_filter"
    return "length" if CUT_WORDS.search(named) else None


def _said(response: ModelResponse) -> str:
    """Return the text of a response, or the arguments of the tool call that it is."""
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    if calls:
        arguments = calls[0].args
        return arguments if isinstance(arguments, str) else _text_of(arguments or {})
    return "".join(part.content for part in response.parts if isinstance(part, TextPart))


def _text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
