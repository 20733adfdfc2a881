"""Send spans, and metrics if asked, of this process to an OpenTelemetry receiver.

Everything is configured by the standard `OTEL_*` variables; without them, nothing of OpenTelemetry is
imported. Needs the extra `otel`. Used by the commands that enqueue or run jobs, which never fail because of
it: what cannot be sent is dropped, with a warning.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from aragora_q.observability.logs import EventMessage, get_logger
from aragora_q.observability.otel import variables
from aragora_q.observability.otel.variables import SENT, Signal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from aragora_q.observability.otel.sending import Sending

logger = get_logger(__name__)

EXIT_SECONDS = 2.0
"""Longest time at the end for what is not sent yet, whatever the receiver does."""

PROBE_SECONDS = 3.0
"""Longest time of a receiver for an answer to `probe`."""

_registries: list[CollectorRegistry] = []
_sending: Sending | None = None
"""What sends, while `exporting` does."""


def is_configured() -> bool:
    """Return True if `OTEL_*` variables say where to send spans."""
    return bool(variables.exporters("traces"))


def add_registry(registry: CollectorRegistry) -> None:
    """Send the metrics of `registry`, too, if metrics are sent at all."""
    if variables.exporters("metrics"):
        _registries.append(registry)


@contextmanager
def exporting(signals: Collection[Signal] = tuple(SENT)) -> Iterator[None]:
    """While the body runs, send its `signals`; afterwards, what is left, within EXIT_SECONDS.

    What cannot be sent is warned of: at the start, at the end, and meanwhile at most once a minute. Used once
    per process: OpenTelemetry's providers cannot be replaced.
    """
    if any(name.startswith(("OTEL_PROPAGATORS", "OTEL_PYTHON_")) for name in os.environ):
        from aragora_q.observability.otel import names  # noqa: PLC0415 - if asked for

        for name, reason in names.ignore_missing().items():
            if "traces" in signals and is_configured():
                warn(f"{name} is not used", {"reason": reason})
    global _sending  # noqa: PLW0603 - there is one for each process
    _sending = _start(signals)
    try:
        yield
    finally:
        finish()


def finish() -> None:
    """Send what is left, within EXIT_SECONDS: the process ends, or `exporting` does."""
    global _sending
    sending, _sending = _sending, None
    if sending is not None:
        sending.stop(EXIT_SECONDS)


def _start(signals: Collection[Signal]) -> Sending | None:
    sending = None
    sent = {}
    for signal in signals:
        what = SENT[signal]
        if not (exporters := variables.exporters(signal)):
            continue
        try:
            if (reason := variables.fault(signal)) is None:
                from aragora_q.observability.otel.sending import Sending  # noqa: PLC0415 - likewise

                sending = sending or Sending()
                sending.start(signal, _registries)
                sent[what] = " and ".join(variables.destination(signal, name) for name in exporters)
        except Exception as error:  # noqa: BLE001 - jobs matter more
            reason = _explain(error)
        if reason is not None:
            warn(f"no {what} are sent", {"reason": reason})
    if SENT["traces"] in sent:
        if reason := variables.content_fault():
            warn("spans have no content", {"reason": reason})
        sent |= variables.of_traces()
    if sent and _has_log():
        logger.info("OpenTelemetry is on", extra=sent)
    return sending


def probe(signal: Signal) -> Iterator[tuple[str, str]]:
    """Send an empty request to each receiver of a signal; return its name and why it does not take it.

    The reason is empty if it does. A receiver has PROBE_SECONDS. The variables must have no fault.
    """
    for name in variables.exporters(signal):
        reason = ""
        if name == "otlp":
            try:
                from aragora_q.observability.otel import sending  # noqa: PLC0415 - likewise

                reason = sending.probe(signal, name, PROBE_SECONDS)
            except Exception as error:  # noqa: BLE001 - as when it is sent
                reason = _explain(error)
        yield variables.destination(signal, name), reason


def _explain(error: Exception) -> str:
    """Return why nothing can be sent, without the text of the error, which may hold a secret."""
    if isinstance(error, ImportError):
        return f"the package {error.name} is missing: {variables.OTEL_HINT}"
    return f"{type(error).__name__}: check the OTEL_* variables"


def _has_log() -> bool:
    return logging.getLogger().hasHandlers()


def warn(event: str, fields: Mapping[str, object]) -> None:
    """Log a warning; where no log is set up, as in short commands, write it to stderr."""
    if _has_log():
        logger.warning(event, extra=fields)
    else:
        with suppress(OSError, ValueError, AttributeError):  # closed, now or from the start
            sys.stderr.write(f"warning: {EventMessage(event, fields)}\n")
