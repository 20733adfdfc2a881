"""The reply to a start is bounded in bytes, whatever clients enqueued and whatever the worker's own limits."""

import pytest

from aragora_q.base import Job
from aragora_q.streams import session as session_module

BUDGET = 100_000
MAX_CHUNK = 4
"""Entries that start.lua reads at once."""


@pytest.fixture
async def queue_with(new_harness, monkeypatch):
    """Enqueues payloads of given sizes; returns a session whose own limit is far below them."""
    monkeypatch.setattr(session_module, "START_BYTES", BUDGET)

    async def make(*sizes, priority=lambda n: 0):
        harness = new_harness(claim_idle_ms=60_000, max_payload_bytes=1000)
        client = harness.other_client(max_payload_bytes=10_000_000)
        jobs = [
            Job({"text": "x" * size}, id=f"j{n:03}", priority=priority(n))
            for n, size in enumerate(sizes)
        ]
        for job in jobs:
            await client.enqueue(job)
        return await harness.worker()

    return make


async def _start_all(session, limit=100):
    """The sizes of each reply's payloads, until no job is left."""
    replies = []
    while True:
        fetched = await session.start(limit)
        if fetched.state == "empty":
            return replies
        assert fetched.jobs, "each call makes progress"
        replies.append([len(job.raw_payload) for job in fetched.jobs])


@pytest.mark.parametrize(
    "sizes",
    [
        [90_000] * 20,
        [10] * 30 + [90_000] * 20,
        [90_000, 10] * 15,
        [10] * 5 + [1_000_000] * 9 + [10] * 5,
        [30_000] * 40,
    ],
    ids=["large", "large behind small", "mixed", "larger than the budget", "some"],
)
async def test_a_reply_exceeds_the_budget_by_few_payloads(queue_with, sizes):
    """At most MAX_CHUNK payloads more than the budget, in whatever order they lie; all jobs start."""
    replies = await _start_all(await queue_with(*sizes))
    assert sum(len(reply) for reply in replies) == len(sizes)
    for reply in replies:
        assert sum(reply) < BUDGET + MAX_CHUNK * max(reply)
        assert sum(reply[:-MAX_CHUNK]) < BUDGET


async def test_the_budget_is_for_all_lanes(queue_with):
    """A lane that is read second has what the first one left."""
    session = await queue_with(*[90_000] * 12, priority=lambda n: n % 3 - 1)
    for reply in await _start_all(session):
        assert sum(reply) < BUDGET + MAX_CHUNK * 90_100


async def test_small_payloads_fill_the_limit(queue_with):
    """The budget costs a worker of small jobs nothing: one call starts as many as it has slots."""
    session = await queue_with(*[10] * 100)
    assert [len(reply) for reply in await _start_all(session, 50)] == [50, 50]
