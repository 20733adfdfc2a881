"""Deployments that a test may damage, and queues on any deployment."""

import pytest
from support import invariants, servers, topologies
from support.certificates import Certificates
from support.queue_harness import QueueHarness


def _deployed(make, **options):
    try:
        deployment = make(**options)
    except servers.Unavailable as reason:
        pytest.skip(str(reason))
    yield deployment
    deployment.stop()


@pytest.fixture
def sentinels():
    """A Sentinel deployment whose servers the test may kill."""
    yield from _deployed(topologies.Sentinels)


@pytest.fixture
def cluster():
    """A cluster whose nodes the test may kill."""
    yield from _deployed(topologies.Cluster)


@pytest.fixture
def steady_sentinels():
    """As `sentinels`, for failovers that the test orders: a server that a busy machine stops is not down."""
    yield from _deployed(topologies.Sentinels, down_ms=10_000)


@pytest.fixture
def steady_cluster():
    """As `cluster`, for tests that kill no node: one that a busy machine stops is not down."""
    yield from _deployed(topologies.Cluster, node_timeout_ms=10_000)


@pytest.fixture(params=[topologies.Sentinels, topologies.Cluster])
def encrypted(request, tmp_path):
    """A Sentinel deployment, then a cluster, with TLS on every connection."""
    yield from _deployed(request.param, certificates=Certificates(tmp_path))


@pytest.fixture
async def harness_on():
    """Makes queues on topologies; invariant Z is checked after the test."""
    made = []

    def make(topology, **settings):
        made.append((QueueHarness.on(topology, **settings), topology))
        return made[-1][0]

    yield make
    for harness, topology in made:
        harness.redis.close()
        harness.redis = topology.admin_client()  # the primary may have changed during the test
        try:
            invariants.check(harness.redis, harness.keys.queue_prefix)
        finally:
            await harness.close()
