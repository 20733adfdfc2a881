"""Spans and metrics of requests to models, made by the library's own instrumentation.

Its format 6 follows version 1.37 of OpenTelemetry's semantic conventions for generative AI. They call the
provider `gen_ai.provider.name`; the library also sends it under the older name `gen_ai.system`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any

from opentelemetry import trace
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.instrumented import InstrumentationSettings, InstrumentedModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from aragora_q.executors.debate.llm import faults
from aragora_q.observability.otel import variables


def traced(model: Model) -> Model:
    """Return `model` with a span of the program's tracer provider for each request.

    Unless `variables.CAPTURE` allows it, spans contain no prompt, no reply and no form of a reply. They never
    contain the text of an error, in which a provider may repeat a prompt or a key.
    """
    has_content = variables.is_content_on()
    covered = _Covered(model) if has_content else _WithoutForms(model)
    settings = _shared(trace.get_tracer_provider(), has_content=has_content)
    return InstrumentedModel(covered, settings)


class _Instrumentation(InstrumentationSettings):
    """The library's settings without its `include_content`, which would also allow texts of errors."""

    def __init__(self, provider: trace.TracerProvider, *, has_content: bool) -> None:
        super().__init__(
            tracer_provider=provider,
            version=6,
            include_content=False,
            include_model_request_parameters=False,
        )
        self._content = (
            InstrumentationSettings(tracer_provider=provider, version=6) if has_content else None
        )

    def handle_messages(self, *arguments: Any, **options: Any) -> None:
        if self._content is not None:
            self._content.handle_messages(*arguments, **options)


@lru_cache(maxsize=1)
def _shared(provider: trace.TracerProvider, *, has_content: bool) -> _Instrumentation:
    """Return the settings that all models share, because the meters that each makes are never freed."""
    return _Instrumentation(provider, has_content=has_content)


class _Covered(WrapperModel):
    """A model whose requests have no spans below their own: some providers' clients make them, with prompts.

    The span of a request has the type of its error, which the library puts only into an event.
    """

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        with _covered():
            return await super().request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self, *arguments: Any, **options: Any
    ) -> AsyncGenerator[StreamedResponse]:
        with _covered():
            async with super().request_stream(*arguments, **options) as stream:
                yield stream


class _WithoutForms(_Covered):
    """A covered model whose spans do not contain the form of replies, which may be a schema of the job.

    A span has the parameters that this class prepares; the model itself prepares those that it sends.
    """

    def prepare_request(
        self,
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,  # noqa: ARG002 - the form
    ) -> tuple[ModelSettings | None, ModelRequestParameters]:
        return super().prepare_request(model_settings, ModelRequestParameters())


@contextmanager
def _covered() -> Iterator[None]:
    """Let the current span look as if it were not sampled while the body runs; note an error of the body in it.

    Samplers that go by the parent do not sample the span's children then.
    """
    span = trace.get_current_span()
    current = span.get_span_context()
    hidden = trace.SpanContext(
        current.trace_id, current.span_id, is_remote=False, trace_state=current.trace_state
    )
    try:
        with trace.use_span(trace.NonRecordingSpan(hidden)):
            yield
    except BaseException as error:  # cancelled if it takes too long
        span.set_status(trace.StatusCode.ERROR)
        span.set_attribute("error.type", type(error).__qualname__)
        if (status := faults.status_code(error)) is not None:
            span.set_attribute("http.response.status_code", status)
        raise
