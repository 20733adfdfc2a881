"""A server that stops in the middle of a script costs no lease, whichever script sees the outage first."""

import asyncio

import pytest
from support.queue_harness import decisions

from aragora_q.contracts import Completed
from aragora_q.redis import scripts

LEASE_SECONDS = 0.4

STOPPED = (
    "local began,calls=now_ms(),0 while stream==stream_normal and now_ms()-began<600 do calls=calls+1 "
    "if calls>100000 and now_ms()==began then break end end"
)
"""What a stop for longer than a lease does to a script: time passes. On servers whose clock stands still in a
script, there is nothing to see."""


@pytest.fixture
def stop_in(monkeypatch):
    """Make the server stand still in the middle of a script, just after it read the clock."""

    def stop(name):
        script = scripts.load(name)
        head, prelude, body = script.text.split("\n", 2)
        stopped = scripts.Script(
            name, f"{head}\n{prelude} {STOPPED}\n{body}", script.keys, script.args,
            script.item_fields, script.is_repeatable,
        )  # fmt: skip
        load = scripts.load
        monkeypatch.setattr(scripts, "load", lambda n: stopped if n == name else load(n))

    return stop


async def test_a_server_that_stops_in_a_reclaim_reclaims_nothing(new_harness, stop_in):
    """Idle times of after the stop are not compared with heartbeats and a clock of before it."""
    harness = new_harness(claim_idle_ms=int(LEASE_SECONDS * 1000))
    session = await harness.worker(lease_seconds=LEASE_SECONDS)
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await asyncio.sleep(0.01)
    await harness.renew(session, job)
    stop_in("reclaim")
    assert decisions(await harness.queue.reclaim()) == []
    assert (await harness.renew(session, job)).lost == {}
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


@pytest.mark.parametrize("has_other", [False, True])
async def test_removal_of_dead_workers_hides_no_outage(harness, has_other):
    """If it is the first call after a long outage, workers keep their heartbeats and their jobs."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    if has_other:
        await harness.worker("w2")
        harness.stop_heartbeat("w2", 10_000)
    harness.stop_heartbeat("w1", 10_000)
    harness.backdate("a")
    assert await harness.queue.remove_dead_workers() == 0
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(session, job)).lost == {}
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
