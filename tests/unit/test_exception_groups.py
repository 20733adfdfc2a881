"""An exception group, as asyncio.TaskGroup raises it, is judged by the errors in it."""

import asyncio

import pytest
from support.memory_session import MemorySession, make_attempt

from aragora_q.context import current_attempt
from aragora_q.contracts import Failed, Retry
from aragora_q.errors import LeaseLost, PermanentError, RetryLater
from aragora_q.retry import describe, is_retryable_error


def group(*errors):
    return ExceptionGroup("unhandled errors in a TaskGroup", list(errors))


@pytest.mark.parametrize(
    ("errors", "is_retryable"),
    [
        ([ValueError("bad")], False),
        ([ValueError("bad"), PermanentError("no")], False),
        ([RuntimeError("model not found")], False),
        ([ValueError("bad"), ConnectionError("refused")], True),
        ([RuntimeError("boom")], True),
        ([group(ValueError("bad"), group(TypeError("bad")))], False),
        ([group(ValueError("bad")), TimeoutError()], True),
        ([RetryLater("busy", delay_seconds=5), ValueError("bad")], True),
    ],
)
def test_a_group_is_permanent_if_all_its_errors_are(errors, is_retryable):
    """One error that may pass makes the whole worth another attempt; groups in groups count as their errors."""
    assert is_retryable_error(group(*errors)) is is_retryable


def test_a_group_is_described_by_its_errors():
    """The message says what happened, not that something happened in a TaskGroup; many errors are cut."""
    assert describe(group(ValueError("bad"))) == "ValueError: bad"
    assert describe(group(ValueError("a"), group(KeyError("b")))) == "ValueError: a; KeyError: 'b'"
    assert describe(group(*[RuntimeError(f"{n}") for n in range(9)])) == (
        "RuntimeError: 0; RuntimeError: 1; RuntimeError: 2; RuntimeError: 3; RuntimeError: 4; and 4 more"
    )


async def _in_task_group(*errors):
    async def fail(error):
        await asyncio.sleep(0)
        raise error

    async with asyncio.TaskGroup() as tasks:
        for error in errors:
            tasks.create_task(fail(error))


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ([ValueError("bad")], Failed("ValueError: bad")),
        ([ConnectionError("refused")], Retry("ConnectionError: refused", 1.0)),
        ([RetryLater("busy", delay_seconds=60)], Retry("RetryLater: busy", 60.0, charged=False)),
        (
            [RuntimeError("x"), RetryLater("a", delay_seconds=7), RetryLater("b", delay_seconds=9)],
            Retry("RuntimeError: x; RetryLater: a; RetryLater: b", 9.0, charged=False),
        ),
        ([PermanentError("a"), ValueError("b")], Failed("PermanentError: a; ValueError: b")),
    ],
)
async def test_outcome_of_an_executor_that_uses_a_task_group(errors, outcome):
    """As if the errors had been raised without the group; the longest *retry later* counts, uncharged."""

    async def executor(job):
        await _in_task_group(*errors)

    assert await make_attempt(executor).run() == outcome


async def test_a_lost_lease_in_a_group_reports_nothing():
    """A checkpoint that is refused in a task of the executor ends the attempt without an outcome."""
    session = MemorySession()
    session.refuse_with = [LeaseLost("gone")]

    async def executor(job):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(current_attempt().checkpoint("a", {}))

    assert await make_attempt(executor, session=session).run() is None
