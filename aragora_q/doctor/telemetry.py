"""What `OTEL_*` variables ask for, and whether its receivers take it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aragora_q.doctor.report import Finding
from aragora_q.observability import otel
from aragora_q.observability.otel import variables
from aragora_q.observability.otel.variables import SENT, Signal

_CHECK = "environment"
_BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def of_telemetry() -> list[Finding]:
    """Say where a process with these variables sends spans and metrics, or why they do not arrive.

    Each receiver is sent an empty request, and has a few seconds to answer. Without variables that ask for
    it, nothing is sent.
    """
    findings = []
    if variables.variable("OTEL_LOGS_EXPORTER").strip() not in ("", "none"):
        findings.append(
            Finding(
                "warning",
                _CHECK,
                "OTEL_LOGS_EXPORTER is set, but logs are not sent",
                "let an OpenTelemetry Collector read them: from the journal, or a file",
            )
        )
    asked = [signal for signal in SENT if variables.exporters(signal)]
    for signal in asked:
        findings += _of_signal(signal)
    if asked:
        findings += _of_base()
    if "traces" in asked:
        findings += _of_content()
    return findings


def _of_signal(signal: Signal) -> Iterator[Finding]:
    what = SENT[signal]
    if (reason := variables.fault(signal)) is not None:
        yield Finding("warning", _CHECK, f"no {what} are sent: {reason}")
        return
    for receiver, reason in otel.probe(signal):
        if reason:
            yield Finding("warning", _CHECK, f"{what} do not arrive: {receiver}: {reason}")
        else:
            yield Finding("note", _CHECK, f"{what} are sent: {receiver}")


def _of_base() -> Iterator[Finding]:
    if found := re.search("/v1/(traces|metrics)/?$", variables.variable(_BASE)):
        yield Finding(
            "warning",
            _CHECK,
            f"{_BASE} ends in {found[0]}, but the path of each signal is added to it",
            f"leave it out, or set OTEL_EXPORTER_OTLP_{found[1].upper()}_ENDPOINT instead",
        )


def _of_content() -> Iterator[Finding]:
    value = variables.variable(variables.CAPTURE)
    if variables.is_content_on():
        yield Finding("note", _CHECK, f"spans have prompts and replies: {variables.CAPTURE}")
    elif value.strip().lower() not in variables.CAPTURE_OFF:
        detail = f"{variables.CAPTURE} is {value!r:.100}: spans have no prompts and replies"
        remedy = f"write {' or '.join(variables.CAPTURE_ON)}, or false"
        yield Finding("warning", _CHECK, detail, remedy)
