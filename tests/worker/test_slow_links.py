"""Workers behind slow or half-open connections make progress and keep their jobs."""

import asyncio
import time

import pytest
from support.executors import GatedExecutor, succeed
from support.proxy import Proxy
from support.wait import wait_until
from support.workers import reclaiming

from aragora_q.base import Job
from aragora_q.redis.options import COMMAND_TIMEOUT_SECONDS
from aragora_q.streams import session as session_module


@pytest.fixture
async def proxied(new_harness, redis_url):
    """A proxy, and a function that makes a queue beside it and the same queue behind it."""
    proxy = await Proxy(int(redis_url.rpartition(":")[2].partition("/")[0])).start()

    def make(**settings):
        beside = new_harness(**settings)
        return beside, new_harness(redis_url=proxy.url, client=beside.redis, **settings)

    yield proxy, make
    proxy.bytes_per_second, proxy.mode = None, "pass"
    proxy.cut()
    await proxy.stop()


@pytest.mark.slow
async def test_large_payloads_pass_a_slow_link(proxied, worker_pool, monkeypatch):
    """All payloads together need longer than one call may take; in bounded replies they all get through.

    A reply has a hundredth of its usual bytes, which take a second; the time limit is the usual one.
    """
    monkeypatch.setattr(session_module, "START_BYTES", session_module.START_BYTES // 100)
    proxy, make = proxied
    beside, behind = make(claim_idle_ms=60_000)
    client = beside.other_client(max_payload_bytes=1_000_000)
    for n in range(60):
        await client.enqueue(Job({"text": "x" * 80_000}, id=f"j{n}"))
    proxy.bytes_per_second = 333_333
    assert 60 * 80_000 / proxy.bytes_per_second > COMMAND_TIMEOUT_SECONDS
    worker_pool.start(behind, succeed, max_concurrent=120)
    await beside.wait_for_completed(60)
    assert "released" not in beside.counters()


@pytest.mark.slow
async def test_half_open_connections_cost_no_lease(proxied, worker_pool):
    """The lease keeper waits for a reply for at most a quarter lease, then asks on a new connection."""
    proxy, make = proxied
    beside, behind = make(claim_idle_ms=2000)
    gated = GatedExecutor()
    worker = worker_pool.start(behind, gated, max_concurrent=1)
    await beside.enqueue("a")
    await wait_until(lambda: gated.entered)
    await wait_until(lambda: worker.keeper.last_answer_at > worker._started_at)
    async with reclaiming(beside) as claimed:
        proxy.freeze()
        frozen_at = time.monotonic()
        await wait_until(lambda: time.monotonic() - frozen_at > 5)
        await wait_until(
            lambda: worker.keeper.last_answer_at > frozen_at + 1, what="renewals since then"
        )
    assert claimed == []
    assert gated.cancelled == []
    proxy.cut()
    gated.gate.set()
    job = await beside.wait_for_end("a")
    assert (job.status, job.attempts, job.crashes) == ("completed", 1, 0)


async def test_a_session_of_a_short_lease_has_short_deadlines(proxied):
    """A renewal over a dead connection ends after a quarter lease, not after a call's usual time."""
    proxy, make = proxied
    _, behind = make(claim_idle_ms=12_000)
    renewer = (await behind.worker()).lease_renewer()
    await renewer.renew([])
    proxy.freeze()
    started_at = time.monotonic()
    with pytest.raises(Exception, match="Timeout|timed out|no reply|cannot reach"):
        await renewer.renew([])
    assert time.monotonic() - started_at < COMMAND_TIMEOUT_SECONDS
    await asyncio.wait_for(renewer.renew([]), 60)
    await renewer.close()
