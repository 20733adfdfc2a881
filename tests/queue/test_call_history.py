"""What is kept of finished debates: sums that decay, in a bounded number of rows."""

import asyncio
import json
import time

import pytest

from aragora_q.gates import call_history
from aragora_q.history import CallHistory, CallKind, CallSums, PhaseKind, PhaseSums
from aragora_q.redis.keys import HISTORY_DAYS, HISTORY_DEBATES

CALLS = CallKind('stub:"é"', "flex", "propose")
PHASE = PhaseKind("auto", "text", 3, 4, "r1.review")
DEBATE = CallHistory(
    {CALLS: CallSums(3, 4, 1_000.5, 400_000, 7_000, 9_000, 100, 12.25, 60, 1_500, 0, 600)},
    {PHASE: PhaseSums(1, 1)},
)


@pytest.fixture
async def gates(harness):
    """A connection to the gates."""
    async with harness.queue.connection.open_gates() as connection:
        yield connection


@pytest.fixture
def key(harness):
    """The key of the queue's history."""
    return harness.queue.connection.gate_keys.history(harness.config.queue)


async def test_a_debate_is_added(harness, gates):
    """Its queue's clients and workers read it, and no other queue's; old debates weigh less."""
    assert await harness.queue.call_history() == CallHistory()
    await call_history.learn(gates, DEBATE)
    found = await harness.queue.call_history()
    assert found == CallHistory(DEBATE.calls, DEBATE.phases, {CALLS: 1, PHASE: 1})
    await call_history.learn(gates, CallHistory({}, {PHASE: PhaseSums(1, 0)}))
    found = await harness.queue.call_history()
    assert (found.calls, found.counts) == (DEBATE.calls, {CALLS: 1, PHASE: 2})
    kept = 1 - 1 / HISTORY_DEBATES
    assert found.phases == {PHASE: PhaseSums(1 + kept, kept)}
    assert await harness.other_client(queue="other").call_history() == CallHistory()


async def test_the_last_debates_count(harness, gates):
    """After many, they weigh as much as the last HISTORY_DEBATES, exactly; new ones soon outweigh old ones."""
    expected, kept = 0.0, 1 - 1 / HISTORY_DEBATES
    for number in range(400):
        written = 123.456 if number < 300 else 1_000_000.001
        expected = expected * kept + written
        await call_history.learn(gates, CallHistory({CALLS: CallSums(1, 1, written)}))
    history = await harness.queue.call_history()
    sums = history.calls[CALLS]
    assert history.counts == {CALLS: 400}
    assert sums.calls == pytest.approx(HISTORY_DEBATES * (1 - kept**400), rel=1e-7)
    assert sums.output_tokens == pytest.approx(expected, rel=1e-7)


async def test_what_happened_once_is_forgotten(harness, gates, key):
    """After thousands of debates it counts as never; the rest of its row stays."""
    name = json.dumps(["phase", *PHASE])
    harness.redis.hset(key, name, "1 4140 200 1e-9")
    await call_history.learn(gates, CallHistory({}, {PHASE: PhaseSums(1, 0)}))
    assert (await harness.queue.call_history()).phases == {PHASE: PhaseSums(200, 0)}


@pytest.mark.parametrize(
    "damage", ["", "x", "1 2", "1 1 nan 1", "1 1 -1 1", "1 1 inf 1", "1 1 1e300 1", "1 1 1 1 1"]
)
async def test_a_damaged_row_begins_again(harness, gates, key, damage):
    """It is not read, and replaced by the next debate; others stay."""
    await call_history.learn(gates, DEBATE)
    name = json.dumps(["phase", *PHASE])
    assert harness.redis.hset(key, name, damage) == 0
    assert (await harness.queue.call_history()).calls == DEBATE.calls
    await call_history.learn(gates, CallHistory({}, DEBATE.phases))
    found = await harness.queue.call_history()
    assert (found.calls, found.phases) == (DEBATE.calls, DEBATE.phases)


async def test_rows_of_another_program_are_ignored(harness, gates, key):
    """Whatever their names and values are."""
    await call_history.learn(gates, DEBATE)
    harness.redis.hset(key, json.dumps(["phase", *PHASE[:4], "vote"]), "1 1 1e-300 1")
    for name in (
        "",
        "[",
        "[]",
        "null",
        '["call", 1, 2, 3]',
        '["phase", "auto", "text", "3", 2, "vote"]',
        b"\xff",
    ):
        harness.redis.hset(key, name, "1 1 1 1")
    found = await harness.queue.call_history()
    assert (found.calls, found.phases) == (DEBATE.calls, DEBATE.phases)


async def test_a_key_of_another_type_is_replaced(harness, gates, key):
    """Until then there is no history, and nothing fails."""
    harness.redis.set(key, "x")
    assert await harness.queue.call_history() == CallHistory()
    await call_history.learn(gates, DEBATE)
    assert (await harness.queue.call_history()).calls == DEBATE.calls


async def test_the_history_is_bounded(harness, gates, key, monkeypatch):
    """Rows that have not changed for longest make room; without debates, all of it ends."""
    monkeypatch.setattr(call_history, "MAX_HISTORY_ROWS", 20)
    for number in range(30):
        kind = CallKind(f"m{number}", "", "propose")
        await call_history.learn(gates, CallHistory({kind: CallSums(1, 1)}, DEBATE.phases))
        time.sleep(0.001)  # rows are compared by ms
    found = await harness.queue.call_history()
    assert 15 <= harness.redis.hlen(key) <= 20
    assert found.phases[PHASE].debates > 25
    assert CallKind("m29", "", "propose") in found.calls
    assert CallKind("m0", "", "propose") not in found.calls
    day_ms = 86_400_000
    assert (HISTORY_DAYS - 1) * day_ms < harness.redis.pttl(key) <= HISTORY_DAYS * day_ms


async def test_a_long_name_is_not_kept(harness, gates):
    """A model may have one."""
    await call_history.learn(gates, CallHistory({CallKind("m" * 1_000, "", "vote"): CallSums()}))
    assert await harness.queue.call_history() == CallHistory()


async def test_a_worker_reads_it_from_time_to_time(harness, gates, monkeypatch):
    """Not for each debate, and once for those that begin together."""
    client = harness.queue.gates("w1")
    await call_history.learn(gates, DEBATE)
    both = await asyncio.gather(client.call_history(), client.call_history())
    assert [each.counts[CALLS] for each in both] == [1, 1]
    await client.learn(DEBATE)
    assert await client.call_history() == both[0]
    monkeypatch.setattr("aragora_q.gates.client.HISTORY_REFRESH_SECONDS", 0.0)
    assert (await client.call_history()).counts[CALLS] == 2
    await client.close()
