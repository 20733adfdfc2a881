"""Send spans, and metrics if asked, of this process to an OpenTelemetry receiver.

Everything is configured by the standard `OTEL_*` variables; without them, nothing of OpenTelemetry is
imported. Needs the extra `otel`. Used by the commands that enqueue or run jobs, which never fail because of
it: what cannot be sent is dropped, with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aragora_q.observability.logs import EventMessage, get_logger
from aragora_q.observability.otel import variables

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = get_logger(__name__)

EXIT_SECONDS = 2.0
"""Longest time at the end for what is not sent yet, whatever the receiver does."""

_registries: list[CollectorRegistry] = []


def is_configured() -> bool:
    """Return True if `OTEL_*` variables say where to send spans."""
    return bool(variables.exporters("traces"))


def fault() -> str | None:
    """Return why what the variables ask for cannot be sent; None if nothing is wrong or asked for."""
    return next(variables.faults(), None) if _is_asked_for() else None


def _is_asked_for() -> bool:
    return is_configured() or bool(variables.exporters("metrics"))


def add_registry(registry: CollectorRegistry) -> None:
    """Send the metrics of `registry`, too, where metrics are sent."""
    _registries.append(registry)


def _log(message: EventMessage) -> None:
    logger.warning(message.event, extra=message.fields)


@contextmanager
def exporting(warn: Callable[[EventMessage], None] = _log) -> Iterator[None]:
    """While the body runs, send its spans and metrics; afterwards, what is left, within EXIT_SECONDS.

    `warn` is told what keeps them from being sent: at the start, at the end, and meanwhile at most once a
    minute, from other threads, too. Once per process: OpenTelemetry's providers cannot be replaced.
    """
    if not _is_asked_for():
        yield
        return
    sending = None
    reason = fault()
    if reason is None:
        try:
            from aragora_q.observability.otel.sending import Sending  # noqa: PLC0415 - if asked for

            sending = Sending(_registries, warn)
        except ImportError as error:
            reason = f"{error.name} cannot be imported: {variables.OTEL_HINT}"
        except Exception as error:  # noqa: BLE001 - jobs matter more; its text may hold a secret
            reason = f"{type(error).__name__} from OpenTelemetry: check the OTEL_* variables"
    if reason is not None:
        warn(EventMessage("no spans or metrics are sent", {"reason": reason}))
    try:
        yield
    finally:
        if sending is not None:
            sending.stop(EXIT_SECONDS)
