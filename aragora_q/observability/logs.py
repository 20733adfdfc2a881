"""Log lines: one event each, as text or JSON, safe to show and bounded in rate.

Set up once by the launcher; everybody else uses `logging.getLogger(__name__)` and puts the facts
into `extra`. Text from jobs may be hostile, so every value is escaped: no line can forge another.
"""

from __future__ import annotations

import json
import logging
import os
import sys
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


def setup_logging(level: str, log_format: str) -> None:
    """Send the package's logs to stderr, as `log_format` (text or json); journald gets priorities."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    handler.setFormatter(JournalFormatter(formatter) if _is_journal() else formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("aragora_q").setLevel(level.upper())


def _is_journal() -> bool:
    """Whether stderr is the journal's socket, as systemd says in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `event`, and the record's facts."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`time LEVEL event name=value …`; values are JSON-escaped where they are not plain words.

    A traceback follows indented, so that nothing in it can pass for an event.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = "".join(f" {name}={_plain(value)}" for name, value in _facts(record).items())
        line = f"{moment} {record.levelname:<7} {_plain_message(record.getMessage())}{facts}"
        if record.exc_info:
            traceback = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {_plain_message(each)}" for each in traceback)
        return line


class JournalFormatter(logging.Formatter):
    """Prefixes the syslog priority that journald reads off each line (sd-daemon(3))."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_SYSLOG.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in self._inner.format(record).splitlines())


def _plain(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    is_word = text.isascii() and text.isprintable() and text and not set(text) & set(' "=')
    return text if is_word else json.dumps(text)


def _plain_message(text: str) -> str:
    return text if text.isascii() and text.isprintable() else json.dumps(text)[1:-1]
