"""Waiting for jobs is never late: the end of a job is noticed at once, whenever it happens."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from support.wait import wait_until

from aragora_q.base import JobStatus
from aragora_q.cli import waiting
from aragora_q.contracts import Completed

SOON_SECONDS, LIMIT_SECONDS = 40, 80
"""At the limit, a wait has a last look: it notices there what it missed."""


@pytest.fixture(autouse=True)
def _rare_polls(monkeypatch):
    """Only an event ends a wait soon: no poll does before its limit."""
    monkeypatch.setattr(waiting, "POLL_SECONDS", 1000.0)


async def _ended(harness, job_id):
    return [job async for job in waiting.ended_jobs(harness.queue, [job_id], LIMIT_SECONDS)]


def _followers(harness):
    """The connections that wait for events."""
    return {client["id"] for client in harness.redis.client_list() if "b" in client["flags"]}


@asynccontextmanager
async def _waiting(harness, job_id):
    """Wait for the job in a task, which must end soon after the body."""
    waiter = asyncio.create_task(_ended(harness, job_id))
    yield
    done_at = time.monotonic()
    [job] = await waiter
    assert job.status is JobStatus.COMPLETED
    assert time.monotonic() - done_at < SOON_SECONDS


async def _complete(harness, session, job):
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


async def test_a_job_that_ends_during_the_first_look_is_noticed(harness, monkeypatch):
    """It ends after its status was read and before anything follows the events."""
    session = await harness.worker(lease_seconds=600)
    await harness.enqueue("a")
    job = await harness.start_one(session)
    tracker, is_first = harness.queue.tracker, True
    get_statuses = tracker.get_statuses

    async def get_then_complete(job_ids):
        nonlocal is_first
        statuses = await get_statuses(job_ids)
        if is_first:
            is_first = False
            await _complete(harness, session, job)
        return statuses

    monkeypatch.setattr(tracker, "get_statuses", get_then_complete)
    started_at = time.monotonic()
    [ended] = await _ended(harness, "a")
    assert ended.status is JobStatus.COMPLETED
    assert time.monotonic() - started_at < SOON_SECONDS


async def test_a_job_that_ends_before_the_first_event_is_read_is_noticed(harness, monkeypatch):
    """It ends while the request for the newest event is on its way."""
    session = await harness.worker(lease_seconds=600)
    await harness.enqueue("a")
    job = await harness.start_one(session)
    execute = harness.queue.connection.execute
    asked, has_ended = asyncio.Event(), asyncio.Event()

    async def slow_execute(*command):
        if command[0] == "XREVRANGE":
            asked.set()
            await has_ended.wait()
        return await execute(*command)

    monkeypatch.setattr(harness.queue.connection, "execute", slow_execute)
    async with _waiting(harness, "a"):
        await asked.wait()
        await _complete(harness, session, job)
        has_ended.set()


async def test_a_missed_event_delays_until_the_next_poll(harness, monkeypatch):
    """On a queue where other jobs end all the time, a job whose event is lost is noticed by polling."""
    session = await harness.worker(lease_seconds=600)
    await harness.enqueue("a")
    job = await harness.start_one(session)
    events = harness.queue.events

    async def others(after):
        async for event in events(after):
            yield {**event, "ids": "other"}

    async def end_others():
        for n in range(10_000):
            await harness.enqueue(f"other{n}")
            await harness.queue.cancel(f"other{n}")
            await asyncio.sleep(0.05)

    monkeypatch.setattr(harness.queue, "events", others)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.5)
    busy = asyncio.create_task(end_others())
    waiter = asyncio.create_task(_ended(harness, "a"))
    await asyncio.sleep(0.2)
    await _complete(harness, session, job)
    [ended] = await asyncio.wait_for(waiter, LIMIT_SECONDS / 2)
    busy.cancel()
    assert ended.status is JobStatus.COMPLETED


async def test_a_lost_connection_does_not_make_waiting_late(harness):
    """All connections are closed while a job is waited for: its end is noticed at once all the same."""
    session = await harness.worker(lease_seconds=600)
    await harness.enqueue("a")
    job = await harness.start_one(session)
    async with _waiting(harness, "a"):
        before = await wait_until(lambda: _followers(harness), what="the first connection")
        harness.redis.client_kill_filter(_type="normal", skipme=True)
        await wait_until(lambda: _followers(harness) - before, what="the second connection")
        await _complete(harness, session, job)
