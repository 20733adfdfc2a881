"""Names in OTEL_PROPAGATORS that are not installed must stop nothing: contexts of jobs are those of W3C."""

from __future__ import annotations

import os


def load() -> str:
    """Import OpenTelemetry's propagation, whatever OTEL_PROPAGATORS says; return why that is not used, if so.

    The import raises an error if a propagator that is named there does not load. Web frameworks and clients of
    model providers import it, too.
    """
    try:
        import opentelemetry.propagate  # noqa: PLC0415
    except Exception:  # noqa: BLE001 - whatever a propagator raises
        names = os.environ.pop("OTEL_PROPAGATORS", "")
        try:
            import opentelemetry.propagate  # noqa: F401, PLC0415
        except ImportError:  # OpenTelemetry is not there
            return ""
        finally:
            os.environ["OTEL_PROPAGATORS"] = names
        return f"{names!r:.100} does not load: write tracecontext,baggage"
    return ""
