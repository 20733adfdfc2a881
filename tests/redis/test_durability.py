"""`durability`: what confirms an enqueue, what is refused before a write, what is reported after it."""

import signal

import pytest
import redis
from support import servers
from support.topologies import AT_ONCE, replicate
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.errors import NotDurable, UnsupportedServer
from aragora_q.redis import connection


@pytest.mark.slow
async def test_replica_confirms(shared_server, harness_on):
    """With a replica that answers, an enqueue is durable on Sentinel and on Cluster."""
    for name in ("sentinel", "cluster"):
        harness = harness_on(shared_server(name), durability="replica")
        [answer] = await harness.queue.enqueue_many([Job(payload={}, id="a")])
        assert (answer.created, answer.durable) == (True, True)


async def test_no_replica_answers_in_time(shared_server, harness_on, monkeypatch):
    """The job is enqueued, the error has its id, and enqueueing it again returns the confirmation."""
    sentinels = shared_server("sentinel")
    harness = harness_on(sentinels, durability="replica")
    primary = sentinels.primary()
    replicas = [server for server in sentinels.servers if server is not primary]
    await harness.queue.enqueue(Job(payload={}, id="before"))
    monkeypatch.setattr(connection, "DURABILITY_TIMEOUT_MS", 300)
    for server in (*replicas, *sentinels.sentinels):
        server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(NotDurable) as told:
            await harness.queue.enqueue(Job(payload={}, id="a"))
        assert told.value.job_id == "a"
        assert told.value.exit_code == 75
        [again] = await harness.queue.enqueue_many([Job(payload={}, id="a")])
        assert (again.created, again.durable) == (False, False)
    finally:
        for server in (*replicas, *sentinels.sentinels):
            server.process.send_signal(signal.SIGCONT)

    async def is_confirmed():
        [answer] = await harness.queue.enqueue_many([Job(payload={}, id="a")])
        assert not answer.created
        return answer.durable

    await wait_until(is_confirmed, 60, "the replicas to catch up")


@pytest.mark.parametrize("durability_replicas", [1, 2])
async def test_the_other_replica_was_promoted(
    own_server, new_harness, monkeypatch, durability_replicas
):
    """A former primary still has its other replica: that one confirms jobs that the failover loses.

    With `durability_replicas` at 2, it does not suffice.
    """
    primary, promoted, other = (own_server(*AT_ONCE) for _ in range(3))
    for replica in (promoted, other):
        replicate(replica, primary)
    settings = {"durability": "replica", "durability_replicas": durability_replicas}
    harness = new_harness(redis_url=primary.url, **settings)
    [before] = await harness.queue.enqueue_many([Job(payload={}, id="before")])
    with promoted.client() as client:
        await wait_until(lambda: client.exists(harness.keys.job("before")), what="its copy")
        replicate(promoted, None)
        await wait_until(
            lambda: harness.redis.info("replication")["connected_slaves"] == 1, what="the promotion"
        )
        if durability_replicas == 2:  # else the other replica confirms it soon
            monkeypatch.setattr(connection, "DURABILITY_TIMEOUT_MS", 300)
        [after] = await harness.queue.enqueue_many([Job(payload={}, id="after")])
        kept = {name for name in ("before", "after") if client.exists(harness.keys.job(name))}
    confirmed = {answer.id for answer in (before, after) if answer.durable}
    assert confirmed - kept == ({"after"} if durability_replicas == 1 else set())
    assert before.durable


async def test_fewer_replicas_than_must_confirm(own_server, new_harness, monkeypatch):
    """One of two replicas is away, which may pass: the job is enqueued, and not confirmed."""
    monkeypatch.setattr(connection, "DURABILITY_TIMEOUT_MS", 300)
    primary, replica = own_server(*AT_ONCE), own_server()
    replicate(replica, primary)
    settings = {"durability": "replica", "durability_replicas": 2}
    harness = new_harness(redis_url=primary.url, **settings)
    with pytest.raises(NotDurable, match="not confirmed in time") as told:
        await harness.enqueue("a")
    assert "durability_replicas" in told.value.hint
    assert "disk" not in told.value.hint
    assert (await harness.queue.get_job("a")) is not None


@pytest.mark.parametrize("binary", [servers.debian_redis, servers.redis82, servers.valkey9])
async def test_a_refused_write_confirms_nothing(own_server, new_harness, monkeypatch, binary):
    """Enqueueing a job again is not confirmed if the server refuses the write that WAIT would confirm."""
    monkeypatch.setattr(connection, "DURABILITY_TIMEOUT_MS", 300)
    primary, replica = (own_server(*AT_ONCE, binary=binary) for _ in range(2))
    replicate(replica, primary)
    before = new_harness(redis_url=primary.url)
    replica.process.send_signal(signal.SIGSTOP)
    await before.enqueue("a")
    before.redis.rename(before.keys.counters, "counters")
    before.redis.set(before.keys.counters, "another type")
    harness = new_harness(redis_url=primary.url, durability="replica")
    [answer] = await harness.queue.enqueue_many([Job(payload={}, id="a")])
    before.redis.rename("counters", before.keys.counters)
    assert (answer.created, answer.durable) == (False, False)


@pytest.mark.slow
async def test_refused_before_writing(own_server, new_harness):
    """No replica, no append-only file, no WAITAOF: exit code 78, and no key is written."""
    old = own_server("--appendonly", "yes", binary=servers.debian_redis)
    new = own_server(binary=servers.redis82)
    for server, durability, word in (
        (old, "replica", "no replica"),
        (old, "fsync", "WAITAOF"),
        (new, "fsync", "append-only"),
    ):
        harness = new_harness(redis_url=server.url, durability=durability)
        with pytest.raises(UnsupportedServer, match=word):
            await harness.enqueue("a")
        assert harness.redis.dbsize() == 0


@pytest.mark.parametrize("binary", [servers.redis82, servers.valkey8, servers.valkey9])
async def test_the_disk_confirms(own_server, binary, new_harness):
    """fsync works on every server that has WAITAOF."""
    server = own_server("--appendonly", "yes", binary=binary)
    harness = new_harness(redis_url=server.url, durability="fsync")
    [answer] = await harness.queue.enqueue_many([Job(payload={}, id="a")])
    assert (answer.created, answer.durable) == (True, True)


async def test_the_first_enqueue_is_confirmed_once(shared_server, harness_on):
    """A server that does not have the script yet is asked for one confirmation only."""
    sentinels = shared_server("sentinel")
    harness = harness_on(sentinels, durability="replica")
    harness.redis.script_flush()
    [answer] = await harness.queue.enqueue_many([Job(payload={}, id="a")])
    assert (answer.created, answer.durable) == (True, True)
    assert harness.counters()["durable_batches"] == 1


@pytest.mark.slow
async def test_scripts_forgotten_meanwhile(own_server, new_harness):
    """NOSCRIPT during a durable enqueue costs a second call, not the confirmation."""
    server = own_server("--appendonly", "yes", binary=servers.redis82)
    harness = new_harness(redis_url=server.url, durability="fsync")
    await harness.enqueue("a")
    with redis.Redis(port=server.port) as redis_client:
        redis_client.script_flush()
    [answer] = await harness.queue.enqueue_many([Job(payload={}, id="b")])
    assert (answer.created, answer.durable) == (True, True)
