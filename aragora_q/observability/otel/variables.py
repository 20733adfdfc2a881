"""What the `OTEL_*` variables mean, and what is wrong with them. Imports nothing of OpenTelemetry.

OpenTelemetry itself reads the variables, but answers a wrong value with a traceback, or with a message that
has a secret in it, or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

OTEL_HINT = "pip install 'aragora-q[otel]'"

Signal = Literal["traces", "metrics"]

DEFAULT_INTERVAL_MILLISECONDS = 60_000
"""Between two exports of metrics."""

DEFAULT_QUEUE_SIZE, DEFAULT_BATCH_SIZE = 2048, 512

_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PACKAGES = {
    "console": OTEL_HINT,
    "otlp_proto_http": OTEL_HINT,
    "otlp_proto_grpc": "pip install opentelemetry-exporter-otlp-proto-grpc, or choose http/protobuf",
}
_OTLP = "OTEL_EXPORTER_OTLP_(TRACES_|METRICS_)?"
_POSITIVE = r"(?=.*[1-9])\d*\.?\d*"
_PAIR = r"\s*[^=,\s][^=,]*=[^,]*"
_RULES = (
    ("OTEL_BSP_.*", "0*[1-9][0-9]*", "write a whole number above 0"),
    ("OTEL_.*_LIMIT", "[0-9]+", "write a whole number"),
    (f"{_OTLP}TIMEOUT", _POSITIVE, "write a number of seconds above 0"),
    ("OTEL_METRIC_EXPORT_INTERVAL", _POSITIVE, "write a number of milliseconds above 0"),
    (f"{_OTLP}COMPRESSION", "none|gzip|deflate", "write none, gzip or deflate"),
    (
        "OTEL_TRACES_SAMPLER",
        "(parentbased_)?(always_on|always_off|traceidratio)",
        "write always_on, always_off or parentbased_traceidratio, for example",
    ),
    ("OTEL_TRACES_SAMPLER_ARG", r"0*(\.\d*)?|0*1(\.0*)?", "write a number from 0 to 1"),
)
"""Names of variables, their valid values, and advice about any other value."""

_SECRET_RULES = (
    (f"{_OTLP}ENDPOINT", r"https?://[^/\s].*", "not a URL such as http://localhost:4318"),
    (
        f"{_OTLP}HEADERS|OTEL_RESOURCE_ATTRIBUTES",
        f"{_PAIR}(,{_PAIR})*",
        "not a list such as name=value,name=value",
    ),
)
"""The same, of variables whose values may be secret."""


def variable(name: str) -> str:
    """Return the value of a variable; empty if it is not set."""
    return os.environ.get(name, "").strip()


def endpoint(signal: Signal) -> str:
    """Return the address of the receiver, as far as variables have it."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return next(filter(None, map(variable, names)), "")


def exporters(signal: Signal) -> list[str]:
    """Return the names of the exporters that the variables ask for. Metrics are sent only if named."""
    if variable("OTEL_SDK_DISABLED").lower() == "true":
        return []
    names = variable(f"OTEL_{signal.upper()}_EXPORTER")
    if not names and signal == "traces" and endpoint(signal):
        names = "otlp"
    return [name for each in names.split(",") if (name := each.strip()) not in ("", "none")]


def _installed(group: str) -> EntryPoints:
    from importlib.metadata import entry_points  # noqa: PLC0415 - commands without traces do without

    return entry_points(group=f"opentelemetry_{group}")


def find_exporter(signal: Signal, name: str) -> EntryPoint | None:
    """Return where an installed package has the exporter."""
    if name == "otlp":
        name = _PROTOCOLS[_protocol(signal)[1]]
    return next(iter(_installed(f"{signal}_exporter").select(name=name)), None)


def _protocol(signal: Signal) -> tuple[str, str]:
    """Return the variable that has the protocol, and the protocol."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if value := variable(name):
            return name, value
    return "", "http/protobuf"


def queue_size() -> int:
    """Return how many spans may wait to be sent."""
    return int(variable("OTEL_BSP_MAX_QUEUE_SIZE") or DEFAULT_QUEUE_SIZE)


def interval_seconds() -> float:
    """Return the time between two exports of metrics."""
    value = variable("OTEL_METRIC_EXPORT_INTERVAL") or DEFAULT_INTERVAL_MILLISECONDS
    return float(value) / 1000


def fault() -> str | None:
    """Return what is wrong with the variables first, and what to do about it; no secret is in it."""
    return next(_faults(), None)


def _faults() -> Iterator[str]:
    for signal in ("traces", "metrics"):
        yield from _faults_of_exporters(signal)
    for name, value, advice in _wrong(_RULES):
        yield f"{name} is {value!r:.100}: {advice}"
    for name, _, problem in _wrong(_SECRET_RULES):
        yield f"{name} is {problem}"
    for name, value in os.environ.items():
        is_file = re.fullmatch(f"{_OTLP}(CERTIFICATE|CLIENT_KEY|CLIENT_CERTIFICATE)", name)
        if is_file and value and not (Path(value).is_file() and os.access(value, os.R_OK)):
            yield f"{name} is {value!r:.100}: there is no such file, or it may not be read"
    known = {"none", "", *_installed("propagator").names}
    if unknown := {*variable("OTEL_PROPAGATORS").lower().replace(" ", "").split(",")} - known:
        yield f"OTEL_PROPAGATORS has {min(unknown)!r:.100}: write tracecontext,baggage"
    batch_size = int(variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or DEFAULT_BATCH_SIZE)
    if batch_size > queue_size():
        yield (
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE ({batch_size}) is above OTEL_BSP_MAX_QUEUE_SIZE "
            f"({queue_size()}): set both"
        )


def _wrong(rules: Sequence[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    for names, values, advice in rules:
        for name, value in os.environ.items():
            if re.fullmatch(names, name) and not re.fullmatch(
                f"({values})?", value.strip(), re.IGNORECASE
            ):
                yield name, value, advice


def _faults_of_exporters(signal: Signal) -> Iterator[str]:
    for name in exporters(signal):
        protocol_variable, protocol = _protocol(signal)
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
