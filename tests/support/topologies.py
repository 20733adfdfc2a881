"""Every kind of Redis deployment that `redis_url` can name: for `backends.py`, and for tests that start one.

Each has the `url` and `settings` of a queue on it; `admin_client()`, a client with every right on the
current primary; `flush()`, `refusals()` and `stop()`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import redis
from redis.crc import key_slot
from support import processes, servers
from support.certificates import Certificates
from support.servers import CLIENT_OPTIONS
from support.wait import wait_until_sync

from aragora_q.errors import ConfigError
from aragora_q.redis import embedded
from aragora_q.redis.acl import ROLES, rules
from aragora_q.redis.keys import QueueKeys

PASSWORD = "s3cret/of:the@queue"
SENTINEL_PASSWORD = "s3cret-of-the-sentinels"
AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A replica need not wait for others before it receives its data."""


def replicate(server, source):
    """Make a server a replica that has its source's data, or a primary if `source` is None."""
    with server.client() as client:
        if source is None:
            client.replicaof("NO", "ONE")
            return
        client.replicaof("127.0.0.1", source.port)
        wait_until_sync(
            lambda: client.info("replication")["master_link_status"] == "up", 60, "the replica"
        )


class Topology:
    """What all deployments have in common."""

    settings: ClassVar = {}

    def flush(self):
        with self.admin_client() as client:
            client.flushall()

    def refusals(self):
        """Commands that the queue's user was denied since the last flush."""
        return []

    def _start(self, started):
        """Start servers and wait for them; stop everything if one does not serve."""
        try:
            for server in started:
                server.start(wait=False)
            for server in started:
                server.wait()
        except servers.Unavailable:
            self.stop()
            raise

    def _until(self, condition, what):
        """Wait; stop everything if the condition does not become true."""
        try:
            wait_until_sync(condition, 60, what)
        except AssertionError as error:
            self.stop()
            raise servers.Unavailable(str(error)) from None


class Single(Topology):
    """One server on a port; subclasses change how it is reached."""

    def __init__(self, binary=servers.any_server):
        self.server = servers.Server(binary(), "--enable-debug-command", "yes")
        self.url = self.server.url
        self._place()
        self._start([self.server])

    def _place(self):
        """Set the listening address and the settings; called before the start."""

    def admin_client(self):
        return self.server.client(**CLIENT_OPTIONS)

    def flush(self):
        with self.admin_client() as client:
            client.flushall()
            client.acl_log_reset()  # other tests may have been denied commands

    def stop(self):
        self.server.stop()


class Unix(Single):
    """One server on a unix socket and nowhere else, with a password and another database."""

    settings: ClassVar = {"redis_password": PASSWORD}

    def _place(self):
        path = _on_a_socket(self.server)
        self.server._command += ["--requirepass", PASSWORD]
        self.server.options |= {"password": PASSWORD, "db": 3}
        self.url = f"unix://{path}?db=3"


def _on_a_socket(server):
    """Make the server listen on a socket instead of its port; return the path."""
    path = str(server.directory / "redis.sock")
    server._command += ["--port", "0", "--unixsocket", path, "--unixsocketperm", "700"]
    del server.options["port"]
    server.options["unix_socket_path"] = path
    return path


def _speak_tls(server, certificates):
    """Only TLS with client certificates on its port; the admin client uses a socket."""
    _on_a_socket(server)
    server._command += [
        "--tls-port", str(server.port), "--tls-auth-clients", "yes", "--tls-replication", "yes",
        "--tls-cert-file", certificates["server.crt"], "--tls-key-file", certificates["server.key"],
        "--tls-ca-cert-file", certificates["ca.crt"],
    ]  # fmt: skip


class Embedded(Topology):
    """The private server that the package starts, and stops after its last user."""

    def __init__(self):
        self._directory = Path(tempfile.mkdtemp(prefix="aq-"))
        try:
            self._use = embedded.open_server(self._directory)
        except ConfigError as error:
            raise servers.Unavailable(str(error)) from None
        self.url = f"embedded://{self._directory}"

    def admin_client(self):
        return redis.Redis.from_url(self._use.url, **CLIENT_OPTIONS)

    def stop(self):
        self._use.release()
        wait_until_sync(lambda: not embedded._is_supervised(self._directory), 60, "it to end")
        shutil.rmtree(self._directory)


