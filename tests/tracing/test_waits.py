"""Spans of calls that wait at the gates."""

import asyncio
from dataclasses import replace

import pytest
from support.paid_calls import call

from aragora_q.base import Job
from aragora_q.context import WaitClock
from aragora_q.contracts import Closed, Granted, OverBudget, WaitTurn
from aragora_q.errors import AragoraQError
from aragora_q.worker.paid_calls import PaidCalls

CALL = replace(call("c"), provider="openai", account="openai@1", model="openai:gpt")


class _Gates:
    def __init__(self, *answers):
        self._answers = list(answers)

    async def acquire(self, job, call):
        return self._answers.pop(0)

    async def wait(self, call, seconds):
        await asyncio.sleep(0)

    async def settle(self, job, call, settlement):
        return True


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (WaitTurn(0.1, "job secret-7 is before it"), "limit"),
        (WaitTurn(0.1, "probe", is_closed=True), "closed"),
        (Closed(0.1, "429"), "closed"),
        (Closed(0.1, "flex", is_waited_out=True), "capacity"),
    ],
)
async def test_a_wait_is_a_span_if_the_call_is_not_granted_at_once(spans, first, reason):
    """It says for whom and why the call waits, in a word: the whole reason may name other jobs."""
    job = Job({}, id="j", fence=1)
    await PaidCalls(_Gates(Granted()), job, WaitClock()).acquire(CALL)
    assert spans.get_finished_spans() == ()
    await PaidCalls(_Gates(first, WaitTurn(0.1, "full"), Granted()), job, WaitClock()).acquire(CALL)
    [span] = spans.get_finished_spans()
    assert span.name == "wait openai@1"
    assert dict(span.attributes) == {
        "aragora_q.wait.reason": reason,
        "aragora_q.wait.granted": True,
    }


async def test_a_call_that_is_refused_was_not_granted(spans):
    """The span has the type of the refusal, not its text."""
    refused = OverBudget("day/tenant:acme", "hold", "acme has spent too much")
    with pytest.raises(AragoraQError):
        await PaidCalls(_Gates(refused), Job({}, id="j", fence=1), WaitClock()).acquire(CALL)
    [span] = spans.get_finished_spans()
    assert span.attributes["aragora_q.wait.reason"] == "budget"
    assert span.attributes["aragora_q.wait.granted"] is False
    assert span.attributes["error.type"] == "HoldJob"
    assert "acme" not in span.to_json()
