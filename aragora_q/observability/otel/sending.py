"""What sends spans and metrics, with OpenTelemetry's SDK: bounded queues, own threads, a bounded end.

OpenTelemetry and the HTTP library below it log every failure, with URLs and headers. Here, a failure is
one warning a minute that has neither.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.client import BadStatusLine
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased

from aragora_q._version import __version__
from aragora_q.observability.otel import variables, warn
from aragora_q.observability.otel.sampling import FollowsLinks
from aragora_q.observability.otel.variables import GRPC_HINT, SENT, Signal, expects_grpc

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from aragora_q.observability.otel.metrics import MetricSender

MAX_VALUE_CHARS = 1_000
"""Of an attribute of a span."""

WARN_SECONDS = 60.0
"""Shortest time between two warnings that spans, or metrics, are not sent."""

THREADS = "Otel"
"""With this, the names of the threads that send begin; the SDK's own, too."""

_NO_ANSWER, _NO_HTTP = "no answer in time", "no answer in HTTP"
_HINTS = {
    401: "check OTEL_EXPORTER_OTLP_HEADERS",
    403: "check OTEL_EXPORTER_OTLP_HEADERS",
    404: "check the path of the endpoint",
}
_CODES = {status.phrase: int(status) for status in HTTPStatus}


class Sending:
    """What the variables ask for is sent, from `start` until `stop`."""

    def __init__(self) -> None:
        self._log = _Log()
        self._senders: list[SpanSender | MetricSender] = []
        own = Resource({"service.name": "aragora-q", "service.version": __version__})
        self._resource = Resource.create(
            dict(own.merge(OTELResourceDetector().detect()).attributes)
        )

    def start(self, signal: Signal, registries: Sequence[CollectorRegistry]) -> None:
        """Send a signal; of metrics, also those of `registries`. If it raises, nothing is sent."""
        if signal == "metrics":
            self._send_metrics(registries)
        elif isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # none is set
            self._send_spans()

    def _send_spans(self) -> None:
        provider = TracerProvider(
            resource=self._resource, span_limits=_span_limits(), shutdown_on_exit=False
        )
        if isinstance(provider.sampler, ParentBased):
            provider.sampler = FollowsLinks(provider.sampler)
        for exporter, losses in self._exporters("traces"):
            self._senders.append(sender := SpanSender(exporter, losses))
            provider.add_span_processor(sender)
        trace.set_tracer_provider(provider)

    def _send_metrics(self, registries: Sequence[CollectorRegistry]) -> None:
        from aragora_q.observability.otel import metrics  # noqa: PLC0415 - if asked for

        senders = [
            metrics.MetricSender(exporter, self._resource, registries, losses)
            for exporter, losses in self._exporters("metrics")
        ]
        metrics.set_provider(senders, self._resource)
        for sender in senders:
            sender.start()
        self._senders += senders

    def _exporters(self, signal: Signal) -> list[tuple[Any, Losses]]:
        return [
            (_exporter(signal, name), Losses(signal, name, self._log))
            for name in variables.exporters(signal)
        ]

    def stop(self, seconds: float) -> None:
        """Send what is left, for at most `seconds`; warn of what is lost then."""
        deadline = time.monotonic() + seconds
        threads = [
            threading.Thread(target=sender.shutdown, name=f"{THREADS}Stop", daemon=True)
            for sender in self._senders
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        except RuntimeError:  # at the limit on threads
            pass
        finally:
            for sender in self._senders:
                sender.abandon()


def _span_limits() -> SpanLimits | None:
    """Return the limits of spans; None: those of the variables, or none.

    Without content, only values from outside can be long, such as the name of a model that a provider
    answers with.
    """
    names = ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT")
    if variables.is_content_on() or any(map(variables.variable, names)):
        return None
    return SpanLimits(max_span_attribute_length=MAX_VALUE_CHARS)


def _exporter(signal: Signal, name: str) -> Any:
    found = variables.find_exporter(signal, name)
    if found is None:  # removed since the variables were checked
        raise ImportError(name=name)
    if name == "console":
        return found.load()(out=sys.stderr)  # stdout is for the data that a command writes
    if found.name == "otlp_proto_http":
        from aragora_q.observability.otel.answers import BoundedSession  # noqa: PLC0415 - likewise

        return found.load()(session=BoundedSession(signal))
    return found.load()()


def probe(signal: Signal, name: str, seconds: float) -> str:
    """Send an empty request; return why the receiver does not take it, empty if it does."""
    from opentelemetry.sdk.metrics.export import MetricsData  # noqa: PLC0415 - if asked for

    log = _Log()
    exporter = _exporter(signal, name)
    empty: Any = [] if signal == "traces" else MetricsData([])
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(exporter.export(empty)), name=f"{THREADS}Probe", daemon=True
    )
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and signal not in log.reasons and time.monotonic() < deadline:
        thread.join(0.05)
    exporter.shutdown()
    is_taken = any(result.name == "SUCCESS" for result in results)
    return "" if is_taken else log.reason(signal)