class Tls(Single):
    """One server with TLS and client certificates."""

    def _place(self):
        self.certificates = Certificates(self.server.directory)
        self.settings = self.certificates.settings
        _speak_tls(self.server, self.certificates)
        self.url = f"rediss://127.0.0.1:{self.server.port}"


class Acl(Single):
    """One server without a default user; the queue's user has only the rights that `aragora-q acl` prints."""

    def __init__(self):
        super().__init__()
        keys = QueueKeys("aragora:queue:", "debates")
        roles = [f"({rules(role, keys)})" for role in ROLES]
        with self.server.client() as admin:
            admin.execute_command("ACL", "SETUSER", "queue", "on", f">{PASSWORD}", *roles)
            admin.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "+@all")
            admin.execute_command("ACL", "SETUSER", "default", "off")
        self.server.options |= {"username": "admin", "password": "admin"}
        self.url = f"redis://queue:{quote(PASSWORD, safe='')}@127.0.0.1:{self.server.port}"

    def refusals(self):
        with self.admin_client() as client:
            return [f"{row['reason']}: {row['object']}" for row in client.acl_log()]


class Sentinels(Topology):
    """A primary, two replicas and three Sentinels with passwords; with TLS if `certificates` are given."""

    service = "debates-primary"

    def __init__(self, *args, down_ms=1000, certificates=None):
        self._certificates = certificates
        self.settings = {
            "redis_password": PASSWORD,
            "redis_sentinel_password": SENTINEL_PASSWORD,
            **(certificates.settings if certificates else {}),
        }
        common = [
            "--requirepass", PASSWORD, "--masterauth", PASSWORD, *AT_ONCE,
            "--appendonly", "yes", "--appendfsync", "no", *args,
        ]  # fmt: skip
        first = self._server(*common)
        replicaof = ["--replicaof", "127.0.0.1", str(first.port)]
        self.servers = [first, *(self._server(*common, *replicaof) for _ in range(2))]
        self.sentinels = []
        self._start(self.servers)
        # Start replicas before the Sentinels, which look for new ones every 10 s only.
        self._until(self._replicas_are_up, "the replicas")
        self.sentinels += (self._sentinel(first.port, down_ms) for _ in range(3))
        self._start(self.sentinels)
        self._wait_until_ready()
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        self.url = f"{'rediss' if certificates else 'redis'}+sentinel://{hosts}/{self.service}"

    def _server(self, *args):
        server = servers.Server(servers.any_server(), *args)
        server.options["password"] = PASSWORD
        if self._certificates:
            _speak_tls(server, self._certificates)
        return server

    def _sentinel(self, port, down_ms):
        sentinel = servers.Server(servers.any_server())
        sentinel.options["password"] = SENTINEL_PASSWORD
        file = sentinel.directory / "sentinel.conf"
        file.write_text(
            f"port {sentinel.port}\nbind 127.0.0.1\ndir {sentinel.directory}\n"
            f"requirepass {SENTINEL_PASSWORD}\nsentinel sentinel-pass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {self.service} 127.0.0.1 {port} 2\n"
            f"sentinel auth-pass {self.service} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {self.service} {down_ms}\n"
            f"sentinel failover-timeout {self.service} 5000\n"
        )
        sentinel._command = [str(servers.any_server()), str(file), "--sentinel"]
        if self._certificates:
            _speak_tls(sentinel, self._certificates)
        return sentinel

    def state(self, sentinel):
        with sentinel.client() as client:
            reply = client.execute_command("SENTINEL", "MASTER", self.service)
        return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))

    def _wait_until_ready(self):
        self._until(
            lambda: all(
                int(state["num-slaves"]) == 2 and int(state["num-other-sentinels"]) == 2
                for state in map(self.state, self.sentinels)
            ),
            "the Sentinels to know each other",
        )

    def _replicas_are_up(self):
        for server in self.servers[1:]:
            with server.client() as client:
                if client.info("replication").get("master_link_status") != "up":
                    return False
        return True

    def primary(self):
        """The server that the Sentinels report as primary."""
        with self.sentinels[0].client() as client:  # its state lags behind in a failover
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(server for server in self.servers if server.port == int(port))

    def admin_client(self):
        return self.primary().client(**CLIENT_OPTIONS)

    def stop(self):
        for server in (*self.sentinels, *self.servers):
            server.stop()


