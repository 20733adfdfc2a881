"""`durability`: what confirms an enqueue, what is refused before anything is written, what is told after."""

import signal

import pytest
import redis
import servers
from stage import Stage
from waiting import wait_until

from aragora_q import connection
from aragora_q.base import Job
from aragora_q.errors import NotDurable, ServerUnsuitable


@pytest.fixture
def impatient(monkeypatch):
    """Confirmations are waited for 300 ms instead of seconds."""
    monkeypatch.setitem(connection._CONFIRM, "replica", ("WAIT", 1, 300))
    monkeypatch.setitem(connection._CONFIRM, "fsync", ("WAITAOF", 1, 0, 300))


async def test_replica_confirms(shared, staged):
    """With a replica that answers, an enqueue is durable, on Sentinel and on the slot's node of a cluster."""
    for name in ("sentinel", "cluster"):
        stage = staged(shared(name), durability="replica")
        [answer] = await stage.queue.enqueue_many([Job(payload={}, id="a")])
        assert (answer.created, answer.durable) == (True, True)


async def test_no_replica_answers_in_time(shared, staged, impatient):
    """The job is in, its id is told, and asking again with the same id gets the confirmation."""
    sentinels = shared("sentinel")
    stage = staged(sentinels, durability="replica")
    primary = sentinels.primary()
    replicas = [server for server in sentinels.servers if server is not primary]
    await stage.queue.enqueue(Job(payload={}, id="before"))
    for server in (*replicas, *sentinels.sentinels):
        server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(NotDurable) as told:
            await stage.queue.enqueue(Job(payload={}, id="a"))
        assert told.value.job_id == "a"
        assert told.value.exit_code == 75
        [again] = await stage.queue.enqueue_many([Job(payload={}, id="a")])
        assert (again.created, again.durable) == (False, False)
    finally:
        for server in (*replicas, *sentinels.sentinels):
            server.process.send_signal(signal.SIGCONT)

    async def is_confirmed():
        [answer] = await stage.queue.enqueue_many([Job(payload={}, id="a")])
        assert not answer.created
        return answer.durable

    await wait_until(is_confirmed, 20, "the replicas to catch up")


async def test_refused_before_writing(own_server):
    """No replica, no append-only file, no WAITAOF: 78, and not one key."""
    old = own_server("--appendonly", "yes", binary=servers.debian_redis)
    new = own_server(binary=servers.redis82)
    for server, durability, word in (
        (old, "replica", "no replica"),
        (old, "fsync", "WAITAOF"),
        (new, "fsync", "append-only"),
    ):
        stage = Stage(server.url, durability=durability)
        with pytest.raises(ServerUnsuitable, match=word):
            await stage.enqueue("a")
        assert stage.raw.dbsize() == 0
        await stage.close()


@pytest.mark.parametrize("binary", [servers.redis82, servers.valkey8, servers.valkey9])
async def test_the_disk_confirms(own_server, binary):
    """fsync is kept by every server that knows WAITAOF."""
    server = own_server("--appendonly", "yes", binary=binary)
    stage = Stage(server.url, durability="fsync")
    [answer] = await stage.queue.enqueue_many([Job(payload={}, id="a")])
    assert (answer.created, answer.durable) == (True, True)
    await stage.close()


async def test_the_first_enqueue_is_confirmed_once(shared, staged):
    """A server that does not know the script yet is not asked for a confirmation of nothing first."""
    sentinels = shared("sentinel")
    stage = staged(sentinels, durability="replica")
    stage.raw.script_flush()
    [answer] = await stage.queue.enqueue_many([Job(payload={}, id="a")])
    assert (answer.created, answer.durable) == (True, True)
    assert stage.counters()["durable_batches"] == 1


async def test_scripts_forgotten_meanwhile(own_server):
    """NOSCRIPT in the middle of a durable enqueue costs a second try, not the confirmation."""
    server = own_server("--appendonly", "yes", binary=servers.redis82)
    stage = Stage(server.url, durability="fsync")
    await stage.enqueue("a")
    with redis.Redis(port=server.port) as raw:
        raw.script_flush()
    [answer] = await stage.queue.enqueue_many([Job(payload={}, id="b")])
    assert (answer.created, answer.durable) == (True, True)
    await stage.close()
