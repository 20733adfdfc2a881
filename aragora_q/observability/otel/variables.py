"""What the `OTEL_*` variables mean, and what is wrong with them. Imports nothing of OpenTelemetry.

OpenTelemetry itself reads the variables, but answers a wrong value with a traceback, or with a message that
has a secret in it, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from urllib.parse import urlsplit

from aragora_q.observability.otel import OTEL_HINT, Signal, exporters, variable

DEFAULT_INTERVAL_MILLISECONDS = 60_000
"""Between two exports of metrics."""

DEFAULT_QUEUE_SIZE, DEFAULT_BATCH_SIZE = 2048, 512

_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PACKAGES = {
    "console": OTEL_HINT,
    "otlp_proto_http": OTEL_HINT,
    "otlp_proto_grpc": "pip install opentelemetry-exporter-otlp-proto-grpc, or choose http/protobuf",
}
_RATIO_SAMPLERS = ("traceidratio", "parentbased_traceidratio")
_SAMPLERS = (
    *("always_on", "always_off", "parentbased_always_on", "parentbased_always_off"),
    *_RATIO_SAMPLERS,
)


def find_exporter(signal: Signal, name: str) -> EntryPoint | None:
    """Return where an installed package has the exporter."""
    if name == "otlp":
        name = _PROTOCOLS[_protocol(signal)[1]]
    found = entry_points(group=f"opentelemetry_{signal}_exporter", name=name)
    return next(iter(found), None)


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


def faults() -> Iterator[str]:
    """Yield what is wrong with the variables, and what to do about it; no secret is in it."""
    for signal in ("traces", "metrics"):
        yield from _faults_of_exporters(signal)
    for name, is_valid, expected in _rules():
        if (value := variable(name)) and not is_valid(value):
            yield f"{name} is {value!r:.100}: {expected}"
    for name, is_valid, expected in _secret_rules():
        if (value := variable(name)) and not is_valid(value):
            yield f"{name} is {expected}"
    batch_size = int(variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") or DEFAULT_BATCH_SIZE)
    if batch_size > queue_size():
        yield (
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE ({batch_size}) is above OTEL_BSP_MAX_QUEUE_SIZE "
            f"({queue_size()}): set both"
        )


def _faults_of_exporters(signal: Signal) -> Iterator[str]:
    for name in exporters(signal):
        protocol_variable, protocol = _protocol(signal)
        if name == "otlp" and protocol not in _PROTOCOLS:
            expected = _one_of(*_PROTOCOLS)
            yield f"{protocol_variable} is {protocol!r:.100}: {expected}"
        elif name == "prometheus":
            yield f"OTEL_{signal.upper()}_EXPORTER asks for 'prometheus', which /metrics serves: leave it out"
        elif find_exporter(signal, name) is None:
            needed = _PROTOCOLS[protocol] if name == "otlp" else name
            what = f"OTEL_{signal.upper()}_EXPORTER asks for {name!r:.100}"
            if name == "otlp" and protocol_variable:
                what = f"{protocol_variable} is {protocol!r:.100}"
            hint = _PACKAGES.get(needed, "write otlp, console or none, or install its package")
            yield f"{what}, of which no package is installed: {hint}"


Rule = tuple[str, Callable[[str], bool], str]


def _rules() -> Iterator[Rule]:
    for name in ("SCHEDULE_DELAY", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE", "EXPORT_TIMEOUT"):
        yield f"OTEL_BSP_{name}", _is_count, "write a whole number above 0"
    for name in (
        *("ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH"),
        *("SPAN_ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_VALUE_LENGTH", "SPAN_EVENT_COUNT"),
        *("SPAN_LINK_COUNT", "EVENT_ATTRIBUTE_COUNT", "LINK_ATTRIBUTE_COUNT"),
    ):
        yield f"OTEL_{name}_LIMIT", _is_limit, "write a whole number"
    for name in _otlp("TIMEOUT"):
        yield name, _is_positive, "write a number of seconds above 0"
    yield "OTEL_METRIC_EXPORT_INTERVAL", _is_positive, "write a number of milliseconds above 0"
    for name in _otlp("COMPRESSION"):
        yield (
            name,
            lambda text: text.lower() in ("none", "gzip", "deflate"),
            _one_of("none", "gzip", "deflate"),
        )
    for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
        for name in _otlp(kind):
            yield name, _is_readable, "there is no such file, or it may not be read"
    yield "OTEL_TRACES_SAMPLER", lambda text: text.lower() in _SAMPLERS, _one_of(*_SAMPLERS)
    if variable("OTEL_TRACES_SAMPLER").lower() in _RATIO_SAMPLERS:
        yield "OTEL_TRACES_SAMPLER_ARG", _is_ratio, "write a number from 0 to 1"
    yield "OTEL_PROPAGATORS", _are_propagators, "write tracecontext,baggage"


def _secret_rules() -> Iterator[Rule]:
    """Rules of variables whose values may be secret."""
    for name in _otlp("ENDPOINT"):
        yield name, _is_url, "not a URL such as http://localhost:4318"
    for name in (*_otlp("HEADERS"), "OTEL_RESOURCE_ATTRIBUTES"):
        yield name, _are_pairs, "not a list such as name=value,name=value"


def _otlp(kind: str) -> Iterator[str]:
    """Yield the variables of a kind that the signals sent here have."""
    for signal in ("", "TRACES_", "METRICS_"):
        yield f"OTEL_EXPORTER_OTLP_{signal}{kind}"


def _one_of(*values: str) -> str:
    return f"write {', '.join(values[:-1])} or {values[-1]}"


def _is_count(text: str) -> bool:
    return text.isdecimal() and int(text) > 0


def _is_limit(text: str) -> bool:
    return text.isdecimal()


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _is_ratio(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _is_readable(text: str) -> bool:
    return Path(text).is_file() and os.access(text, os.R_OK)


def _are_propagators(text: str) -> bool:
    known = {"none", *entry_points(group="opentelemetry_propagator").names}
    return {name.strip().lower() for name in text.split(",")} <= known


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port  # raises ValueError
    except ValueError:
        return False
    is_grpc = "grpc" in (_protocol("traces")[1], _protocol("metrics")[1])
    return is_grpc or (url.scheme in ("http", "https") and bool(url.hostname))


def _are_pairs(text: str) -> bool:
    pairs = [each.partition("=") for each in text.split(",") if each.strip()]
    return all(name.strip() and equals for name, equals, _ in pairs)
