"""A server that is not what `redis_url` says, or cannot be trusted, is refused in one clear line."""

import time

import pytest
from support import servers
from support.backends import BACKENDS
from support.processes import run_command
from support.topologies import PASSWORD, SENTINEL_PASSWORD, environment
from support.wait import wait_until, wait_until_sync

from aragora_q.base import Job, JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Identity
from aragora_q.errors import AccessDenied, RedisUnreachable, UnsupportedServer
from aragora_q.streams.queue import RedisStreamsQueue, create_redis_queue


def refused(done, code, *words):
    """Assert exit code, at most three lines, no traceback, no secret."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr
    assert SENTINEL_PASSWORD not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_redis_6_is_refused(own_server):
    """Row 39: a server without script flags is refused with 78, version and remedy named."""
    server = own_server(binary=servers.redis62)
    refused(run_command("reap", REDIS_URL=server.url), 78, "Redis 6.2", "is not supported", "7.0")


async def test_redis_6_is_refused_in_python(own_server):
    """`enqueue` raises the same reason, without asking for the server's version before each job."""
    queue = RedisStreamsQueue(QueueConfig(redis_url=own_server(binary=servers.redis62).url))
    with pytest.raises(UnsupportedServer, match=r"is not supported: Redis 7\.0"):
        await queue.enqueue(Job({}))
    await queue.close()


@pytest.mark.slow
def test_wrong_topologies_are_named(shared_server):
    """A Sentinel, a cluster node and a single server used with the wrong URL: 78."""
    sentinels, cluster, single = (
        shared_server("sentinel"),
        shared_server("cluster"),
        shared_server("acl"),
    )
    sentinel, node = sentinels.sentinels[0], cluster.nodes[0]
    plain = single.url.partition("://")[2]
    done = run_command(
        "reap", REDIS_URL=f"redis://127.0.0.1:{sentinel.port}", REDIS_PASSWORD=SENTINEL_PASSWORD
    )
    refused(done, 78, "is a Sentinel", "redis+sentinel://")
    refused(run_command("reap", REDIS_URL=node.url), 78, "is a cluster node", "redis+cluster://")
    refused(
        run_command("reap", REDIS_URL=f"redis+cluster://{plain}"), 78, "cluster support disabled"
    )
    done = run_command(
        "reap", REDIS_URL=f"redis+sentinel://127.0.0.1:{cluster.nodes[1].port}/debates"
    )
    refused(done, 78, "unknown command 'SENTINEL'")


@pytest.mark.slow
def test_sentinels_that_know_no_primary(shared_server):
    """An unknown service and unreachable Sentinels are 69, a wrong Sentinel password is 77."""
    sentinels = shared_server("sentinel")
    given = environment(sentinels)
    hosts = sentinels.url.partition("://")[2].partition("/")[0]
    done = run_command("reap", **{**given, "REDIS_URL": f"redis+sentinel://{hosts}/another"})
    refused(done, 69, "No such master with that name")
    done = run_command("reap", **{**given, "REDIS_SENTINEL_PASSWORD": "wrong"})
    refused(done, 77, "denies access")
    done = run_command("reap", **{**given, "REDIS_PASSWORD": "wrong"})
    refused(done, 77, "denies access")
    dead = f"127.0.0.1:{servers.free_port()},127.0.0.1:{servers.free_port()}"
    refused(
        run_command("reap", REDIS_URL=f"redis+sentinel://{dead}/debates"),
        69,
        f"no server knows where the primary is: {dead.replace(',', ', ')}: connection refused",
    )


@pytest.mark.slow
def test_a_replica_is_not_a_primary(shared_server):
    """Row 20: writes to a replica are 75, and the line says what it is."""
    sentinels = shared_server("sentinel")
    replica = next(server for server in sentinels.servers if server is not sentinels.primary())
    refused(
        run_command("reap", REDIS_URL=replica.url, REDIS_PASSWORD=PASSWORD),
        75,
        "READONLY",
        "replica",
    )


@pytest.mark.slow
def test_tls_is_verified(shared_server, tmp_path):
    """No authority, an untrusted one, another name, no client certificate: refused."""
    tls = shared_server("tls")
    given, certificates = environment(tls), tls.certificates
    refused(run_command("reap", REDIS_URL=tls.url), 69, "redis_tls_ca_file")
    untrusted = {**given, "REDIS_TLS_CA_FILE": certificates["untrusted.crt"]}
    refused(run_command("reap", **untrusted), 69, "CERTIFICATE_VERIFY_FAILED")
    other_name = {**given, "REDIS_URL": tls.url.replace("127.0.0.1", "127.0.0.2")}
    assert run_command("reap", **other_name).returncode == 69
    refused(run_command("reap", REDIS_URL=tls.url, REDIS_TLS_CA_FILE=certificates["ca.crt"]), 69)
    refused(run_command("reap", REDIS_URL=tls.url.replace("rediss", "redis")), 69)
    missing = {**given, "REDIS_TLS_CERT_FILE": str(tmp_path / "none.crt")}
    refused(run_command("reap", **missing), 78, f"redis_tls_cert_file = '{tmp_path}/none.crt'")


