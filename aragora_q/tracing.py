"""Trace context in the form of W3C Trace Context, and spans of programs that trace with OpenTelemetry.

A job carries the context in which it was enqueued, as one text: `traceparent`, and, after a space,
`tracestate` if there is one. Spans are made where the program has configured a tracer provider;
elsewhere, `span` does nothing, and this module imports no package. `observability/otel/` configures one
for the command. Spans have ids, names, counts and types of errors, never the text of a job or of an error.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

from aragora_q._version import __version__

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context

MAX_TYPE_CHARS = 200
"""Of the type of an error in a span."""

MAX_TRACE_BYTES = 512
"""Of a trace context that a job carries: without `tracestate` if that does not fit."""

_TRACEPARENT = re.compile(
    r"(?!ff|00.{53}.)[0-9a-f]{2}(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?:-.*)?"
)
"""Of any version: a later one than 00 may have further fields."""
_MEMBER = (
    r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})="
    r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_TRACESTATE = re.compile(rf"{_MEMBER}(?:[ \t]*,[ \t]*{_MEMBER}){{0,31}}")
"""OpenTelemetry would log a part that is not valid, which may be any text."""

_API = "opentelemetry.trace"

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | bool | int | float]

received: ContextVar[str] = ContextVar("received", default="")
"""The trace context that this program, or the request that it serves, was called with."""


def receive(traceparent: str | None, tracestate: str | None = None) -> None:
    """Note the trace context that this program, or the request that it serves, was called with."""
    received.set(parse(traceparent, tracestate))


def parse(traceparent: str | None = None, tracestate: str | None = None) -> str:
    """Return the trace context of these headers, or variables, as jobs carry it; empty if it is not valid.

    Of later versions of `traceparent`, it has the fields of version 00.
    """
    match = _TRACEPARENT.fullmatch((traceparent or "").strip())
    if match is None:
        return ""
    traceparent = f"00{match[1]}"
    tracestate = (tracestate or "").strip()
    both = f"{traceparent} {tracestate}"
    is_valid = len(both) <= MAX_TRACE_BYTES and _TRACESTATE.fullmatch(tracestate)
    return both if is_valid else traceparent


def carried(text: str) -> str:
    """Return the trace context that `text` in a job's hash is; empty if it is none: others may write there."""
    return parse(**headers(text))


def headers(context: str) -> dict[str, str]:
    """Return a trace context as headers: `traceparent`, and `tracestate` if there is one."""
    traceparent, _, tracestate = context.partition(" ")
    both = {"traceparent": traceparent, "tracestate": tracestate}
    return {name: value for name, value in both.items() if value}


def trace_id(context: str) -> str:
    """Return the trace id, 32 hex digits, of a context that a job carries; empty if it carries none."""
    return context[3:35]


def is_sampled(context: str) -> bool:
    """Return False if no receiver has the trace of a context that a job carries."""
    return bool(int(context[53:55] or "0", 16) & 1)


def described(context: str) -> str:
    """Return the trace id as people see it: marked if the trace is not sampled; empty if there is none."""
    mark = "" if not context or is_sampled(context) else " (not sampled)"
    return trace_id(context) + mark


class Span:
    """A span that has begun; without tracing, nothing."""

    context = ""
    """Its trace context, as jobs carry it."""
    ids: Mapping[str, str] = MappingProxyType({})
    """Its `trace_id` and `span_id`, as in log lines and exemplars; empty without tracing."""
    is_sampled = False

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def fail(self, error_type: str) -> None:
        """Note that what the span covers has failed, and with which type of error."""

    def end(self) -> None:
        """End the span. Later calls have no effect."""


class _RealSpan(Span):
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.is_sampled = context.trace_flags.sampled
        self.ids = _ids(context)

    @cached_property
    def context(self) -> str:  # type: ignore[override]
        return _text(self._span.get_span_context())

    def set(self, attributes: Attributes) -> None:
        with _harmless():
            if self._span.is_recording():
                self._span.set_attributes(attributes)

    def fail(self, error_type: str) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - only in programs that trace

        with _harmless():
            if self._span.is_recording():  # else it is not sampled, or has ended
                self._span.set_attribute("error.type", error_type[:MAX_TYPE_CHARS])
                self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        with _harmless():
            if self._span.is_recording():
                self._span.end()


@contextmanager
def _harmless() -> Iterator[None]:
    """Let errors of the body go, with one warning: a program's samplers and span processors may raise.

    Jobs matter more.
    """
    global _has_warned  # noqa: PLW0603
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        if not _has_warned:
            _has_warned = True
            logging.getLogger(__name__).warning(
                "a span is lost: the tracer provider raised %s", type(error).__qualname__
            )


_has_warned = False


NO_SPAN = Span()
_NOTHING = nullcontext(NO_SPAN)


def span(
    name: str,
    kind: Kind = "internal",
    attributes: Attributes | None = None,
    *,
    parent: str | None = None,
    link: str = "",
) -> AbstractContextManager[Span]:
    """Return a context manager that is a span while its body runs: the current one, in this task.

    `parent` is the trace context of its parent; empty: it begins a new trace; None: the current span, or
    what this program received. `link` is a trace context that it is linked to. An error that the body raises
    marks it as failed.
    """
    tracer = _tracer()
    if tracer is None:
        return _NOTHING
    return _span(tracer, name, kind, attributes, _context_in(parent), link)


