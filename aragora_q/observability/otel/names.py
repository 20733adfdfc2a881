"""`OTEL_*` variables that are misspelled, or that name what is not installed. They stop nothing."""

from __future__ import annotations

import os

from aragora_q.observability.otel import variables

_PREFIXES = ("OTEL_TRAC", "OTEL_METRIC", "OTEL_EXPORT")


def ignore_missing() -> dict[str, str]:
    """Let OpenTelemetry go on without what variables name but is not installed; return them, and why.

    It would log tracebacks, and raise errors in web frameworks and clients of model providers.
    """
    missing = {name: os.environ.pop(name) for name in variables.missing_parts()}
    reasons = {
        name: f"no installed package provides {value!r:.100}"
        for name, value in missing.items()
        if value
    }
    if "OTEL_PROPAGATORS" in os.environ and (reason := _load_propagators()):
        reasons["OTEL_PROPAGATORS"] = reason
    return reasons


def _load_propagators() -> str:
    """Import OpenTelemetry's propagation, whatever OTEL_PROPAGATORS says; return why that is not used, if so.

    The import raises an error if a propagator that is named there does not load. Contexts of jobs are always
    those of W3C.
    """
    try:
        import opentelemetry.propagate  # noqa: PLC0415 - it reads the variable when it is imported
    except Exception:  # noqa: BLE001 - whatever a propagator raises
        names = os.environ.pop("OTEL_PROPAGATORS", "")
        try:
            import opentelemetry.propagate  # noqa: F401, PLC0415 - again, without the variable
        except ImportError:  # OpenTelemetry is not there
            return ""
        finally:
            os.environ["OTEL_PROPAGATORS"] = names
        return f"{names!r:.100} does not load: write tracecontext,baggage"
    return ""


def misspelled() -> list[str]:
    """Return variables of traces, metrics and exporters that OpenTelemetry does not know; without it, none."""
    try:
        from opentelemetry import environment_variables as of_api  # noqa: PLC0415 - if asked for
        from opentelemetry.sdk import environment_variables as of_sdk  # noqa: PLC0415
    except ImportError:
        return []
    known = {*vars(of_api), *vars(of_sdk)}
    return sorted(
        name
        for name, value in os.environ.items()
        if value and name.startswith(_PREFIXES) and name not in known
    )
