"""Send spans, and metrics if asked, of this process to an OpenTelemetry receiver.

Everything is configured by the standard `OTEL_*` variables; without them, nothing of OpenTelemetry is imported.
Needs the extra `otel`. Used by the commands that enqueue or run jobs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def is_configured() -> bool:
    """Return True if `OTEL_*` variables say where to send spans."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporter := os.environ.get("OTEL_TRACES_EXPORTER", "").strip():
        return exporter != "none"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(os.environ.get(name, "").strip() for name in endpoints)


@contextmanager
def exporting() -> Iterator[None]:
    """While the body runs, send its spans; afterwards, those that are left, within a short time."""
    if not is_configured():
        yield
        return
    from opentelemetry import trace  # noqa: PLC0415 - only where spans are sent
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
