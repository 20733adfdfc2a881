"""Which server counts as the primary when Sentinels disagree."""

import asyncio
import math
import signal

import pytest
from support import servers, topologies
from support.wait import wait_until, wait_until_sync

from aragora_q.config.settings import QueueConfig
from aragora_q.redis.connection import Connection

pytestmark = pytest.mark.slow


@pytest.fixture
def sentinels(steady_sentinels):
    return steady_sentinels


@pytest.fixture
def cut_off(sentinels):
    """A Sentinel and a server that learn of no failover: the smaller side of a partition."""
    old_primary = sentinels._server("--requirepass", topologies.PASSWORD).start()
    sentinel = sentinels._sentinel(old_primary.port, 10_000).start()
    wait_until_sync(lambda: sentinels.state(sentinel)["num-slaves"] == "0", what="the Sentinel")
    yield sentinel, old_primary
    sentinel.stop()
    old_primary.stop()


def _fail_over(sentinels):
    former = sentinels.primary()
    with sentinels.sentinels[0].client() as client:
        client.execute_command("SENTINEL", "FAILOVER", sentinels.service)
    wait_until_sync(
        lambda: all(
            sentinels.state(each)["port"] != str(former.port) for each in sentinels.sentinels
        ),
        60,
        "the failover",
    )


def _discovered_port(topology, *hosts):
    url = f"redis+sentinel://{','.join(f'127.0.0.1:{host.port}' for host in hosts)}/{topology.service}"
    connection = Connection(QueueConfig(redis_url=url, **topology.settings))
    return asyncio.run(connection._client._discovery.discover())[1]


class _Dead:
    """A Sentinel that does not answer."""

    def __init__(self):
        self.port = servers.free_port()


def test_the_latest_failover_counts(sentinels, cut_off):
    """A Sentinel that missed a failover is outvoted, wherever it stands in redis_url."""
    lonely, _ = cut_off
    _fail_over(sentinels)
    primary = sentinels.primary().port
    first, second, third = sentinels.sentinels
    assert _discovered_port(sentinels, lonely, first, second) == primary
    assert _discovered_port(sentinels, first, lonely, second) == primary
    assert _discovered_port(sentinels, lonely, first, second, third) == primary


def test_one_sentinel_is_enough(sentinels, cut_off):
    """While the others do not answer, the answer of one counts, as with a single one."""
    lonely, old_primary = cut_off
    assert _discovered_port(sentinels, lonely, _Dead(), _Dead()) == old_primary.port
    assert _discovered_port(sentinels, _Dead(), _Dead(), lonely) == old_primary.port
    assert _discovered_port(sentinels, lonely) == old_primary.port


async def test_a_reader_follows_a_failover(sentinels, harness_on):
    """A client that only reads leaves a former primary, which would answer, once that is a replica."""
    harness = harness_on(sentinels)
    harness.queue.connection.failover_seconds = 30
    assert await harness.queue.get_status("a") is None
    await asyncio.to_thread(_fail_over, sentinels)
    with sentinels.primary().client() as primary:

        async def is_read_from_primary():
            assert await harness.queue.get_status("a") is None
            return any(client["cmd"] == "pttl" for client in primary.client_list())

        await wait_until(is_read_from_primary, 60, "the reader to follow")


async def test_one_of_many_calls_asks_a_sentinel(sentinels, harness_on):
    """When the primary is due to be verified, one connection is opened for it, however many calls begin."""
    harness = harness_on(sentinels)
    await harness.queue.get_status("a")
    harness.queue.connection._client._discovery._verified_at = -math.inf
    before = _connections_received(sentinels)
    await asyncio.gather(*(harness.queue.get_status(f"j{n}") for n in range(100)))
    await wait_until(lambda: _connections_received(sentinels) > before, what="the question")
    assert _connections_received(sentinels) < before + 50


def _connections_received(topology):
    """How many connections the Sentinels have received, those of this function left out."""
    _connections_received.own += len(topology.sentinels)
    total = 0
    for sentinel in topology.sentinels:
        with sentinel.client() as client:
            total += client.info("stats")["total_connections_received"]
    return total - _connections_received.own


_connections_received.own = 0


def test_a_failover_that_waits_for_a_replica_counts(sentinels):
    """While replicas are attached to the new primary, Sentinels have its epoch and the former one's state."""
    former, *replicas = sorted(
        sentinels.servers, key=lambda server: server is not sentinels.primary()
    )
    promoted, frozen = replicas
    with frozen.client() as client:
        client.config_set("replica-priority", 0)
    leader = sentinels.sentinels[0]
    wait_until_sync(lambda: _priority(sentinels, leader, frozen) == "0", 60, "the priority")
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        with leader.client() as client:
            client.execute_command("SENTINEL", "FAILOVER", sentinels.service)
            wait_until_sync(
                lambda: _named_port(client, sentinels.service) != former.port, 60, "a promotion"
            )
        assert _discovered_port(sentinels, leader) == promoted.port
    finally:
        frozen.process.send_signal(signal.SIGCONT)


def _priority(sentinels, sentinel, replica):
    with sentinel.client() as client:
        for state in client.execute_command("SENTINEL", "REPLICAS", sentinels.service):
            fields = (
                state
                if isinstance(state, dict)
                else dict(zip(state[::2], state[1::2], strict=True))
            )
            if fields["port"] == str(replica.port):
                return fields["slave-priority"]
    return None


def _named_port(client, service):
    return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)[1])
