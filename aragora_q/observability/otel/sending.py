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
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased

from aragora_q._version import __version__
from aragora_q.observability.otel import variables, warn
from aragora_q.observability.otel.sampling import FollowsLinks
from aragora_q.observability.otel.variables import Signal, exporters

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from aragora_q.observability.otel.metrics import MetricSender

WARN_SECONDS = 60.0
"""Shortest time between two warnings that spans, or metrics, are not sent."""

THREADS = "Otel"
"""With this, the names of the threads that send begin; the SDK's own, too."""

_CODES = {status.phrase: int(status) for status in HTTPStatus}


class Sending:
    """Everything that the variables ask for is sent, until `stop`."""

    def __init__(self, registries: Sequence[CollectorRegistry]) -> None:
        self._log = _Log()
        self._senders: list[SpanSender | MetricSender] = []
        own = Resource({"service.name": "aragora-q", "service.version": __version__})
        resource = Resource.create(dict(own.merge(OTELResourceDetector().detect()).attributes))
        try:
            if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # none is set
                self._send_spans(resource)
            self._send_metrics(resource, registries)
        except BaseException:
            self.stop(0)
            raise

    def _send_spans(self, resource: Resource) -> None:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        if isinstance(provider.sampler, ParentBased):
            provider.sampler = FollowsLinks(provider.sampler)
        for name in exporters("traces"):
            losses = Losses("spans not sent", self._log)
            self._senders.append(sender := SpanSender(_exporter("traces", name), losses))
            provider.add_span_processor(sender)
        if self._senders:
            trace.set_tracer_provider(provider)

    def _send_metrics(self, resource: Resource, registries: Sequence[CollectorRegistry]) -> None:
        names = exporters("metrics")
        if not names:
            return
        from aragora_q.observability.otel import metrics  # noqa: PLC0415 - if asked for

        senders = []
        for name in names:
            losses = Losses("metrics not sent", self._log)
            sender = metrics.MetricSender(_exporter("metrics", name), resource, registries, losses)
            self._senders.append(sender)
            senders.append(sender)
        metrics.set_provider(senders, resource)

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


def _exporter(signal: Signal, name: str) -> Any:
    found = variables.find_exporter(signal, name)
    if found is None:  # removed since the variables were checked
        raise ImportError(name=name)
    if name == "console":
        return found.load()(out=sys.stderr)  # stdout is for the data that a command writes
    if found.name == "otlp_proto_http":
        from aragora_q.observability.otel.answers import BoundedSession  # noqa: PLC0415 - likewise

        return found.load()(session=BoundedSession())
    return found.load()()


class _Log(logging.Handler):
    """Keeps from what OpenTelemetry logs why something was not sent; it is not written anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        logger = logging.getLogger("opentelemetry")
        logger.handlers[:] = [self]
        logger.propagate = False
        for name in ("urllib3.connection", "urllib3.connectionpool"):  # they log URLs
            logging.getLogger(name).addFilter(_is_of_others)

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        reasons = [_reason(each) for each in (*(record.exc_info or ()), *arguments)]
        self.reason = next(filter(None, reasons), self.reason)


def _is_of_others(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(THREADS)


def _reason(argument: object) -> str:
    """Return what an argument of a log record says about the cause, without text that may hold a secret."""
    if isinstance(argument, BaseException):
        return type(argument).__name__
    code = _CODES.get(argument) if isinstance(argument, str) else argument
    return f"HTTP {code}" if isinstance(code, int) and code in _CODES.values() else ""


class Losses:
    """Counts what is not sent; warns at most once in WARN_SECONDS, and at the end."""

    def __init__(self, event: str, log: _Log) -> None:
        self._event, self._log = event, log
        self._lock = threading.RLock()  # the garbage collector may end a span while it is held
        self._count = self._warned = 0
        self._warn_at = float("-inf")

    def add(self, count: int) -> None:
        with self._lock:
            self._count += count
            if time.monotonic() >= self._warn_at:
                self._warn()

    def finish(self, count: int) -> None:
        """As `add`, for the last time: later calls have no effect."""
        with self._lock:
            self._count += count
            self._warn()
            self._warn_at = float("inf")

    def _warn(self) -> None:
        if self._count > self._warned:
            self._warned = self._count
            self._warn_at = time.monotonic() + WARN_SECONDS
            reason = self._log.reason or "no answer in time"
            warn(self._event, {"count": self._count, "reason": reason})


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
