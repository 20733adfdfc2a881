"""What the `OTEL_*` variables mean, and what is wrong with them. Imports nothing of OpenTelemetry.

OpenTelemetry itself reads the variables, but answers a wrong value with a traceback, or with a message that
has a secret in it, or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

OTEL_HINT = "pip install 'aragora-q[otel]'"

Signal = Literal["traces", "metrics"]

SENT: Mapping[Signal, str] = {"traces": "spans", "metrics": "metrics"}
"""What is sent of each signal."""

DEFAULT_INTERVAL_MILLISECONDS = 60_000
"""Between two exports of metrics."""

DEFAULT_QUEUE_SIZE, DEFAULT_BATCH_SIZE = 2048, 512

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The standard variable that allows content."""

CAPTURE_ON = ("true", "span_only", "span_and_event")
"""Its values that allow content in spans: that of the older conventions, and those of the newer ones."""

CAPTURE_OFF = ("", "false", "no_content", "event_only")

HTTP = "http/protobuf"
GRPC_HINT = (
    "if it speaks gRPC, use its port for HTTP, mostly 4318, or OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
)

_PROTOCOLS = {HTTP: "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PACKAGES = {
    "console": OTEL_HINT,
    "otlp_proto_http": OTEL_HINT,
    "otlp_proto_grpc": "pip install opentelemetry-exporter-otlp-proto-grpc, or choose http/protobuf",
}
_GRPC_PORT = 4317
_OTLP = "OTEL_EXPORTER_OTLP_(TRACES_|METRICS_)?"
_OF_OTHERS: Mapping[Signal, str] = {
    "traces": "OTEL_((EXPORTER_OTLP_)?METRICS?|LOGRECORD)_.*",
    "metrics": "OTEL_((EXPORTER_OTLP_TRACES|TRACES|BSP)_.*|.*_LIMIT)",
}
"""Names of variables that a signal does not need."""

_SAMPLER, RATIO = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"

_COUNT = r"\s*0*[1-9][0-9]{0,8}\s*"
_POSITIVE = r"\s*(?=.*[1-9])\d{0,9}(\.\d{0,9})?\s*"
_PAIR = r"\s*[^=,\s][^=,]*=[^,]*"
_HEADER = r"\s*[!#-'*+.0-9A-Z^-z|~-]+[ \t]*=\s*[ !#-+\--:<-\[\]-~]*\s*"
"""As the SDK reads one; it leaves out any other."""
_RULES = (
    ("OTEL_BSP_.*", _COUNT, "write a whole number above 0, of at most 9 digits"),
    ("OTEL_.*_LIMIT", r"\s*[0-9]{1,9}\s*", "write a whole number of at most 9 digits"),
    (f"{_OTLP}TIMEOUT", _POSITIVE, "write a number of seconds above 0"),
    ("OTEL_METRIC_EXPORT_INTERVAL", _COUNT, "write a whole number of milliseconds above 0"),
    (f"{_OTLP}COMPRESSION", r"\s*(none|gzip|deflate)\s*", "write none, gzip or deflate"),
    (
        _SAMPLER,
        "(parentbased_)?(always_on|always_off|traceidratio)",
        "write always_on, always_off or parentbased_traceidratio, for example",
    ),
    (RATIO, r"(?=.*\d)\s*(0*(\.\d*)?|0*1(\.0*)?)\s*", "write a number from 0 to 1"),
    (
        "OTEL_METRICS_EXEMPLAR_FILTER",
        r"\s*(always_on|always_off|trace_based)\s*",
        "write always_on, always_off or trace_based",
    ),
)
"""Names of variables, their valid values, and advice about any other value."""

_SECRET_RULES = (
    (
        f"{_OTLP}HEADERS",
        rf"({_HEADER}|\s*)(,({_HEADER}|\s*))*",
        "not a list such as name=value,name=value without quotes or spaces; write other characters as %XX",
    ),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        rf"({_PAIR}|\s*)(,({_PAIR}|\s*))*",
        "not a list such as name=value,name=value",
    ),
)
"""The same, of variables whose values may be secret."""


