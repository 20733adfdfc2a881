"""A primary dies, a slot moves, a cluster loses its majority: workers and clients recover."""

import asyncio
import signal
import time

import pytest
import redis
from redis.crc import key_slot
from support import topologies
from support.processes import run_command
from support.wait import wait_until, wait_until_sync

from aragora_q.base import Job, JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.streams.queue import create_redis_queue

pytestmark = pytest.mark.slow

STREAM = "aragora:queue:{debates}:stream"


class _Load:
    """Enqueues a job every 10 ms; remembers which were acknowledged."""

    def __init__(self, harness):
        self.queue, self.acknowledged, self.longest_seconds = harness.queue, [], 0.0
        self._is_over = False
        self._task = asyncio.create_task(self._run())

    async def _run(self):
        while not self._is_over:
            job = Job(payload={"do": [["sleep", 0.01]]}, id=f"job-{len(self.acknowledged)}")
            started = time.monotonic()
            await self.queue.enqueue(job)
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
            self.acknowledged.append(job.id)
            await asyncio.sleep(0.01)

    async def stop(self):
        """End after the call under way: one that is cancelled may have enqueued its job."""
        self._is_over = True
        await self._task


def _patient(harness):
    """Retry for longer than `create_redis_queue` does, for a busy machine: an election may fail, twice even."""
    harness.queue.connection.failover_seconds = 60
    return harness


async def test_sentinel_failover_loses_nothing_that_a_replica_confirmed(
    sentinels, harness_on, worker_process, record_property
):
    """Rows 20, 21, 22: kill -9 of the primary under load. No error, no loss, workers recover."""
    harness = _patient(harness_on(sentinels, durability="replica"))
    worker = worker_process(sentinels, lease_ms=2000).wait_until_started()
    await harness.enqueue_steps("long", ["sleep", 8])
    await harness.wait_for_status("long", JobStatus.PROCESSING)
    fence = (await harness.queue.get_job("long")).fence
    load, first = _Load(harness), sentinels.primary()
    await wait_until(lambda: len(load.acknowledged) > 20, what="some jobs before the failover")
    first.kill()
    before = len(load.acknowledged)
    await wait_until(lambda: sentinels.primary() is not first, 60, "the failover")
    promoted_at = time.monotonic()
    await wait_until(lambda: len(load.acknowledged) > before + 20, 60, "enqueues to go on")
    assert time.monotonic() - promoted_at < 20
    await load.stop()
    harness.queue.connection.failover_seconds = 0
    await wait_until(lambda: _known(harness, load.acknowledged), 60, "every acknowledged job")
    await harness.wait_for_completed(len(load.acknowledged) + 1)
    long = await harness.queue.get_job("long")
    assert (long.fence, long.crashes) == (fence, 0), "its lease was kept over the failover"
    assert worker.is_alive
    record_property("longest_enqueue_seconds", load.longest_seconds)


async def _known(harness, ids):
    statuses = [await harness.queue.get_status(job_id) for job_id in ids]
    assert None not in statuses, f"{statuses.count(None)} of {len(ids)} acknowledged jobs are lost"
    return True


async def test_sentinel_old_primary_comes_back_as_a_replica(
    steady_sentinels, harness_on, worker_process
):
    """A primary that was demoted without dying (READONLY) is given up for the new one."""
    harness = _patient(harness_on(steady_sentinels))
    worker_process(steady_sentinels).wait_until_started()
    await harness.queue.enqueue(Job(payload={}, id="before"))
    await harness.wait_for_completed(1)
    first = steady_sentinels.primary()
    with steady_sentinels.sentinels[0].client() as client:
        client.execute_command("SENTINEL", "FAILOVER", steady_sentinels.service)
    await wait_until(lambda: steady_sentinels.primary() is not first, 60, "the failover")
    await harness.queue.enqueue(Job(payload={}, id="after"))
    await harness.wait_for_completed(2)


async def test_sentinel_former_primary_that_still_takes_writes_is_left(sentinels, harness_on):
    """A primary freezes, another is elected, the first wakes up. Sentinels demote it after 10 s, here never.

    A client with a connection to it leaves it within seconds: what it wrote there would be lost.
    """
    harness = _patient(harness_on(sentinels))
    await harness.queue.enqueue(Job(payload={}, id="before"))
    first = sentinels.primary()
    with first.client() as client:  # else a slow test would not show that the client looks itself
        client.execute_command("ACL", "SETUSER", "default", "-replicaof", "-slaveof")
    first.process.send_signal(signal.SIGSTOP)
    try:
        await wait_until(lambda: sentinels.primary() is not first, 60, "the failover")
    finally:
        first.process.send_signal(signal.SIGCONT)

    async def reaches_the_new_primary():
        job_id = await harness.queue.enqueue(Job(payload={}))
        with sentinels.primary().client() as client:
            return client.exists(harness.keys.job(job_id))

    await wait_until(reaches_the_new_primary, 60, "the client to follow")
    with first.client() as client:
        assert client.role()[0] == "master"


