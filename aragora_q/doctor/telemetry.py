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
_SAMPLER, _RATIO = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"


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
    if "traces" not in asked:
        findings += _of_nothing(has_metrics=bool(asked))
    else:
        if reason := variables.content_fault():
            findings.append(_warning(f"spans have no content: {reason}"))
        if variables.variable(_RATIO) and not variables.variable(_SAMPLER):
            findings.append(
                _warning(
                    f"{_RATIO} is set, but all traces are sent",
                    f"set {_SAMPLER}=parentbased_traceidratio, too",
                )
            )
    if "metrics" not in asked and variables.variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        findings.append(
            _warning(
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is set, but no metrics are sent",
                "set OTEL_METRICS_EXPORTER=otlp, too",
            )
        )
    return list(dict.fromkeys(findings))


def _of_nothing(*, has_metrics: bool) -> Iterator[Finding]:
    """Name variables that look as if they asked for spans."""
    pattern = "OTEL_TRACES?_" if has_metrics else "OTEL_(TRACES?_|EXP(?!ERIMENTAL))"
    names = sorted(
        name
        for name, value in os.environ.items()
        if value and re.match(pattern, name) and "_METRICS_" not in name
    )
    if not names or variables.variable("OTEL_TRACES_EXPORTER").strip() == "none":
        return
    if variables.is_disabled():
        yield Finding("note", _CHECK, "no spans are sent: OTEL_SDK_DISABLED switches them off")
    else:
        detail = f"no spans are sent: none of {', '.join(names):.200} names a receiver"
        yield _warning(detail, f"set {_BASE}")


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
    yield from _of_path(signal)


def _of_path(signal: Signal) -> Iterator[Finding]:
    """Say if the path of an address is not that of the signal. With gRPC, there is none."""
    if "otlp" not in variables.exporters(signal) or not variables.is_http(signal):
        return
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    if address := variables.variable(own):
        if urlsplit(address).path in ("", "/"):
            yield _warning(
                f"{own} has no path, and none is added to it",
                f"add /v1/{signal}, or set {_BASE} instead",
            )
    elif found := re.search("/v1/(traces|metrics)/?$", variables.variable(_BASE)):
        yield _warning(
            f"{_BASE} ends in {found[0]}, but the path of each signal is added to it",
            f"leave it out, or set OTEL_EXPORTER_OTLP_{found[1].upper()}_ENDPOINT instead",
        )
