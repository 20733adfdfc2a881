"""Log lines: one event each, with fields, as text or JSON.

Modules log with `logger = get_logger(__name__)` and pass the fields of an event as `extra`:

    logger.warning("job retrying", extra={"job": job.id, "error": text})

In programs that configure `logging` themselves, the message contains the fields, too: `job retrying
job=j1 error="..."`. Without any configuration, the package logs nothing. The launcher calls
`setup_logging`, which writes lines in this package's own formats. Text of jobs may be hostile, so values
are escaped: no line can forge another. Inside a span, the fields `trace_id` and `span_id` are added.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any

from aragora_q import tracing

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SYSLOG = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


MAX_WAITING_CHARS = 4_000_000
LINES_PER_WRITE = 100
FLUSH_SECONDS = 1.0

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
            extra = _with_ids(extra or {})
            message = EventMessage(event, extra)
            self.logger.log(level, message, extra=extra, stacklevel=stacklevel + 1, **kwargs)


def get_logger(name: str) -> EventLogger:
    """Return the logger of a module. It is used like that of `logging.getLogger`."""
    return EventLogger(logging.getLogger(name), {})


def setup_logging(level: str, log_format: str) -> None:
    """Write this package's log lines to stderr, as `log_format` (text or json).

    `level` is the minimum level of this package's lines; of other packages, warnings are written, those
    of module `warnings` too. Under systemd, lines start with the priority that the journal reads.
    """
    # What a program put in place of stderr, without a file descriptor, has no reader that could stop.
    if _stderr_status():
        _writer.descriptor = sys.stderr.fileno()
        handler: logging.Handler = StderrHandler()
    else:
        handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    handler.setFormatter(JournalFormatter(formatter) if _is_journal() else formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("aragora_q").setLevel(level.upper())
    logging.captureWarnings(capture=True)


class StderrHandler(logging.Handler):
    """Passes lines to the thread that writes them to stderr.

    A stderr whose reader is stopped, such as a pipe or a terminal, must not stop the event loop. Lines
    that would exceed MAX_WAITING_CHARS are dropped; a later line has their number.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Format `record` and pass it on."""
        try:
            _writer.add(self.format(record))
        except Exception:  # noqa: BLE001 - as all handlers do
            self.handleError(record)

    def flush(self) -> None:
        """Wait until the lines so far are written, at most FLUSH_SECONDS."""
        _writer.flush()


class _Writer:
    def __init__(self) -> None:
        self.descriptor = 2
        """That of stderr when logging was set up: jobs may replace `sys.stderr`."""
        self._start()
        os.register_at_fork(after_in_child=self._start)  # a thread is not forked

    def _start(self) -> None:
        self._items: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._waiting_chars = self._dropped = 0
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # the garbage collector may log while it is held

    def add(self, line: str) -> None:
        with self._lock:
            if self._waiting_chars + len(line) > MAX_WAITING_CHARS:
                self._dropped += 1
                return
            self._waiting_chars += len(line)
        self._items.put(line)
        if self._thread is None:
            self._start_thread()

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # at the limit on threads: write it here, and try again later
                self._write_lines([self._items.get()])
            else:
                self._thread = thread

    def flush(self) -> None:
        written = threading.Event()
        if self._thread is not None:
            self._items.put(written)
            written.wait(FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            items = [self._items.get()]
            with suppress(Empty):
                while len(items) < LINES_PER_WRITE:
                    items.append(self._items.get_nowait())
            self._write_lines(items)
            if self._dropped and self._waiting_chars < MAX_WAITING_CHARS // 2:
                with self._lock:
                    dropped, self._dropped = self._dropped, 0
                logger.warning("log lines dropped: stderr was not read", extra={"lines": dropped})
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()

    def _write_lines(self, items: Sequence[str | threading.Event]) -> None:
        lines = [item for item in items if isinstance(item, str)]
        self._write("".join(f"{line}\n" for line in lines))
        with self._lock:
            self._waiting_chars -= sum(map(len, lines))

    def _write(self, text: str) -> None:
        """Write, not through Python's buffer: a thread that waits there would make Python abort at exit."""
        data = text.encode(errors="backslashreplace")
        with suppress(OSError):  # closed, or full
            while data:
                try:
                    data = data[os.write(self.descriptor, data) :]
                except BlockingIOError:  # another process that has the same stream open changed it
                    os.set_blocking(self.descriptor, True)


logger = get_logger(__name__)
_writer = _Writer()


def _is_journal() -> bool:
    """Return True if stderr is the journal's socket: see JOURNAL_STREAM in systemd.exec(5)."""
    status = _stderr_status()
    return status is not None and (
        os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    )


def _stderr_status() -> os.stat_result | None:
    try:
        return os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return None


def _event(record: logging.LogRecord) -> str:
    """Return the event without its fields, which this package's formatters write separately."""
    return record.msg.event if isinstance(record.msg, EventMessage) else record.getMessage()


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """Return the fields of an event; lines of other packages have the ids of the current span, too."""
    return _with_ids({name: value for name, value in vars(record).items() if name not in _STANDARD})


def _with_ids(fields: Mapping[str, object]) -> Mapping[str, object]:
    """Return fields with the ids of the current span, unless they name one."""
    return fields if "trace_id" in fields else {**fields, **tracing.current_ids()}


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
