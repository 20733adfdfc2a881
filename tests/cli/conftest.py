"""The command line: as a separate process like its users run it, or, faster, in the test's process."""

import contextlib
import io
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
from support import processes
from support.queue_harness import QueueHarness, run_on_queue

from aragora_q import cli

SECONDS = 60
"""Time limit of one command, generous because the machine may be busy."""


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

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
    def ids(self):
        """The `id` of each JSON line."""
        return [line["id"] for line in self.objects]

    @property
    def object(self):
        """Its one JSON line."""
        [one] = self.objects
        return one


@pytest.fixture
async def harness(redis_url):
    """An empty queue. Invariant Z is not checked after the test: some tests here damage data on purpose."""
    harness = QueueHarness(redis_url)
    yield harness
    await harness.close()


@pytest.fixture
def on_queue(redis_url, redis_client):
    """Runs `work(harness)` on a queue that exists for this call; returns its result."""
    return partial(run_on_queue, redis_url, client=redis_client)


@pytest.fixture
def cli_command(redis_url, monkeypatch):
    """Runs `aragora-q ARGS` as a process; `REDIS_URL` is an empty server."""
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
        return CommandResult(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return run


@pytest.fixture
def run_cli(redis_url, monkeypatch):
    """Runs `aragora-q ARGS` in this process: same arguments and exit code, but faster.

    With `terminal`, its output says that it is a terminal.
    """
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*args, stdin="", terminal=False):
        out, err = _stream(terminal=terminal), _stream(terminal=terminal)
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["aragora-q", *map(str, args)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
            # The command runs in another thread, because the test may have an event loop in this one;
            # signal handlers can be set in the main thread only.
            patch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                ThreadPoolExecutor(1) as thread,
            ):
                code = thread.submit(cli.main).result(SECONDS)
        return CommandResult(code, _text(out), _text(err))

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
    """Starts `aragora-q ARGS` as a process, and returns it; killed after the test."""
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
        process.kill()
        with contextlib.suppress(BrokenPipeError), process:
            pass  # leaving it closes the pipes
