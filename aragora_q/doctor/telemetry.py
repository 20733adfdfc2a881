"""What `OTEL_*` variables ask for, and whether its receivers take it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from aragora_q.doctor.report import Finding
from aragora_q.observability import otel
from aragora_q.observability.otel import names, variables
from aragora_q.observability.otel.variables import RATIO, SENT, Signal

_CHECK = "environment"
_BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
_LONG_SECONDS, _SHORT_SECONDS = 600, 1


def _warning(detail: str, remedy: str = "") -> Finding:
    return Finding("warning", _CHECK, detail, remedy)


def _note(detail: str) -> Finding:
    return Finding("note", _CHECK, detail)


def of_telemetry() -> list[Finding]:
    """Say where a process with these variables sends spans and metrics, or why they do not arrive.

    Each receiver is sent an empty request, and has a few seconds to answer. Without variables that ask for
    it, nothing is sent.
    """
    if variables.is_disabled():
        return [_note("no spans and no metrics are sent: OTEL_SDK_DISABLED switches them off")]
    misspelled = names.misspelled()
    findings = [*_of_names(misspelled)]
    asked = [signal for signal in SENT if variables.exporters(signal)]
    for signal in asked:
        findings += _of_signal(signal)
    if "traces" not in asked:
        findings += _of_no_spans(misspelled, has_metrics=bool(asked))
    has_exporter = variables.variable("OTEL_METRICS_EXPORTER")
    if variables.variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") and not has_exporter:
        findings.append(
            _warning(
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is set, but no metrics are sent",
                "set OTEL_METRICS_EXPORTER=otlp, too",
            )
        )
    return list(dict.fromkeys(findings))


def _of_names(misspelled: list[str]) -> Iterator[Finding]:
    """Name variables that do nothing."""
    switch = variables.variable("OTEL_SDK_DISABLED")
    if switch.strip().lower() not in ("", "true", "false"):
        yield _warning(
            f"OTEL_SDK_DISABLED is {switch!r:.100}, which switches nothing off",
            "write true or false",
        )
    if variables.variable("OTEL_LOGS_EXPORTER").strip() not in ("", "none"):
        yield _warning(
            "OTEL_LOGS_EXPORTER is set, but logs are not sent",
            "let an OpenTelemetry Collector read them: from the journal, or a file",
        )
    for name, reason in names.ignore_missing().items():
        yield _warning(f"{name} is not used: {reason}")
    for name in misspelled:
        yield _warning(f"{name} is not a variable of OpenTelemetry's SDK", "correct or unset it")


def _of_no_spans(misspelled: list[str], *, has_metrics: bool) -> Iterator[Finding]:
    """Name variables that look as if they asked for spans; those of all signals may be meant for others."""
    if variables.variable("OTEL_TRACES_EXPORTER").strip() == "none":
        return
    of_all = "" if has_metrics else "|OTEL_EXPORTER_OTLP_(?!METRICS_|LOGS_)"
    pattern = f"OTEL_(EXPORTER_OTLP_)?TRACES_{of_all}"
    found = sorted(
        name
        for name, value in os.environ.items()
        if value and re.match(pattern, name) and name not in misspelled
    )
    if not found:
        return
    text = ", ".join(found)
    subject = f"{text} does not name" if len(found) == 1 else f"none of {text:.200} names"
    detail = f"no spans are sent: {subject} a receiver"
    yield _warning(detail, f"set {_BASE}") if "TRACES" in text else _note(detail)


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
            yield _note(f"{what} are sent: {receiver}{more}")
    yield from _of_path(signal)
    yield from _of_times(signal)
    if signal == "traces":
        yield from _of_spans()


def _of_spans() -> Iterator[Finding]:
    if reason := variables.content_fault():
        yield _warning(f"spans have no content: {reason}")
    if variables.variable(RATIO) and not variables.has_ratio():
        yield _warning(
            f"{RATIO} is set, but not used",
            "set OTEL_TRACES_SAMPLER=parentbased_traceidratio, or unset it",
        )


def _of_times(signal: Signal) -> Iterator[Finding]:
    """Say if a time is probably in another unit."""
    if "otlp" in variables.exporters(signal):
        name, seconds = variables.timeout(signal)
        if seconds > _LONG_SECONDS:
            yield _warning(f"{name} is {seconds:g} seconds: its unit is not milliseconds here")
    if signal == "metrics" and (seconds := variables.interval_seconds()) < _SHORT_SECONDS:
        yield _warning(
            f"OTEL_METRIC_EXPORT_INTERVAL is {seconds * 1000:g} milliseconds: its unit is not seconds"
        )


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