class Cluster(Topology):
    """Three primaries with one replica each, with TLS if given `certificates`; the URL has a dead address."""

    def __init__(self, *args, node_timeout_ms=1500, certificates=None):
        options = [
            "--cluster-enabled", "yes", "--cluster-node-timeout", "1500",
            *AT_ONCE, "--cluster-allow-replica-migration", "no",
            "--enable-debug-command", "yes", *args,
        ]  # fmt: skip
        self.nodes = [servers.Server(servers.any_server(), *options) for _ in range(6)]
        self._tls = {}
        if certificates:
            self.settings = certificates.settings
            self._tls = {
                "ssl": True, "ssl_ca_certs": certificates["ca.crt"],
                "ssl_certfile": certificates["client.crt"], "ssl_keyfile": certificates["client.key"],
            }  # fmt: skip
            for node in self.nodes:
                _speak_tls(node, certificates)
                node._command += ["--tls-cluster", "yes"]
        self._start(self.nodes)
        self._join(node_timeout_ms)
        dead = servers.free_port()
        hosts = ",".join(f"127.0.0.1:{port}" for port in (dead, *(n.port for n in self.nodes[:3])))
        self.url = f"{'rediss' if certificates else 'redis'}+cluster://{hosts}"

    def _join(self, node_timeout_ms):
        clients = [node.client() for node in self.nodes]
        share = 16_384 // 3
        for n, client in enumerate(clients[:3]):
            last = 16_383 if n == 2 else (n + 1) * share - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * share, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in self.nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        self._until(
            lambda: all(len(_nodes(c)) == len(clients) for c in clients), "the nodes to meet"
        )
        self.ids = [client.execute_command("CLUSTER", "MYID") for client in clients]
        for n, client in enumerate(clients[3:]):
            self._until(lambda c=client, of=n % 3: _replicates(c, self.ids[of]), "the replicas")
        self._until(lambda: all(_is_whole(c) for c in clients), "the cluster to be whole")
        # Nodes tell each other of their roles once per half of it, so it is short until now.
        for client in clients:
            client.config_set("cluster-node-timeout", node_timeout_ms)
            client.close()

    def owner(self, key):
        """The node that serves the key's slot now."""
        slot = key_slot(key.encode())
        for node in self.nodes:
            if node.process.poll() is not None:
                continue
            with node.client() as client:
                for line in _nodes(client).values():
                    if "myself" in line["flags"] and "master" in line["flags"]:
                        for slots in line["slots"]:
                            if int(slots[0]) <= slot <= int(slots[-1]):
                                return node
        raise AssertionError(f"no node serves slot {slot}")

    def admin_client(self):
        alive = next(node for node in self.nodes if node.process.poll() is None)
        return redis.RedisCluster(host="127.0.0.1", port=alive.port, **CLIENT_OPTIONS, **self._tls)

    def stop(self):
        for node in self.nodes:
            node.stop()


def _nodes(client):
    return client.execute_command("CLUSTER NODES")


def _replicates(client, primary_id):
    try:
        return client.execute_command("CLUSTER", "REPLICATE", primary_id)
    except redis.ResponseError:
        return False


def _is_whole(client):
    """Whether the node serves, has its data, and knows all replicas: it votes for no unknown one."""
    info = client.execute_command("CLUSTER INFO")
    replication = client.info("replication")
    replicas = sum("slave" in line["flags"] for line in _nodes(client).values())
    return (info["cluster_state"], replicas) == ("ok", 3) and (
        replication["role"] == "master" or replication["master_link_status"] == "up"
    )


def environment(topology, **more):
    """The environment of a process that uses this topology."""
    names = {
        "redis_password": "REDIS_PASSWORD",
        "redis_sentinel_username": "REDIS_SENTINEL_USERNAME",
        "redis_sentinel_password": "REDIS_SENTINEL_PASSWORD",
        "redis_tls_ca_file": "REDIS_TLS_CA_FILE",
        "redis_tls_cert_file": "REDIS_TLS_CERT_FILE",
        "redis_tls_key_file": "REDIS_TLS_KEY_FILE",
    }
    settings = {names[name]: value for name, value in topology.settings.items()}
    return processes.env(REDIS_URL=topology.url, **settings, **more)
