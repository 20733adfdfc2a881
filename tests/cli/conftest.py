"""The command as its users run it: a process of its own on a real server, or, faster, in this one."""

import contextlib
import io
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import processes
import pytest

from aragora_q import cli

SECONDS = 60
"""Longest run of a command, on a machine that has other things to do."""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.out.splitlines()

    @property
    def objects(self):
        """Its JSON lines."""
        return [json.loads(line) for line in self.lines]

    @property
    def object(self):
        """Its one JSON line."""
        [one] = self.objects
        return one


@pytest.fixture
def command(redis_url, monkeypatch):
    """Runs `aragora-q ARGS` as a process of its own; `REDIS_URL` is an empty server."""
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*args, stdin="", env=None):
        ended = subprocess.run(
            processes.cli(*args),
            input=stdin if isinstance(stdin, bytes) else stdin.encode(),
            capture_output=True,
            check=False,
            env=processes.env(**(env or {})),
            timeout=SECONDS,
        )
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return run


@pytest.fixture
def invoke(redis_url, monkeypatch):
    """Runs `aragora-q ARGS` in this process: the same from its arguments to its exit code, but fast.

    `terminal`: its output is a terminal, as far as it can tell.
    """
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*args, stdin="", terminal=False):
        out, err = _stream(terminal=terminal), _stream(terminal=terminal)
        raw = stdin if isinstance(stdin, bytes) else stdin.encode()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["aragora-q", *map(str, args)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
            # Tests with an event loop of their own have it in this thread; signals are not theirs.
            patch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                ThreadPoolExecutor(1) as thread,
            ):
                code = thread.submit(cli.main).result(SECONDS)
        return Ended(code, _text(out), _text(err))

    return run


class _Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def _stream(*, terminal):
    kind = _Terminal if terminal else io.TextIOWrapper
    return kind(io.BytesIO(), encoding="utf-8")


def _text(stream):
    stream.flush()
    return stream.buffer.getvalue().decode()


@pytest.fixture
def start_command(redis_url, monkeypatch):
    """Starts `aragora-q ARGS` as a process of its own and gives it, to be signalled and waited for."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    started = []

    def start(*args, env=None, **options):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            processes.cli(*args), env=processes.env(**(env or {})), **{**pipes, **options}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        with contextlib.suppress(ValueError):
            process.communicate(timeout=SECONDS)