_PARTS = ("context", "tracer_provider", "meter_provider")
"""Parts of OpenTelemetry that a variable replaces by those of a package; each is a group of entry points."""


def variable(name: str) -> str:
    """Return the value of a variable as OpenTelemetry reads it, which keeps spaces; empty if it is not set."""
    return os.environ.get(name, "")


def _of_otlp(signal: Signal, what: str) -> tuple[str, str]:
    """Return the variable that a signal goes by, and its value; both empty if none is set."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"):
        if value := variable(name):
            return name, value
    return "", ""


def is_disabled() -> bool:
    """Return True if nothing is to be sent, whatever the other variables say."""
    return variable("OTEL_SDK_DISABLED").lower().strip() == "true"


def exporters(signal: Signal) -> list[str]:
    """Return the names of the exporters that the variables ask for. Metrics are sent only if named."""
    if is_disabled():
        return []
    of_otlp = _PROTOCOLS.get(_protocol(signal))
    return ["otlp" if name == of_otlp else name for name in _named(signal)]


def _named(signal: Signal) -> list[str]:
    names = variable(f"OTEL_{signal.upper()}_EXPORTER").strip()
    if not names and signal == "traces" and _of_otlp(signal, "ENDPOINT")[1]:
        names = "otlp"
    return [name for each in names.split(",") if (name := each.strip()) not in ("", "none")]


def _installed(group: str) -> EntryPoints:
    from importlib.metadata import entry_points  # noqa: PLC0415 - commands without traces do without

    return entry_points(group=f"opentelemetry_{group}")


def find_exporter(signal: Signal, name: str) -> EntryPoint | None:
    """Return where an installed package has the exporter."""
    if name == "otlp":
        name = _PROTOCOLS[_protocol(signal)]
    return next(iter(_installed(f"{signal}_exporter").select(name=name)), None)


def _protocol(signal: Signal) -> str:
    names = _named(signal)
    for protocol, exporter in _PROTOCOLS.items():
        if exporter in names:
            return protocol
    return _of_otlp(signal, "PROTOCOL")[1].strip() or HTTP


def is_http(signal: Signal) -> bool:
    """Return True if a signal is sent as HTTP, not as gRPC."""
    return _protocol(signal) == HTTP


def destination(signal: Signal, name: str) -> str:
    """Return an exporter's name, and host and port of its receiver: the rest of its address may be secret."""
    return f"{name} at {':'.join(map(str, receiver(signal)))}" if name == "otlp" else name


def receiver(signal: Signal) -> tuple[str, int]:
    """Return host and port of the receiver; the variables must have no fault."""
    port = 4318 if is_http(signal) else _GRPC_PORT
    parts = urlsplit(_of_otlp(signal, "ENDPOINT")[1] or f"http://localhost:{port}")
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]" if ":" in host else host, port


def expects_grpc(signal: Signal) -> bool:
    """Return True if the receiver is sent HTTP, but its port is that of gRPC."""
    return is_http(signal) and receiver(signal)[1] == _GRPC_PORT


def is_content_on() -> bool:
    """Return True if spans have prompts and replies."""
    return variable(CAPTURE).strip().lower() in CAPTURE_ON


def content_fault() -> str | None:
    """Return what is wrong with the variable of content, and what to do about it."""
    value = variable(CAPTURE)
    if is_content_on() or value.strip().lower() in CAPTURE_OFF:
        return None
    return f"{CAPTURE} is {value!r:.100}: write {' or '.join(CAPTURE_ON)}, or false"


def of_traces() -> dict[str, str]:
    """Return what else the variables say of spans that are sent: the sampler, and that they have content."""
    found = {}
    if sampler := variable(_SAMPLER):
        ratio = variable(RATIO).strip() if has_ratio() else ""
        found["sampler"] = f"{sampler} {ratio}".strip()
        if sampler.lower().endswith("always_off") or (ratio and not float(ratio)):
            found["sampler"] += ", so no trace begins here"
    if is_content_on():
        found["content"] = "prompts and replies"
    return found


def has_ratio() -> bool:
    """Return True if the sampler has a ratio."""
    return variable(_SAMPLER).lower().endswith("traceidratio")