@pytest.mark.slow
async def test_a_named_authority_is_the_only_one(shared_server, monkeypatch):
    """With `redis_tls_ca_file`, certificates of the system's authorities are not accepted."""
    tls = shared_server("tls")
    given = {**environment(tls), "SSL_CERT_FILE": tls.certificates["ca.crt"]}
    system = {name: value for name, value in given.items() if name != "REDIS_TLS_CA_FILE"}
    assert run_command("reap", **system).returncode == 0, (
        "unset, it is the system's authorities that count"
    )
    other = {**given, "REDIS_TLS_CA_FILE": tls.certificates["untrusted.crt"]}
    refused(run_command("reap", **other), 69, "CERTIFICATE_VERIFY_FAILED")
    settings = {**tls.settings, "redis_tls_ca_file": tls.certificates["untrusted.crt"]}
    monkeypatch.setenv("SSL_CERT_FILE", tls.certificates["ca.crt"])
    queue = RedisStreamsQueue(QueueConfig(redis_url=tls.url, **settings))
    renewer = queue.session(Identity("w")).lease_renewer()
    with pytest.raises(RedisUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        await renewer.renew([("a", 1)])
    await renewer.close()


async def test_errors_of_the_library_hide_passwords(shared_server):
    """Exceptions and their causes never contain user, password or URL options."""
    acl = shared_server("acl")
    wrong = acl.url.replace("queue:", "queue:wrong")
    with pytest.raises(AccessDenied) as denied:
        await create_redis_queue(QueueConfig(redis_url=wrong))
    assert PASSWORD not in str(denied.value)
    with pytest.raises(RedisUnreachable) as unreachable:
        await create_redis_queue(
            QueueConfig(redis_url=f"redis://me:{'hush'}@127.0.0.1:{servers.free_port()}")
        )
    assert "hush" not in f"{unreachable.value} {unreachable.value.__cause__}"


@pytest.mark.slow
async def test_a_rotated_password_is_read_again(shared_server, worker_process, tmp_path):
    """Row 38: rights revoked, password changed in its file: a running worker goes on."""
    acl = shared_server("acl")
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    url = acl.url.replace(acl.url.partition("queue:")[2].partition("@")[0], "ignored")
    worker = worker_process(
        acl, environment={"REDIS_URL": url, "REDIS_PASSWORD_FILE": str(secret)}
    ).wait_until_started()
    client = RedisStreamsQueue(QueueConfig(redis_url=url, redis_password="changed"))

    async def is_done():
        return await client.get_status("after") == JobStatus.COMPLETED

    with acl.admin_client() as admin:
        admin.execute_command("ACL", "SETUSER", "queue", f"<{PASSWORD}", ">changed")
        admin.execute_command("CLIENT", "KILL", "USER", "queue")
        try:
            wait_until_sync(
                lambda: "denies access" in worker.text(), 60, "the refusal to be logged"
            )
            assert worker.is_alive
            secret.write_text("changed\n")
            await client.enqueue(Job(payload={}, id="after"))
            await wait_until(is_done, 60, "a job after the rotation")
        finally:
            admin.execute_command("ACL", "SETUSER", "queue", "<changed", f">{PASSWORD}")
            await client.close()
    assert PASSWORD not in worker.text()
    assert "changed\n" not in worker.text()


def test_denied_at_start_is_final(shared_server, worker_process):
    """A worker that is denied access at its start exits 77: only an operator can change that."""
    acl = shared_server("acl")
    url = f"redis://127.0.0.1:{acl.server.port}"
    worker = worker_process(acl, environment={"REDIS_URL": url})
    wait_until_sync(lambda: not worker.is_alive, 60, "the worker to give up")
    assert worker.process.returncode == 77, worker.text()
    assert "NOAUTH" in worker.text() or "Authentication required" in worker.text()


def test_topologies_are_all_contract_tested():
    """Every kind of URL has a backend in the contract suite."""
    from aragora_q.config.redis_url import SCHEMES

    assert set(SCHEMES.values()) - {"single"} < set(BACKENDS)


@pytest.mark.slow
def test_waiting_for_a_silent_host_is_bounded():
    """A host that drops packets costs a command its connect timeout, then 69."""
    with servers.silent_address() as (host, port):
        started = time.monotonic()
        refused(run_command("reap", REDIS_URL=f"redis://{host}:{port}"), 69, "cannot reach")
        assert time.monotonic() - started < 30
