"""Topologies of a test's own, which it may damage, and workers and queues on any."""

import invariants
import pytest
import servers
import topologies
from certificates import Certificates
from stage import Stage
from worker_processes import WorkerProcess


def _deployed(make, **options):
    try:
        deployment = make(**options)
    except servers.Unavailable as reason:
        pytest.skip(str(reason))
    yield deployment
    deployment.stop()


@pytest.fixture
def sentinels():
    """A Sentinel deployment of the test's own, whose servers it may kill."""
    yield from _deployed(topologies.Sentinels)


@pytest.fixture
def cluster():
    """A cluster of the test's own, whose nodes it may kill."""
    yield from _deployed(topologies.Cluster)


@pytest.fixture(params=[topologies.Sentinels, topologies.Cluster])
def encrypted(request, tmp_path):
    """The same with nothing but TLS between clients, Sentinels, primaries and replicas."""
    yield from _deployed(request.param, certificates=Certificates(tmp_path))


@pytest.fixture
async def staged():
    """Makes stages on topologies; invariant Z is checked when the test is over."""
    made = []

    def make(topology, **settings):
        made.append((Stage.on(topology, **settings), topology))
        return made[-1][0]

    yield make
    for stage, topology in made:
        stage.raw.close()
        stage.raw = topology.raw()  # the primary may be another one by now
        try:
            invariants.check(stage.raw, stage.keys.stem)
        finally:
            await stage.close()


@pytest.fixture
def worker_process(tmp_path):
    """Starts worker processes, and ends them when the test is over."""
    started = []

    def start(topology, worker_id="w1", *args, **options):
        environment = topologies.environment(topology, **options.pop("environment", {}))
        worker = WorkerProcess(tmp_path, worker_id, environment, *args, **options).start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.is_alive:
            worker.kill()
