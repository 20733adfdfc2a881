"""Calls that wait at the gates: how long, what their jobs do instead, and what they leave behind."""

import asyncio
from dataclasses import replace

import pytest

from aragora_q.base import Job
from aragora_q.context import Call, WaitClock
from aragora_q.contracts import Closed, Granted, WaitTurn
from aragora_q.errors import CommandRefused, GateClosed, HoldJob, RedisUnreachable
from aragora_q.history import CallHistory
from aragora_q.worker.paid_calls import PaidCalls

CALL = Call("c", "one", "stub", "stub@1", "m", 0, 10, None)
JOB = Job({}, id="j", fence=1)


class Gates:
    """Gates that give these answers, the last one again and again; `settled` lists outcomes."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.settled = []
        self.waiting = asyncio.Event()

    async def acquire(self, job, call):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def wait(self, call, seconds):
        self.waiting.set()
        await asyncio.sleep(min(seconds, 0.01) if len(self.answers) > 1 else seconds)

    async def settle(self, job, call, settlement):
        self.settled.append(settlement.outcome)


def calls(gates):
    return PaidCalls(gates, JOB, WaitClock())


async def test_a_call_asks_until_it_is_granted():
    """It has nothing to free afterwards."""
    gates = Gates(WaitTurn(0.1, "full"), Closed(0.1, "shut"), WaitTurn(0.1, "full"), Granted())
    await calls(gates).acquire(CALL)
    assert gates.settled == []


@pytest.mark.parametrize(
    ("answer", "seconds", "by"),
    [
        (Closed(20, "shut"), 20, CALL.account),
        (Closed(3600, "shut"), 300, CALL.account),
        (WaitTurn(90, "probe", is_closed=True), 90, CALL.account),
        (WaitTurn(90, "full"), 90, ""),
    ],
)
async def test_a_job_makes_room_for_others(answer, seconds, by):
    """Its delay is the provider's time, at most five minutes: an operator may open the gate earlier. The
    account is named if it is closed, not if only the call's turn did not come.
    """
    with pytest.raises(GateClosed) as raised:
        await calls(Gates(answer)).acquire(CALL)
    assert (raised.value.delay_seconds, raised.value.by) == (seconds, by)


@pytest.mark.parametrize("seconds", [None, 7 * 3600])
async def test_a_job_is_held_if_its_provider_is_closed_for_long(seconds):
    """The account is named as what is in the way."""
    call = replace(CALL, account="2001:db8::1@0a1b2c3d")
    with pytest.raises(HoldJob) as raised:
        await calls(Gates(Closed(seconds, f"{call.account}: credit"))).acquire(call)
    assert (raised.value.cause, raised.value.by) == ("provider", call.account)
    assert raised.value.until_seconds == seconds


async def test_a_call_that_is_cancelled_frees_its_place():
    """Once, whether it was in line or granted by an answer that did not arrive."""
    gates = Gates(WaitTurn(50, "full"))
    task = asyncio.create_task(calls(gates).acquire(CALL))
    await gates.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gates.settled == ["not_sent"]


async def test_a_call_that_waited_too_long_frees_its_place():
    """It was in line when it gave up."""
    gates = Gates(WaitTurn(0.1, "full"), WaitTurn(90, "full"))
    with pytest.raises(GateClosed):
        await calls(gates).acquire(CALL)
    assert gates.settled == ["not_sent"]


async def test_a_call_of_which_the_server_refuses_a_repetition_frees_what_it_may_have():
    """The reply to the first request may be lost: nothing would end its reservation before its time is over."""
    gates = Gates(Granted())
    replies = [RedisUnreachable("connection lost"), CommandRefused("the server refuses")]

    async def fail(job, call):
        raise replies.pop(0)

    gates.acquire = fail
    with pytest.raises(CommandRefused):
        await calls(gates).acquire(CALL)
    assert gates.settled == ["not_sent"]


@pytest.mark.parametrize("fault", [None, RedisUnreachable("gone"), CommandRefused("no rights")])
async def test_a_job_does_not_wait_for_statistics(monkeypatch, clock, fault):
    """It goes on without them if they cannot be read or written, or not soon. Its time limit stands still."""
    monkeypatch.setattr("aragora_q.worker.paid_calls.HISTORY_SECONDS", 900)
    waits = WaitClock()

    class Slow(Gates):
        async def call_history(self):
            if fault is not None:
                raise fault
            clock.ahead_seconds += 1_000
            await asyncio.Event().wait()

        async def learn(self, debate):
            await self.call_history()

    for paid in (PaidCalls(Slow(), JOB, waits), calls(None)):
        async with waits.timeout(600):
            assert await paid.history() == CallHistory()
            await paid.learn(CallHistory())
