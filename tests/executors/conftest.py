"""Programs that run as jobs, and both event loops to run them on."""

import asyncio
import shlex

import pytest
import uvloop
from support.memory_session import MemorySession, make_attempt

from aragora_q.config.settings import QueueConfig
from aragora_q.executors import command

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def on_loop(request):
    """Runs a coroutine to its end, on asyncio's loop and on uvloop's."""

    def run(work):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(work)

    return run


@pytest.fixture
def program(tmp_path):
    """Writes a program and returns the command line that runs it."""

    def write(text, interpreter="/bin/sh"):
        path = tmp_path / "program"
        path.write_text(f"#!{interpreter}\n{text}\n")
        path.chmod(0o755)
        return shlex.quote(str(path))

    return write


@pytest.fixture
def run_program(on_loop, program):
    """Runs a shell program as one attempt of a job; returns the outcome and the session."""

    def run(text, *, session=None, interpreter="/bin/sh", settings=None, **options):
        config = QueueConfig(exec_command=program(text, interpreter), **(settings or {}))
        session = session or MemorySession()
        attempt = make_attempt(
            command.create(config),
            session=session,
            **{"max_result_bytes": config.max_result_bytes, **options},
        )
        return on_loop(attempt.run()), session

    return run