class _Log(logging.Handler):
    """Keeps from what OpenTelemetry logs why something was not sent; it is not written anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[Signal, str] = {}
        logger = logging.getLogger("opentelemetry")
        logger.handlers[:] = [self]
        logger.propagate = False
        for name in ("urllib3.connection", "urllib3.connectionpool"):  # they log URLs
            logging.getLogger(name).addFilter(_is_of_others)

    def emit(self, record: logging.LogRecord) -> None:
        signal: Signal = "metrics" if "metric" in record.name else "traces"
        arguments = record.args if isinstance(record.args, tuple) else ()
        for argument in ((record.exc_info or (None, None))[1], *arguments):
            if reason := _reason(argument, signal):
                self.reasons[signal] = reason
                return

    def reason(self, signal: Signal) -> str:
        """Return the last reason for which something was not sent."""
        return self.reasons.get(signal) or _with_hint(_NO_ANSWER, signal)


def _is_of_others(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(THREADS)


def _reason(argument: object, signal: Signal) -> str:
    """Return what an argument of a log record says about the cause, without text that may hold a secret."""
    if isinstance(argument, BaseException):
        return _with_hint(_cause(argument), signal)
    code = _CODES.get(argument) if isinstance(argument, str) else argument
    if not isinstance(code, int) or code not in _CODES.values():
        return ""
    hint = _HINTS.get(code)
    return f"HTTP {code}: {hint}" if hint else f"HTTP {code}"


def _cause(error: BaseException) -> str:
    """Return the system's reason for an error, or else its type."""
    if "Timeout" in type(error).__name__:
        return _NO_ANSWER
    if (response := getattr(error, "response", None)) is not None:
        return f"HTTP {response.status_code}"
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return f"{type(error).__name__}: {found.strerror}"
        if isinstance(found, BadStatusLine):
            return _NO_HTTP
        found = found.__cause__ or found.__context__
    return type(error).__name__


def _with_hint(reason: str, signal: Signal) -> str:
    return f"{reason}: {GRPC_HINT}" if reason == _NO_HTTP or expects_grpc(signal) else reason


class Losses:
    """Counts what is not sent; warns at most once in WARN_SECONDS, and at the end."""

    def __init__(self, signal: Signal, name: str, log: _Log) -> None:
        self._signal, self._log = signal, log
        self._to = variables.destination(signal, name)
        self._lock = threading.RLock()  # the garbage collector may end a span while it is held
        self._count = self._warned = 0
        self._warn_at = float("-inf")

    def add(self, count: int, reason: str = "") -> None:
        """Count more. The default reason is the last one that OpenTelemetry logged."""
        with self._lock:
            self._count += count
            if time.monotonic() >= self._warn_at:
                self._warn(reason)

    def finish(self, count: int, reason: str = "") -> None:
        """As `add`, for the last time: later calls have no effect."""
        with self._lock:
            self._count += count
            self._warn(reason)
            self._warn_at = float("inf")

    def _warn(self, reason: str) -> None:
        if self._count > self._warned:
            self._warned = self._count
            self._warn_at = time.monotonic() + WARN_SECONDS
            reason = reason or self._log.reason(self._signal)
            fields = {"count": self._count, "to": self._to, "reason": reason}
            warn(f"{SENT[self._signal]} not sent", fields)


class SpanSender(BatchSpanProcessor):
    """Sends spans in batches. A span for which the queue has no place is dropped."""

    def __init__(self, exporter: SpanExporter, losses: Losses) -> None:
        self._losses = losses
        self._lock = threading.RLock()  # likewise
        self._queue_size = variables.queue_size()
        self._waiting = 0
        """Spans in the queue, and in the batch that is being sent."""
        super().__init__(_SpanExporter(exporter, self._sent))

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            has_place = self._waiting < self._queue_size
            self._waiting += has_place
        if has_place:
            super().on_end(span)
        else:
            self._losses.add(1)

    def _sent(self, count: int, *, is_lost: bool) -> None:
        with self._lock:
            self._waiting -= count
        if is_lost:
            self._losses.add(count)

    def abandon(self) -> None:
        """Count what waits as lost; the thread that sends makes no further attempt."""
        self._losses.finish(self._waiting)
        self.span_exporter.shutdown()


class _SpanExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, sent: Callable[..., None]) -> None:
        self._exporter, self._sent = exporter, sent

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._sent(len(spans), is_lost=result is not SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
