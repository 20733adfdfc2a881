"""A worker goes on after cut connections, deleted keys and outages of Redis."""

import asyncio
import logging
import signal
import time

import pytest
from support.executors import GatedExecutor, succeed
from support.wait import wait_until
from support.workers import (
    LONG_LEASE,
    count_calls,
    enqueue_with_retry,
    kill_clients,
)

from aragora_q.base import Job, JobStatus
from aragora_q.errors import RedisUnreachable
from aragora_q.redis.keys import GROUP
from aragora_q.worker import debate_worker as worker_module

FAULTS = {
    "connections cut": kill_clients,
    "scripts flushed": lambda harness: harness.redis.script_flush(),
    "stream deleted": lambda harness: harness.redis.delete(harness.keys.stream_normal),
    "group deleted": lambda harness: harness.redis.xgroup_destroy(
        harness.keys.stream_normal, GROUP
    ),
    "everything deleted": lambda harness: harness.redis.flushall(),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_worker_goes_on_after(new_harness, worker_pool, fault):
    """Whatever is cut or deleted under an idle worker, the next jobs run."""
    harness = new_harness(claim_idle_ms=1000)
    worker = worker_pool.start(harness, succeed)
    await harness.enqueue("before")
    await harness.wait_for_end("before")
    FAULTS[fault](harness)
    for name in ("after", "later"):
        await enqueue_with_retry(harness, name)
        assert (await harness.wait_for_end(name)).status is JobStatus.COMPLETED
    assert not worker.task.done()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "restarted"])
async def test_outage_longer_than_the_lease_charges_nobody(
    own_server, new_harness, worker_pool, kind
):
    """Redis away for longer than a lease: running jobs stay with their workers, results get through."""
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    harness = new_harness(redis_url=server.url, claim_idle_ms=4000)
    gated = {name: GatedExecutor() for name in ("w1", "w2")}
    for name, executor in gated.items():
        worker_pool.start(harness, executor, name, max_concurrent=1)
    for name in ("a", "b"):
        await harness.enqueue(name)
    await wait_until(lambda: all(each.entered for each in gated.values()))
    if kind == "frozen":
        server.process.send_signal(signal.SIGSTOP)
    else:
        server.kill()
    gated["w1"].gate.set()  # one job ends meanwhile: its result waits for the server
    await asyncio.sleep(6)
    if kind == "frozen":
        server.process.send_signal(signal.SIGCONT)
    else:
        server.start()
        harness.redis.connection_pool.disconnect()
    await asyncio.sleep(4.5)  # long enough for a wrong reclaim to happen
    gated["w2"].gate.set()
    for job in await harness.wait_for_end("a", "b"):
        assert (job.status, job.attempts, job.crashes) == ("completed", 1, 0)
    assert harness.counters()["started"] == 2
    assert not {"crashed", "refused"} & set(harness.counters())


async def test_password_set_later_is_waited_out(own_server, new_harness, worker_pool):
    """NOAUTH does not end a running worker; it reports it, and goes on when access is allowed again."""
    server = own_server()
    harness = new_harness(redis_url=server.url, claim_idle_ms=1000)
    worker = worker_pool.start(harness, succeed)
    await harness.enqueue("a")
    await harness.wait_for_end("a")
    harness.redis.config_set("requirepass", "secret")
    kill_clients(harness)
    await wait_until(
        lambda: "denies access" in (worker.get_stats()["redis_error"] or ""),
        what="the fault to show",
    )
    assert worker.is_healthy()
    harness.redis.config_set("requirepass", "")
    await enqueue_with_retry(harness, "b")
    await harness.wait_for_end("b")
    await wait_until(lambda: worker.get_stats()["redis_error"] is None, what="the fault to pass")
    assert worker.metrics.redis_errors("AccessDenied")._value.get() >= 1


async def test_full_server_drains(own_server, new_harness, worker_pool):
    """When Redis is out of memory, new jobs are refused; running and waiting ones still end."""
    server = own_server()
    harness = new_harness(redis_url=server.url, **LONG_LEASE)
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(20)])
    harness.redis.config_set("maxmemory", 1)
    with pytest.raises(Exception, match="OOM"):
        await harness.enqueue("new")
    await worker_pool.start(harness, succeed, burst=True).task
    assert harness.redis.zcard(harness.keys.completed) == 20
    harness.redis.config_set("maxmemory", 0)


@pytest.mark.slow
async def test_busy_worker_is_healthy_through_an_outage(
    own_server, new_harness, worker_pool, monkeypatch, caplog
):
    """With every slot busy and no report due, an outage is noticed and logged, and the worker is healthy."""
    monkeypatch.setattr(worker_module, "STALL_SECONDS", 0.3)
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    harness, gated = new_harness(redis_url=server.url, claim_idle_ms=400), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=1)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    caplog.clear()
    server.kill()
    silence = lambda: time.monotonic() - worker.keeper.last_answer_at  # noqa: E731
    # A stall of the machine is one of the event loop, until the loop has responded again.
    await wait_until(
        lambda: silence() > 2 and worker.is_healthy(),
        what="health in a silence longer than limit and lease",
    )
    assert worker.get_stats()["redis_error"]
    assert any(
        record.levelno == logging.WARNING and record.operation == "renew"
        for record in caplog.records
        if record.msg.event == "Redis unavailable, retrying"
    )
    server.start()
    harness.redis.connection_pool.disconnect()
    await wait_until(lambda: worker.get_stats()["redis_error"] is None, what="the fault to pass")
    await wait_until(worker.is_healthy, what="health to return")
    gated.gate.set()
    assert (await harness.wait_for_end("a")).status is JobStatus.COMPLETED


@pytest.mark.slow
async def test_denied_read_does_not_spin(new_harness, worker_pool):
    """If only the blocking read is refused, the worker still starts jobs, at a bounded rate."""
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)

    async def refused(*_, **__):
        raise RedisUnreachable("no BLPOP for you")

    worker._session.wait_for_work = worker._session.start_next = refused
    await harness.enqueue("a")
    await harness.wait_for_end("a")
    harness.redis.config_resetstat()
    await asyncio.sleep(1)  # the claim is about a span of time
    assert count_calls(harness, "evalsha") < 60
