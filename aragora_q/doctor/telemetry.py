"""What `OTEL_*` variables ask for, and whether its receivers take it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from aragora_q.doctor.report import Finding
from aragora_q.observability import otel
from aragora_q.observability.otel import variables
from aragora_q.observability.otel.variables import SENT, Signal

_CHECK = "environment"
_BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def _warning(detail: str, remedy: str = "") -> Finding:
    return Finding("warning", _CHECK, detail, remedy)


def of_telemetry() -> list[Finding]:
    """Say where a process with these variables sends spans and metrics, or why they do not arrive.

    Each receiver is sent an empty request, and has a few seconds to answer. Without variables that ask for
    it, nothing is sent.
    """
    findings = []
    if variables.variable("OTEL_LOGS_EXPORTER").strip() not in ("", "none"):
        findings.append(
            _warning(
                "OTEL_LOGS_EXPORTER is set, but logs are not sent",
                "let an OpenTelemetry Collector read them: from the journal, or a file",
            )
        )
    asked = [signal for signal in SENT if variables.exporters(signal)]
    for signal in asked:
        findings += _of_signal(signal)
    if asked:
        findings += _of_paths()
    if "traces" not in asked:
        findings += _of_nothing()
    elif reason := variables.content_fault():
        findings.append(_warning(f"spans have no content: {reason}"))
    if "metrics" not in asked and variables.variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        findings.append(
            _warning(
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is set, but no metrics are sent",
                "set OTEL_METRICS_EXPORTER=otlp, too",
            )
        )
    return findings


def _of_nothing() -> Iterator[Finding]:
    """Name variables that are there for nothing: misspelled, or switched off."""
    names = sorted(name for name in os.environ if re.match("OTEL_(EXP|SDK|TRACE)", name))
    if names and variables.variable("OTEL_TRACES_EXPORTER").strip() != "none":
        yield _warning(
            f"no spans are sent: none of {', '.join(names):.200} names a receiver, or they switch it off",
            f"set {_BASE}, without OTEL_SDK_DISABLED",
        )


def _of_signal(signal: Signal) -> Iterator[Finding]:
    what = SENT[signal]
    if (reason := variables.fault(signal)) is not None:
        yield _warning(f"no {what} are sent: {reason}")
        return
    for receiver, reason in otel.probe(signal):
        if reason:
            yield _warning(f"{what} do not arrive: {receiver}: {reason}")
        else:
            said = variables.of_traces() if signal == "traces" else {}
            more = "".join(f", {name} {value}" for name, value in said.items())
            yield Finding("note", _CHECK, f"{what} are sent: {receiver}{more}")


def _of_paths() -> Iterator[Finding]:
    for signal in SENT:
        name = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        if urlsplit(variables.variable(name)).path in ("", "/") and variables.variable(name):
            yield _warning(
                f"{name} has no path, and none is added to it",
                f"add /v1/{signal}, or set {_BASE} instead",
            )
    if found := re.search("/v1/(traces|metrics)/?$", variables.variable(_BASE)):
        yield _warning(
            f"{_BASE} ends in {found[0]}, but the path of each signal is added to it",
            f"leave it out, or set OTEL_EXPORTER_OTLP_{found[1].upper()}_ENDPOINT instead",
        )
