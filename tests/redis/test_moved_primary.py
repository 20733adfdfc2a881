"""A name or an address leads to another server: clients and workers leave a primary that was demoted."""

import asyncio
import socket

import pytest
from support.executors import succeed
from support.proxy import Proxy
from support.servers import free_port
from support.topologies import AT_ONCE, replicate
from support.wait import wait_until, wait_until_sync
from support.workers import LONG_LEASE, wait_until_registered

from aragora_q.base import JobStatus
from aragora_q.errors import NotPrimary


class _Pair:
    """A primary and its replica, whose address `url` stays the same over a failover."""

    def __init__(self, first, second):
        self.first, self.second = first, second
        replicate(second, first)

    def fail_over(self):
        """Swap the roles. The former primary lives on, and keeps its connections."""
        with self.first.client() as client:
            wait_until_sync(lambda: client.wait(1, 1000) == 1, 60, "the replica to have all")
        replicate(self.second, None)
        self.lead_to(self.second)
        replicate(self.first, self.second)


class _BehindAddress(_Pair):
    async def start(self):
        self._proxy = await Proxy(self.first.port).start()
        self.url = self._proxy.url

    def lead_to(self, server):
        self._proxy._to = server.port

    async def stop(self):
        await self._proxy.stop()


class _BehindName(_Pair):
    url = "redis://primary.test:6379"

    async def start(self):
        self._resolve, self._target = socket.getaddrinfo, self.first
        socket.getaddrinfo = self._look_up

    def _look_up(self, host, port, *args, **kwargs):
        if host != "primary.test":
            return self._resolve(host, port, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        return self._resolve("127.0.0.1", self._target.port, *args, **kwargs)

    def lead_to(self, server):
        self._target = server

    async def stop(self):
        socket.getaddrinfo = self._resolve


@pytest.fixture(params=[_BehindAddress, _BehindName], ids=["address", "name"])
async def pair(request, own_server):
    pair = request.param(*(own_server(*AT_ONCE) for _ in range(2)))
    await pair.start()
    yield pair
    await pair.stop()


async def test_a_client_follows_a_failover(pair, new_harness):
    """The first call after the failover reaches the new primary, over whichever connection it is sent."""
    harness = new_harness(redis_url=pair.url, **LONG_LEASE, client=pair.second.client())
    await asyncio.gather(*(harness.enqueue(f"before-{n}") for n in range(5)))
    await asyncio.to_thread(pair.fail_over)
    await harness.enqueue("after")
    await asyncio.gather(*(harness.enqueue(f"later-{n}") for n in range(5)))
    assert harness.redis.xlen(harness.keys.stream_normal) == 11


async def test_a_worker_follows_a_failover(pair, new_harness, worker_pool):
    """A worker that waits for work on the former primary runs the jobs of the new one."""
    harness = new_harness(redis_url=pair.url, **LONG_LEASE, client=pair.second.client())
    worker = worker_pool.start(harness, succeed)
    await harness.enqueue("before")
    await harness.wait_for_end("before")
    await asyncio.to_thread(pair.fail_over)
    await harness.enqueue("after")
    assert (await harness.wait_for_end("after")).status is JobStatus.COMPLETED
    await wait_until(lambda: worker.get_stats()["redis_error"] is None, what="the fault to pass")


async def test_a_worker_on_a_replica_is_not_healthy(own_server, new_harness, worker_pool, caplog):
    """Refused by a replica for longer than a lease: unhealthy, with one line; healthy after a promotion."""
    server = own_server()
    harness = new_harness(redis_url=server.url, claim_idle_ms=2000)
    worker = worker_pool.start(harness, succeed)
    await wait_until_registered(harness, worker)
    harness.redis.replicaof("127.0.0.1", free_port())
    await wait_until(  # a machine that stands still may make it stall for a moment
        lambda: not worker.is_healthy() and not worker.has_stalled(),
        60,
        "the worker to be unhealthy",
    )
    lines = lambda: [record for record in caplog.records if "not healthy" in record.getMessage()]  # noqa: E731
    await wait_until(lines, what="the line")
    assert ["READONLY" in record.error for record in lines()] == [True]
    harness.redis.replicaof("NO", "ONE")
    await wait_until(worker.is_healthy, 60, "health to return")


async def test_a_replica_costs_one_more_try(own_server, new_harness):
    """A redis_url that names a replica: each call is refused after two connections, not retried further."""
    first, second = own_server(*AT_ONCE), own_server()
    replicate(second, first)
    harness = new_harness(redis_url=second.url, client=first.client(), **LONG_LEASE)
    with second.client() as client:
        before = client.info("stats")["total_connections_received"]
        with pytest.raises(NotPrimary, match="READONLY"):
            await harness.enqueue("a")
        assert client.info("stats")["total_connections_received"] - before <= 2