def is_on() -> bool:
    """Return True if the program has a tracer provider."""
    return _tracer() is not None


class LazySpan:
    """A span around spans of several tasks, while its body runs; it begins with the first of them.

    Without any, there is none. It is not the current span of a task.
    """

    def __init__(self, name: str) -> None:
        self.attributes: dict[str, str | bool | int | float] = {}
        """Those that the span has at its end."""
        self._name = name
        self._span: trace.Span | None = None

    def span(
        self, name: str, kind: Kind = "internal", attributes: Attributes | None = None
    ) -> AbstractContextManager[Span]:
        """Return a context manager as the function `span`, for a child of this span."""
        tracer = _tracer()
        if tracer is None:
            return _NOTHING
        from opentelemetry import trace  # noqa: PLC0415 - only in programs that trace

        if self._span is None:
            with _harmless():
                self._span = tracer.start_span(self._name, _context_in(None))
        if self._span is None:
            return _NOTHING
        context = trace.set_span_in_context(self._span)
        return _span(tracer, name, kind, attributes, context, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._span is None:
            return
        ended = _RealSpan(self._span)
        ended.set(self.attributes)
        if error is not None:
            ended.fail(type(error).__qualname__)
        ended.end()


def record(name: str, seconds: float, attributes: Attributes) -> None:
    """Make a span, in a new trace, of something that has ended and took `seconds`."""
    if (tracer := _tracer()) is None:
        return
    from opentelemetry.context import Context  # noqa: PLC0415 - only in programs that trace

    began_ns = time.time_ns() - round(seconds * 1e9)
    with _harmless():
        tracer.start_span(name, Context(), attributes=dict(attributes), start_time=began_ns).end()


@contextmanager
def _span(
    tracer: trace.Tracer,
    name: str,
    kind: Kind,
    attributes: Attributes | None,
    context: Context | None,
    link: str,
) -> Iterator[Span]:
    from opentelemetry import context as contexts  # noqa: PLC0415 - likewise
    from opentelemetry import trace  # noqa: PLC0415

    started = None
    with _harmless():
        linked = trace.get_current_span(_context(link)).get_span_context() if link else None
        links = [trace.Link(linked)] if linked is not None and linked.is_valid else []
        span_kind = trace.SpanKind[kind.upper()]
        started = tracer.start_span(name, context, span_kind, dict(attributes or {}), links)
    if started is None:
        yield NO_SPAN
        return
    real = _RealSpan(started)
    token = contexts.attach(trace.set_span_in_context(started, context))
    try:
        yield real
    except BaseException as error:
        real.fail(type(error).__qualname__)
        raise
    finally:
        contexts.detach(token)
        real.end()


def _context_in(parent: str | None) -> Context | None:
    """Return the context in which a span begins; None: the current one. `parent` is as for `span`."""
    from opentelemetry import trace  # noqa: PLC0415 - likewise
    from opentelemetry.context import Context  # noqa: PLC0415

    if parent is None:
        parent = "" if trace.get_current_span().get_span_context().is_valid else received.get()
        return _context(parent) if parent else None
    return _context(parent) if parent else Context()


def current() -> str:
    """Return the trace context of the current span, or what this program received; empty if there is none."""
    if (context := _current_context()) is not None:
        return _text(context)
    return received.get()


def current_ids() -> dict[str, str]:
    """Return `trace_id` and `span_id` of the current span; empty if there is none."""
    context = _current_context()
    return {} if context is None else _ids(context)


def _ids(context: trace.SpanContext) -> dict[str, str]:
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _current_context() -> trace.SpanContext | None:
    api = sys.modules.get(_API)  # without an import statement, which costs more than the rest
    get_current_span = getattr(api, "get_current_span", None)  # another thread may import it now
    if get_current_span is None:
        return None
    context = get_current_span().get_span_context()
    return context if context.is_valid else None


_last: tuple[Any, Any] = (None, None)
"""The last provider and its tracer; None for one that makes no spans."""


def _tracer() -> trace.Tracer | None:
    """Return the tracer of this package; None if the program has no tracer provider."""
    global _last  # noqa: PLW0603
    api = sys.modules.get(_API)
    # Often it is imported, by redis-py for one, and no provider is set. `get_tracer_provider` would read the
    # environment then, each time: asked once, this only looks whether it has got one since.
    if api is None or (_last[0] is not None and getattr(api, "_TRACER_PROVIDER", api) is None):
        return None
    from opentelemetry import trace  # noqa: PLC0415 - likewise

    provider = None
    with _harmless():
        provider = trace.get_tracer_provider()  # a variable may name one that does not exist
    if provider is None:
        provider = trace.NoOpTracerProvider()  # until the program sets one
    if _last[0] is not provider:
        makes_none = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        _last = provider, None if makes_none else provider.get_tracer("aragora_q", __version__)
    return _last[1]  # type: ignore[no-any-return]


def _text(context: trace.SpanContext) -> str:
    ids = _ids(context)
    traceparent = f"00-{ids['trace_id']}-{ids['span_id']}-{context.trace_flags:02x}"
    return parse(traceparent, context.trace_state.to_header())


def _context(text: str) -> Context:
    """Return the context of which `text` is the current span, and nothing else."""
    from opentelemetry.context import Context  # noqa: PLC0415 - likewise
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    return TraceContextTextMapPropagator().extract(headers(text), Context())