async def test_cluster_failover(cluster, harness_on, worker_process, record_property):
    """Row 25: the slot's primary is killed; MOVED is followed, and a dead seed address does no harm."""
    harness = _patient(harness_on(cluster))
    worker = worker_process(cluster).wait_until_started()
    load, owner = _Load(harness), cluster.owner(STREAM)
    await wait_until(lambda: len(load.acknowledged) > 20, what="some jobs before the failover")
    with owner.client() as client:
        client.wait(1, 2000)  # what asynchronous replication loses is measured elsewhere
    await load.stop()
    owner.kill()
    again = _Load(harness)
    await wait_until(lambda: len(again.acknowledged) > len(load.acknowledged) + 20, 60, "enqueues")
    await again.stop()
    await harness.wait_for_completed(len(set(load.acknowledged + again.acknowledged)))
    assert worker.is_alive
    record_property("longest_enqueue_seconds", again.longest_seconds)
    assert again.longest_seconds < 20


async def test_cluster_graceful_failover(steady_cluster, harness_on, worker_process):
    """Row 25: CLUSTER FAILOVER under load loses nothing and does nothing twice."""
    harness = _patient(harness_on(steady_cluster))
    worker_process(steady_cluster).wait_until_started()
    load, owner = _Load(harness), steady_cluster.owner(STREAM)
    await wait_until(lambda: len(load.acknowledged) > 20, what="some jobs before the failover")
    replica = steady_cluster.nodes[3 + steady_cluster.nodes.index(owner)]
    with replica.client() as client:
        client.execute_command("CLUSTER", "FAILOVER")
    await wait_until(
        lambda: steady_cluster.owner(STREAM) is replica, 60, "the replica to take over"
    )
    before = len(load.acknowledged)
    await wait_until(lambda: len(load.acknowledged) > before + 20, 60, "enqueues to go on")
    await load.stop()
    await harness.wait_for_completed(len(load.acknowledged))


async def test_cluster_slot_moves_under_load(steady_cluster, harness_on, worker_process):
    """Row 26: ASK, TRYAGAIN, scripts whose keys are moving, and UNBLOCKED are retried."""
    harness = _patient(harness_on(steady_cluster))
    worker = worker_process(steady_cluster).wait_until_started()
    load, owner = _Load(harness), steady_cluster.owner(STREAM)
    await wait_until(lambda: len(load.acknowledged) > 20, what="some jobs before the move")
    target = next(node for node in steady_cluster.nodes[:3] if node is not owner)
    await asyncio.to_thread(_move_slot, steady_cluster, key_slot(STREAM.encode()), owner, target)
    assert steady_cluster.owner(STREAM) is target
    before = len(load.acknowledged)
    await wait_until(lambda: len(load.acknowledged) > before + 20, 60, "enqueues to go on")
    await load.stop()
    await harness.wait_for_completed(len(load.acknowledged))
    assert worker.is_alive, worker.text()


def _move_slot(cluster, slot, source, target):
    """Move keys as redis-cli --cluster reshard does, with pauses in which both nodes have some."""
    source_id, target_id = (cluster.ids[cluster.nodes.index(node)] for node in (source, target))
    with source.client() as out, target.client() as into:
        into.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        out.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := out.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 20):
            out.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            time.sleep(0.05)
        for node in cluster.nodes[:3]:
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)


async def test_cluster_without_a_majority(cluster, harness_on, worker_process):
    """Row 27: CLUSTERDOWN is exit code 75 for a command; a worker waits and recovers."""
    harness = harness_on(cluster)
    worker = worker_process(cluster).wait_until_started()
    owner = cluster.owner(STREAM)
    others = [node for node in cluster.nodes if node is not owner]
    for node in others:
        node.kill()

    def is_down():
        with owner.client() as client:
            return client.execute_command("CLUSTER INFO")["cluster_state"] == "fail"

    wait_until_sync(is_down, 60, "the cluster to notice")
    done = await asyncio.to_thread(run_command, "reap", **topologies.environment(cluster))
    assert done.returncode == 75, done.stderr
    assert "CLUSTERDOWN" in done.stderr
    for node in others:
        node.start()

    def is_up():
        try:
            with owner.client() as client:
                return client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
        except redis.RedisError:
            return False

    wait_until_sync(is_up, 60, "the cluster to recover")
    harness.queue.connection.failover_seconds = 30
    await harness.queue.enqueue(Job(payload={}, id="after"))
    await harness.wait_for_completed(1)
    assert worker.is_alive, worker.text()


async def test_a_client_rides_out_a_failover_by_itself(sentinels):
    """`create_redis_queue` returns a queue whose user needs no retry loop."""
    queue = await create_redis_queue(QueueConfig(redis_url=sentinels.url, **sentinels.settings))
    try:
        assert queue.connection.failover_seconds >= 5
    finally:
        await queue.close()
