"""The trace context that a program of `--exec` gets."""

import json
import shlex
import sys

import pytest
from support.memory_session import make_attempt

from aragora_q import tracing
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Completed
from aragora_q.executors import command

CALLER = f"00-{'a' * 32}-{'b' * 16}-01"
PROGRAM = (
    "import json, os; print(json.dumps({n: v for n, v in os.environ.items() if n[:5] == 'TRACE'}))"
)


@pytest.fixture(autouse=True)
def _of_the_worker(monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'c' * 32}-{'d' * 16}-01")
    monkeypatch.setenv("TRACESTATE", "of=worker")


async def _variables(**job_fields):
    line = shlex.join((sys.executable, "-c", PROGRAM))
    outcome = await make_attempt(command.create(QueueConfig(exec_command=line)), **job_fields).run()
    assert isinstance(outcome, Completed), outcome
    return json.loads(outcome.result)


async def test_a_program_continues_the_trace_of_its_attempt(spans):
    """It does so at a restart, too. What the worker was started with is not passed on."""
    with tracing.span("run", parent=f"{CALLER} vendor=1") as span:
        assert await _variables(trace=CALLER, is_restart=True) == {
            "TRACEPARENT": span.context.partition(" ")[0],
            "TRACESTATE": "vendor=1",
        }


async def test_without_tracing_only_the_first_start_continues_the_trace_of_the_caller():
    """A later start gets no context: its spans would be in the trace of the first one."""
    assert await _variables(trace=f"{CALLER} vendor=1") == {
        "TRACEPARENT": CALLER,
        "TRACESTATE": "vendor=1",
    }
    assert await _variables(trace=CALLER) == {"TRACEPARENT": CALLER}
    assert await _variables(trace=CALLER, is_restart=True) == {}
    assert await _variables() == {}
