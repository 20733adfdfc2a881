"""Send spans, and metrics if asked, of this process to an OpenTelemetry receiver.

Everything is configured by the standard `OTEL_*` variables; without them, nothing of OpenTelemetry is
imported. Needs the extra `otel`. Used by the commands that enqueue or run jobs, which never fail because of
it: what cannot be sent is dropped, with a warning.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from aragora_q.observability.logs import EventMessage, get_logger
from aragora_q.observability.otel import variables

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from aragora_q.observability.otel.sending import Sending

logger = get_logger(__name__)

EXIT_SECONDS = 2.0
"""Longest time at the end for what is not sent yet, whatever the receiver does."""

_registries: list[CollectorRegistry] = []
_sending: Sending | None = None
"""What sends, while `exporting` does."""


def is_configured() -> bool:
    """Return True if `OTEL_*` variables say where to send spans."""
    return bool(variables.exporters("traces"))


def _is_asked_for() -> bool:
    return is_configured() or bool(variables.exporters("metrics"))


def fault() -> str | None:
    """Return why what the variables ask for cannot be sent; None if nothing is wrong or asked for."""
    if not _is_asked_for():
        return None
    return variables.fault()


def add_registry(registry: CollectorRegistry) -> None:
    """Send the metrics of `registry`, too, if metrics are sent at all."""
    if variables.exporters("metrics"):
        _registries.append(registry)


@contextmanager
def exporting() -> Iterator[None]:
    """While the body runs, send its spans and metrics; afterwards, what is left, within EXIT_SECONDS.

    What cannot be sent is warned of: at the start, at the end, and meanwhile at most once a minute. Used once
    per process: OpenTelemetry's providers cannot be replaced.
    """
    if not _is_asked_for():
        yield
        return
    global _sending  # noqa: PLW0603 - there is one for each process
    _sending = _start()
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


def _start() -> Sending | None:
    try:
        reason = fault()
        if reason is None:
            from aragora_q.observability.otel.sending import Sending  # noqa: PLC0415 - likewise

            return Sending(_registries)
    except ImportError as error:
        reason = f"the package {error.name} is missing: {variables.OTEL_HINT}"
    except Exception as error:  # noqa: BLE001 - jobs matter more; its text may hold a secret
        reason = f"{type(error).__name__}: check the OTEL_* variables"
    warn("no spans or metrics are sent", {"reason": reason})
    return None


def warn(event: str, fields: Mapping[str, object]) -> None:
    """Log a warning; where no log is set up, as in short commands, write it to stderr."""
    if logging.getLogger().hasHandlers():
        logger.warning(event, extra=fields)
    else:
        with suppress(OSError, ValueError, AttributeError):  # closed, now or from the start
            sys.stderr.write(f"warning: {EventMessage(event, fields)}\n")