def timeout(signal: Signal) -> tuple[str, float]:
    """Return the variable of the longest time of a request, and its seconds; 0 if none is set."""
    name, value = _of_otlp(signal, "TIMEOUT")
    return name, float(value or 0)


def queue_size() -> int:
    """Return how many spans may wait to be sent."""
    return int(variable("OTEL_BSP_MAX_QUEUE_SIZE") or DEFAULT_QUEUE_SIZE)


def _batch_size() -> int:
    return int(variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or DEFAULT_BATCH_SIZE)


def interval_seconds() -> float:
    """Return the time between two exports of metrics."""
    value = variable("OTEL_METRIC_EXPORT_INTERVAL") or DEFAULT_INTERVAL_MILLISECONDS
    return float(value) / 1000


def fault(signal: Signal) -> str | None:
    """Return what is wrong first with the variables of a signal, and what to do about it, without secrets."""
    return next(_faults(signal), None)


def _faults(signal: Signal) -> Iterator[str]:
    yield from _faults_of_exporters(signal)
    of_others = _OF_OTHERS[signal]
    if not has_ratio():
        of_others += f"|{RATIO}"
    if set(exporters(signal)) == {"console"}:
        of_others += "|OTEL_EXPORTER_OTLP_.*"
    of_signal = {
        name: value
        for name, value in os.environ.items()
        if value and not re.fullmatch(of_others, name)
    }
    for name, value, advice in _wrong(of_signal, _RULES):
        yield f"{name} is {value!r:.100}: {advice}"
    for name, _, problem in _wrong(of_signal, _SECRET_RULES):
        yield f"{name} is {problem}"
    name, value = _of_otlp(signal, "ENDPOINT")
    if name in of_signal and not _is_url(value):
        yield f"{name} is not a URL such as http://localhost:4318, without spaces"
    for name, value in of_signal.items():
        is_file = re.fullmatch(f"{_OTLP}(CERTIFICATE|CLIENT_KEY|CLIENT_CERTIFICATE)", name)
        if is_file and not (Path(value).is_file() and os.access(value, os.R_OK)):
            yield f"{name} is {value!r:.100}: no such file, or no permission to read it"
    if signal == "traces" and (batch_size := _batch_size()) > queue_size():
        yield (
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE ({batch_size}) is above OTEL_BSP_MAX_QUEUE_SIZE "
            f"({queue_size()}): set both"
        )


def missing_parts() -> list[str]:
    """Return the variables of `_PARTS` that are set to what no installed package provides."""
    return [
        name
        for part in _PARTS
        if (name := f"OTEL_PYTHON_{part.upper()}") in os.environ
        and not _installed(part).select(name=variable(name))
    ]


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(re.fullmatch(r"(?i:https?)://\S+", text) and parts.hostname and parts.port != 0)
    except ValueError:
        return False


def _wrong(
    found: Mapping[str, str], rules: Sequence[tuple[str, str, str]]
) -> Iterator[tuple[str, str, str]]:
    for names, values, advice in rules:
        for name, value in found.items():
            if re.fullmatch(names, name) and not re.fullmatch(values, value, re.IGNORECASE):
                yield name, value, advice


def _faults_of_exporters(signal: Signal) -> Iterator[str]:
    for name in _named(signal):
        protocol_variable, protocol = _of_otlp(signal, "PROTOCOL")[0], _protocol(signal)
        if name == "otlp" and protocol not in _PROTOCOLS:
            yield f"{protocol_variable} is {protocol!r:.100}: write {' or '.join(_PROTOCOLS)}"
        elif name == "prometheus":
            yield f"OTEL_{signal.upper()}_EXPORTER asks for 'prometheus', which /metrics serves: leave it out"
        elif find_exporter(signal, name) is None:
            needed = _PROTOCOLS[protocol] if name == "otlp" else name
            what = f"OTEL_{signal.upper()}_EXPORTER asks for {name!r:.100}"
            if name == "otlp" and protocol_variable:
                what = f"{protocol_variable} is {protocol!r:.100}"
            hint = _PACKAGES.get(needed, "write otlp, console or none, or install its package")
            yield f"{what}, of which no package is installed: {hint}"
