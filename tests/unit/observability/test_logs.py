"""Log lines: one event each, whatever text they contain, in three formats."""

import io
import json
import logging
import re
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import processes

from aragora_q.observability import logs

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def record(message="event", *, level=logging.INFO, raised=None, **facts):
    exc_info = None
    if raised is not None:
        try:
            raise raised
        except type(raised):
            exc_info = sys.exc_info()
    made = logging.LogRecord("aragora_q.x", level, "x.py", 1, message, (), exc_info)
    vars(made).update(facts)
    return made


@given(st.text(), st.text())
def test_hostile_text_is_one_line(message, value):
    """Neither an event nor a field can start a line, move the cursor, or reverse the text."""
    text = logs.TextFormatter().format(record(message, job=value))
    assert text.isascii()
    assert text.isprintable()


@given(st.text(), st.text())
def test_hostile_text_comes_back_from_json(message, value):
    """The JSON form is one line, and loses nothing."""
    line = logs.JsonFormatter().format(record(message, job=value))
    assert "\n" not in line
    assert line.isascii()
    read = json.loads(line)
    assert read["event"] == message
    assert read["job"] == value


def test_every_line_says_its_day_and_zone():
    """A single log line has date and time zone."""
    made = record()
    made.created = 1_764_091_233.9
    assert logs.TextFormatter().format(made) == "2025-11-25T17:20:33Z INFO    event"


FORGED = "x\n12:00:00 INFO    job completed job=j1\x1b[2J"


@given(st.text() | st.just(FORGED))
def test_hostile_exception_cannot_forge_a_line(text):
    """A traceback is indented and escaped: only log events start in the first column."""
    written = logs.TextFormatter().format(record("broken", raised=RuntimeError(text)))
    first, *rest = written.split("\n")
    assert first.endswith("broken")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert not CONTROL.search(written)
    assert written.isascii()


def test_fields_are_readable():
    """Simple values are unquoted, floats are short, everything else is quoted as in JSON."""
    line = logs.TextFormatter().format(
        record(
            "job done", level=logging.WARNING, job="j1", seconds=1.23456, error='a "b"', n=3, e=""
        )
    )
    assert re.fullmatch(
        r"\S+Z WARNING job done "
        r'job=j1 seconds=1\.235 error="a \\"b\\"" n=3 e=""',
        line,
    )


def test_json_has_the_documented_fields():
    """time (UTC, milliseconds), level, logger, event, then the other fields."""
    line = json.loads(logs.JsonFormatter().format(record("event", raised=KeyError("k"), job="j1")))
    assert list(line) == ["time", "level", "logger", "event", "job", "traceback"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
    assert (line["level"], line["logger"]) == ("info", "aragora_q.x")
    assert line["traceback"].endswith("KeyError: 'k'")


@pytest.mark.parametrize(
    ("level", "priority"),
    [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)],
)
def test_journal_gets_priorities(level, priority):
    """Every line, those of a traceback included, begins with the syslog priority."""
    formatter = logs.JournalFormatter(logs.TextFormatter())
    number = getattr(logging, level)
    lines = formatter.format(record("event", level=number, raised=ValueError("v"))).split("\n")
    assert len(lines) > 2
    assert all(line.startswith(f"<{priority}>") for line in lines)


def test_journal_is_recognized(monkeypatch, tmp_path):
    """Priorities are written only if JOURNAL_STREAM names the file that is stderr."""
    with (tmp_path / "stderr").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert not logs._is_journal()
        stat = (tmp_path / "stderr").stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        assert logs._is_journal()
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino + 1}")
        assert not logs._is_journal()


@pytest.fixture
def _logging_restored():
    root, ours = logging.getLogger(), logging.getLogger("aragora_q")
    kept = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = kept
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_levels(monkeypatch, log_format):
    """`log_level` is for this package; other loggers show warnings only. Everything goes to stderr."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.setup_logging("debug", log_format)
    logging.getLogger("aragora_q.worker").debug("ours")
    logging.getLogger("urllib3").info("theirs")
    logging.getLogger("urllib3").warning("their warning")
    lines = stderr.getvalue().splitlines()
    assert len(lines) == 2
    assert "ours" in lines[0]
    assert "their warning" in lines[1]


@pytest.mark.usefixtures("_logging_restored")
def test_lines_that_do_not_fit_are_counted(monkeypatch):
    """While stderr blocks, lines of a bounded size wait; the next line says how many were dropped."""
    is_open, written = threading.Event(), []

    def write(text):
        is_open.wait(20)
        written.extend(text.splitlines())

    monkeypatch.setattr(logs, "MAX_WAITING_CHARS", 500)
    monkeypatch.setattr(logs, "_writer", logs._Writer())
    monkeypatch.setattr(logs._writer, "_write", write)
    logs.setup_logging("info", "text")
    for n in range(200):
        logging.getLogger("aragora_q.worker").info("line %d", n)
    is_open.set()
    logging.getLogger().handlers[0].flush()
    logging.getLogger().handlers[0].flush()
    *lines, last = written
    assert "line 0" in lines[0]
    assert last.endswith(f"log lines dropped: stderr was not read lines={200 - len(lines)}")
    assert len(lines) < 200


def _logged(program, **options):
    """Start a Python program that has set up logging."""
    start = "import os, sys; from aragora_q.observability import logs; logs.setup_logging('info', 'text')"
    return subprocess.Popen(
        [sys.executable, "-c", f"{start}\n{program}"],
        env=processes.env(),
        stderr=subprocess.PIPE,
        **options,
    )


def test_a_warning_of_a_library_is_one_line():
    """A model's library warns of settings that it ignores: the lines stay readable for programs."""
    program = "import warnings; warnings.warn('temperature is ignored')"
    _, stderr = _logged(program).communicate(timeout=30)
    [line] = stderr.decode().splitlines()
    assert re.fullmatch(r"\S+Z WARNING .*UserWarning: temperature is ignored.*", line)


@pytest.mark.parametrize("replacement", ["object()", "None", "open(os.devnull, 'w')"])
def test_lines_are_written_although_a_job_replaced_stderr(replacement):
    """Jobs may redirect `sys.stderr`, to anything: the worker's lines go where they went before."""
    program = (
        f"sys.stderr = {replacement}\nfor n in '12': logs.logger.info(n); logs._writer.flush()"
    )
    _, stderr = _logged(program).communicate(timeout=30)
    assert [line.split()[-1] for line in stderr.decode().splitlines()] == ["1", "2"]


def test_no_line_is_lost_when_stderr_becomes_nonblocking():
    """Another process that shares the pipe may do that at any time; every line arrives whole."""
    program = (
        "os.set_blocking(2, False)\n"
        "for n in range(500): logs.logger.info('x' * 500)\n"
        "os.write(1, b'.'); sys.stdin.read()"
    )
    process = _logged(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.read(1)
    _, stderr = process.communicate(timeout=30)
    assert [len(line) for line in stderr.split()[2::3]] == [500] * 500
