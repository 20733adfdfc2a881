"""Workers and a closed provider: its jobs are put off, those of others run, and nothing is churned."""

import asyncio
import time

import pytest
from support.executors import succeed
from support.wait import wait_until
from support.workers import LONG_LEASE, count_calls

from aragora_q.base import JobStatus
from aragora_q.redis.keys import GateKeys
from benchmarks.limited_provider import LimitedProvider, Limits, caller

ACCOUNT = "stub@1"


@pytest.fixture
def provider():
    """A provider without limits."""
    provider = LimitedProvider(Limits(retry_after_seconds=30)).start()
    yield provider
    provider.close()


async def enqueue(harness, *job_ids, agents=("one", "two")):
    for job_id in job_ids:
        await harness.enqueue_payload(job_id, {"agents": list(agents)})


async def open_gate(harness, worker):
    """Do what `providers resume` does, until the worker knows; make the jobs due that were put off."""
    gates = harness.queue.gates("operator")
    try:
        await gates._connection.run(
            "gate_override", kind="pause", name="stub", value="", by="", reason="", detail=""
        )
    finally:
        await gates.close()
    await wait_until(lambda: not worker._gates.closed_agents(), what="the worker to know")
    for job_id in harness.redis.zrange(harness.keys.delayed, 0, -1):
        harness.redis.zadd(harness.keys.delayed, {job_id: 0})


async def test_a_backlog_of_a_closed_provider_is_not_churned(new_harness, worker_pool, provider):
    """One refusal stops all calls; jobs are put off once; those of others run; later all complete."""
    harness = new_harness(**LONG_LEASE)
    ids = [f"j{n}" for n in range(150)]
    await enqueue(harness, *ids)
    provider.shut(3600)
    call = caller(provider.address)
    worker = worker_pool.start(
        harness, lambda job: succeed(job) if job.id == "other" else call(job)
    )
    await wait_until(lambda: len(provider.refused) > 0, what="the first refusal")
    await enqueue(harness, "other", agents=["three", "four"])
    await harness.wait_for_status("other", JobStatus.COMPLETED)
    await wait_until(
        lambda: harness.redis.zcard(harness.keys.delayed) == len(ids), what="all to be put off"
    )
    assert len(provider.refused) <= 6, "those that were on their way"
    counters = harness.counters()
    assert counters["put_off"] + counters["retried"] <= len(ids) + 6
    assert (await harness.queue.get_job("j149")).attempts == 0
    harness.redis.config_resetstat()
    await asyncio.sleep(0.5)
    assert count_calls(harness, "evalsha") < 30, "a worker with nothing to start does not spin"
    provider.shut(0)
    await open_gate(harness, worker)
    await harness.wait_for_completed(len(ids) + 1)
    assert harness.counters().get("failed", 0) == 0


async def test_a_worker_stops_promptly_while_a_provider_is_closed(
    new_harness, worker_pool, provider
):
    """What it waits for is not the provider."""
    harness = new_harness(**LONG_LEASE)
    await enqueue(harness, *(f"j{n}" for n in range(3)))
    provider.shut(3600)
    worker = worker_pool.start(harness, caller(provider.address))
    await wait_until(
        lambda: harness.redis.zcard(harness.keys.delayed) == 3, what="all to be put off"
    )
    await enqueue(harness, "more")
    began = time.monotonic()
    await worker.stop()
    assert time.monotonic() - began < 15


async def test_a_burst_ends_without_the_jobs_of_a_closed_provider(
    new_harness, worker_pool, provider
):
    """They fall due later than the longest retry delay; nothing of them is charged."""
    harness = new_harness(retry_max_delay=1, **LONG_LEASE)
    await enqueue(harness, *(f"j{n}" for n in range(5)))
    provider.shut(3600)
    await worker_pool.start(harness, caller(provider.address), burst=True, max_concurrent=1).task
    jobs = [await harness.queue.get_job(f"j{n}") for n in range(5)]
    assert [job.attempts for job in jobs] == [0] * 5
    assert {job.status for job in jobs} <= {JobStatus.PENDING, JobStatus.RETRYING}
    assert len(provider.refused) <= 2


async def test_a_burst_waits_for_a_provider_that_opens_soon(new_harness, worker_pool, provider):
    """As for any job that is due within the longest retry delay."""
    harness = new_harness(**LONG_LEASE)
    provider.limits.retry_after_seconds = 2.5
    provider.shut(2.0)
    await enqueue(harness, *(f"j{n}" for n in range(8)))
    await worker_pool.start(harness, caller(provider.address), burst=True, max_concurrent=2).task
    assert (await harness.queue.get_queue_stats())["completed"] == 8
    assert len(provider.useful) == 16
    assert len(provider.refused) <= 4


async def test_jobs_are_held_while_credit_is_used_up(new_harness, worker_pool, provider):
    """An operator sees them, with the account in the way; no attempt is charged."""
    harness = new_harness(**LONG_LEASE)
    provider.faults += [402] * 4
    await enqueue(harness, "first", "second")
    worker_pool.start(harness, caller(provider.address), max_concurrent=1)
    for job_id in ("first", "second"):
        job = await harness.wait_for_status(job_id, JobStatus.HELD)
        assert (job.hold.cause, job.hold.by, job.attempts) == ("provider", ACCOUNT, 0)
    assert len(provider.refused) <= 2


async def test_a_call_that_is_cancelled_leaves_the_line(new_harness, worker_pool, provider):
    """Its place in line would delay the calls behind it."""
    harness = new_harness(providers={"stub": {"max_concurrent": 1}}, **LONG_LEASE)
    provider.limits.reply_seconds = 3600
    keys = GateKeys(harness.config.key_prefix)
    await enqueue(harness, "runs", "waits", agents=["one"])
    worker = worker_pool.start(harness, caller(provider.address))
    line = f"{keys.gates_prefix}waiters:{ACCOUNT}"
    await wait_until(lambda: harness.redis.zcard(line) == 1, what="a call to wait")
    await worker.stop(immediately=True)
    assert harness.redis.zcard(line) == 0
