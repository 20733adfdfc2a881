"""Fault matrix of docs/reliability.md: lost replies and half-open connections."""

import asyncio

import pytest
import redis
from support import invariants
from support.executors import succeed
from support.proxy import Proxy
from support.queue_harness import QueueHarness
from support.wait import wait_until

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed
from aragora_q.errors import RedisUnreachable
from aragora_q.redis import connection
from aragora_q.worker.debate_worker import DebateWorker

pytestmark = pytest.mark.slow


@pytest.fixture
async def proxied(redis_url):
    """A proxy before the server, a queue that uses it, and a queue that does not."""
    proxy = await Proxy(int(redis_url.rpartition(":")[2])).start()
    behind, beside = QueueHarness(proxy.url, client=redis.Redis()), QueueHarness(redis_url)
    yield proxy, behind, beside
    await behind.close()
    await proxy.stop()
    invariants.check(beside.redis, beside.keys.queue_prefix)
    await beside.close()


async def test_lost_replies_do_nothing_twice(proxied):
    """Rows 6, 8: the replies to an enqueue and to a completion are lost; both are repeated."""
    proxy, behind, beside = proxied
    await behind.enqueue("warm")  # the scripts are known from here on
    proxy.mode, proxy.match = "drop_reply", b"EVALSHA"
    with pytest.raises(RedisUnreachable):
        await behind.enqueue("a")
    proxy.mode = "pass"
    [answer] = await behind.queue.enqueue_many([Job(payload={"n": 1}, id="a")])
    assert not answer.created, "it was in already"
    assert len(beside.entries()) == 2
    session = await behind.worker()
    jobs = (await session.start(2)).jobs
    assert await behind.report(session, jobs[0], Completed(b"{}")) == "completed"
    proxy.mode = "drop_reply"
    with pytest.raises(RedisUnreachable):
        await behind.report(session, jobs[1], Completed(b"{}"))
    proxy.mode = "pass"
    assert await behind.report(session, jobs[1], Completed(b"{}")) == "completed"
    assert beside.counters()["completed"] == 2


async def test_a_start_whose_reply_is_lost(proxied):
    """Rows 7, 10: a job that was started without the worker's knowledge is released, uncharged."""
    proxy, behind, beside = proxied
    await behind.enqueue("a")
    session = await behind.worker()
    await session.start(1, first_lane="low")
    await beside.enqueue("b")
    proxy.mode, proxy.match = "drop_reply", b"EVALSHA"
    with pytest.raises(RedisUnreachable):
        await session.start(1)
    proxy.mode = "pass"
    assert beside.fields("b")["status"] == "processing"
    assert await session.release_orphans(lambda lease: lease[0] == "a", min_idle_seconds=0) == ["b"]
    assert (beside.fields("b")["status"], beside.fields("b")["attempts"]) == ("pending", "0")


async def test_half_open_connections(proxied, monkeypatch):
    """Row 9: a peer that stopped answering is noticed by timeout, and work goes on."""
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT_SECONDS", 1.0)
    proxy, _, beside = proxied
    harness = QueueHarness(proxy.url, client=redis.Redis(), claim_idle_ms=1000)
    worker = DebateWorker(harness.queue, "w1", executor=succeed, config=harness.config)
    running = asyncio.create_task(worker.start())
    await beside.enqueue("a")
    await beside.wait_for_status("a", JobStatus.COMPLETED)
    proxy.mode = "blackhole"
    await beside.enqueue("b")
    await wait_until(lambda: worker.get_stats()["redis_error"], 60, "the silence to be noticed")
    proxy.mode = "pass"
    await beside.wait_for_status("b", JobStatus.COMPLETED)
    await worker.stop()
    await running
    await harness.close()
