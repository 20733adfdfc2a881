"""The backends of the contract suite, and the pool that starts those that a run needs.

Tests share backends, so they must not stop, freeze or reconfigure one. Tests that break servers start
them with the fixture `own_server` or from `topologies.py`.
"""

import gc
import os
import shutil
import subprocess
import tempfile
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from support import servers, topologies
from support.servers import Unavailable
from support.wait import wait_until_sync

IMAGE = os.environ.get("ARAGORA_Q_TEST_IMAGE", "redis:7-alpine")
LOCAL_IMAGE = "aragora-q-test-redis:local"


class DockerRedis(topologies.Topology):
    """A Redis in Docker by testcontainers: the official image, or one built from Debian's package."""

    def __init__(self):
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
        try:
            import docker
            from testcontainers.core.container import DockerContainer
        except ImportError as error:
            raise Unavailable(f"testcontainers is not installed: {error}") from None
        reason = ""
        try:
            client = docker.from_env()
            client.ping()
        except Exception as error:
            reason = str(error)[:100]
        if reason:
            # The library leaves its socket to the garbage collector.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            raise Unavailable(f"no Docker engine answers: {reason}")
        self.image = _image(client)
        self._container = DockerContainer(self.image).with_exposed_ports(6379)
        self._container.start()
        port = self._container.get_exposed_port(6379)
        self.url = f"redis://127.0.0.1:{port}"
        wait_until_sync(self._answers, 60, "the container to answer")

    def _answers(self):
        try:
            with self.admin_client() as client:
                return client.ping()
        except redis.RedisError:
            return False

    def admin_client(self):
        return redis.Redis.from_url(self.url, **servers.CLIENT_OPTIONS)

    def stop(self):
        self._container.stop()


def _image(client):
    import docker

    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        try:
            client.images.pull(IMAGE)
        except docker.errors.APIError:
            return _built_image(client)
    return IMAGE


def _built_image(client):
    """An image with Debian's redis-server and its libraries only."""
    with tempfile.TemporaryDirectory() as context:
        root = Path(context) / "root"
        linked = subprocess.run(
            ["ldd", servers.debian_redis()], capture_output=True, text=True, check=True
        ).stdout.split()
        for file in [
            servers.DEBIAN_REDIS,
            *(Path(name) for name in linked if name.startswith("/")),
        ]:
            target = root / file.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.resolve(), target)
        (root / "data").mkdir()
        (root / "tmp").mkdir()
        (Path(context) / "Dockerfile").write_text(
            "FROM scratch\nCOPY root /\nWORKDIR /data\nEXPOSE 6379\n"
            'CMD ["/usr/bin/redis-server", "--protected-mode", "no", "--save", ""]\n'
        )
        client.images.build(path=context, tag=LOCAL_IMAGE)
    return LOCAL_IMAGE


BACKENDS = {
    "debian": lambda: topologies.Single(servers.debian_redis),
    "valkey9": lambda: topologies.Single(servers.valkey9),
    "valkey8": lambda: topologies.Single(servers.valkey8),
    "redis82": lambda: topologies.Single(servers.redis82),
    "docker": DockerRedis,
    "embedded": topologies.Embedded,
    "unix": topologies.Unix,
    "tls": topologies.Tls,
    "acl": topologies.Acl,
    # Timeouts long enough that a slow machine causes no failover.
    "sentinel": lambda: topologies.Sentinels(down_ms=10_000),
    "cluster": lambda: topologies.Cluster(node_timeout_ms=10_000),
}
"""Backends by name."""

FAST = "debian" if servers.DEBIAN_REDIS.exists() else "valkey9"
"""The backend for tests that need any single server."""


class Pool:
    """Starts each backend at its first use, and stops it at the end of the run."""

    def __init__(self):
        self.running = {}
        self.skipped = {}
        self._versions = {}
        self._tests = Counter()

    def get(self, name):
        """The backend of that name, emptied. Skips the test, with the reason, if it cannot run here."""
        if name not in self.running and name not in self.skipped:
            try:
                self.running[name] = BACKENDS[name]()
                self._versions[name] = _version(self.running[name])
            except Unavailable as reason:
                self.skipped[name] = str(reason)
        if name in self.skipped:
            pytest.skip(f"{name}: {self.skipped[name]}")
        self.running[name].flush()
        self._tests[name] += 1
        return self.running[name]

    def used(self):
        """By name of each backend that was asked for: what it is or why it was skipped, and its tests."""
        skipped = {name: f"skipped: {reason}" for name, reason in self.skipped.items()}
        return {
            name: (text, self._tests[name]) for name, text in (self._versions | skipped).items()
        }

    def stop(self):
        with ExitStack() as stops:  # one that fails to stop must not keep the others running
            for backend in self.running.values():
                stops.callback(backend.stop)
        self.running.clear()


def summary(used):
    """Lines for the end of a run: which backends ran how many tests, and which were skipped and why.

    `used` has what each process used.
    """
    for name in BACKENDS:
        if found := [each[name] for each in used if name in each]:
            tests = sum(tests for _, tests in found)
            yield f"backend {name:9} {found[0][0]:13}" + (f" {tests:5} tests" if tests else "")


def _version(backend):
    with backend.admin_client() as client:
        info = client.info("server")
    return f"Valkey {v}" if (v := info.get("valkey_version")) else f"Redis {info['redis_version']}"
