"""Log lines: one event each, with fields, as text or JSON.

Modules log with `logger = get_logger(__name__)` and pass the fields of an event as `extra`:

    logger.warning("job retrying", extra={"job": job.id, "error": text})

In programs that configure `logging` themselves, the message contains the fields, too: `job retrying
job=j1 error="..."`. Without any configuration, the package logs nothing. The launcher calls
`setup_logging`, which writes lines in this package's own formats. Text of jobs may be hostile, so values
are escaped: no line can forge another.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SYSLOG = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


logging.getLogger("aragora_q").addHandler(logging.NullHandler())


class EventMessage:
    """The message of a log record: the event, followed by its fields where it is shown as text."""

    def __init__(self, event: str, fields: Mapping[str, object]) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        return self.event + _rendered(self.fields)


class EventLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose messages contain the fields passed as `extra`. Made by `get_logger`."""

    def log(
        self,
        level: int,
        msg: object,
        *args: object,
        extra: Mapping[str, object] | None = None,
        stacklevel: int = 1,
        **kwargs: Any,
    ) -> None:
        """As `Logger.log`."""
        if self.isEnabledFor(level):
            event = str(msg) % args if args else str(msg)
            message = EventMessage(event, extra or {})
            self.logger.log(level, message, extra=extra, stacklevel=stacklevel + 1, **kwargs)


def get_logger(name: str) -> EventLogger:
    """Return the logger of a module. It is used like that of `logging.getLogger`."""
    return EventLogger(logging.getLogger(name), {})


def setup_logging(level: str, log_format: str) -> None:
    """Write this package's log lines to stderr, as `log_format` (text or json).

    `level` is the minimum level of this package's lines; of other packages, warnings are written. Under
    systemd, lines start with the priority that the journal reads.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    handler.setFormatter(JournalFormatter(formatter) if _is_journal() else formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("aragora_q").setLevel(level.upper())


def _is_journal() -> bool:
    """Return True if stderr is the journal's socket: see JOURNAL_STREAM in systemd.exec(5)."""
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def _event(record: logging.LogRecord) -> str:
    """Return the event without its fields, which this package's formatters write separately."""
    return record.msg.event if isinstance(record.msg, EventMessage) else record.getMessage()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `event`, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`time LEVEL event name=value …`; values other than plain words are quoted as in JSON.

    A traceback follows, indented, so that no line of it looks like an event.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = _rendered(_fields(record))
        line = f"{moment} {record.levelname:<7} {_plain_message(_event(record))}{fields}"
        if record.exc_info:
            traceback = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {_plain_message(frame)}" for frame in traceback)
        return line


class JournalFormatter(logging.Formatter):
    """Start every line with the syslog priority that journald reads; see sd-daemon(3)."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_SYSLOG.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in self._inner.format(record).splitlines())


def _rendered(fields: Mapping[str, object]) -> str:
    return "".join(f" {name}={_plain(value)}" for name, value in fields.items())


def _plain(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    is_word = text.isascii() and text.isprintable() and text and not set(text) & set(' "=')
    return text if is_word else json.dumps(text)


def _plain_message(text: str) -> str:
    return text if text.isascii() and text.isprintable() else json.dumps(text)[1:-1]
