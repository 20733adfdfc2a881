"""Servers that are renamed, restricted, emulated or half configured: one clear line, the right exit code."""

import asyncio
import re
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from support import servers
from support.certificates import Certificates
from support.executors import succeed
from support.processes import run_command
from support.wait import wait_until, wait_until_sync
from support.workers import wait_until_registered

from aragora_q import Job, JobFilter, JobStatus, RedisStreamsQueue
from aragora_q.base import LIVE
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Completed, Identity, Report
from aragora_q.errors import CommandRefused, RedisUnreachable, UnsupportedServer
from aragora_q.redis import keys, replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.errors import translate
from aragora_q.redis.server import ServerInfo, check_durability, check_eviction, check_server

PROTECTED = b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n"


@pytest.fixture
def stub():
    """Starts a server that sends `reply` to every command; before the first one if `greets`."""
    listeners = []

    def start(reply, *, greets=False):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, reply, greets), daemon=True).start()
        return f"redis://127.0.0.1:{listener.getsockname()[1]}"

    def serve(listener, reply, greets):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client, reply, greets), daemon=True).start()

    def answer(client, reply, greets):
        with client, suppress(ConnectionError):
            if greets:
                client.sendall(reply)
                return
            while data := client.recv(65_536):
                client.sendall(reply * len(re.findall(rb"^\*\d+\r$", data, re.MULTILINE)))

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text.encode()), text.encode())


def refused(done, code, *words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("fields", "release"),
    [
        ({"redis_version": "7.4-rc1"}, (7, 4)),
        ({"redis_version": "7.4.2"}, (7, 4)),
        ({"redis_version": 7.4}, (7, 4)),
        ({"redis_version": 8}, (8, 0)),
        ({"redis_version": "unstable"}, None),
        ({"redis_version": "df-v1.14.0"}, None),
        ({"redis_version": {"a": 1}}, None),
        ({}, None),
        ({"redis_version": "7.0.0", "valkey_version": "9.1.0"}, (9, 1)),
    ],
)
def test_the_release_is_read_or_unknown(fields, release):
    """A version in any form is understood, or is unknown."""
    assert ServerInfo.from_info(fields).release == release


async def test_what_info_does_not_say_is_unknown(stub):
    """Words for numbers and missing sections are neither 0 nor a default, and refuse nothing."""
    info = "redis_version:unstable\r\naof_enabled:yes\r\nused_memory:1.5G\r\nconnected_slaves:many"
    for text in (info, "", "# Server\r\n", "no colon"):
        connection = Connection(QueueConfig(redis_url=stub(bulk(text))))
        server = await check_server(connection)
        assert {server.release, server.has_aof, server.eviction_policy, server.replicas} == {None}
        assert {server.used_bytes, server.max_bytes} == {None}
        assert (server.used_share, server.is_cluster, server.may_evict) == (0, False, False)
        assert "unstable" in server.name or "unknown version" in server.name
        check_eviction(server, connection, allowed=False)
        check_durability(server, connection, "fsync")
        check_durability(server, connection, "replica")
        await connection.close()


@pytest.fixture
async def odd_queue(stub):
    """Opens a queue whose server sends `reply` to every command."""
    queues = []

    def open_queue(reply):
        queues.append(RedisStreamsQueue(QueueConfig(redis_url=stub(reply), queue="q")))
        return queues[-1]

    yield open_queue
    for queue in queues:
        await queue.close()


async def every_event(queue):
    async for _ in queue.events():
        pass


async def every_id(queue):
    return [page async for page in queue.find(JobFilter(group="g"))]


async def locked(queue):
    async with queue.single_flight(1):
        pass


CALLS = {
    "enqueue": lambda queue: queue.enqueue(Job({})),
    "enqueue_many": lambda queue: queue.enqueue_many([Job({}), Job({})]),
    "cancel": lambda queue: queue.cancel("j"),
    "requeue": lambda queue: queue.requeue(["j"]),
    "pause": lambda queue: queue.pause(),
    "get_job": lambda queue: queue.get_job("j"),
    "get_status": lambda queue: queue.get_status("j"),
    "stats": lambda queue: queue.get_queue_stats(),
    "events": every_event,
    "find": every_id,
    "find_page": lambda queue: queue.find_page(JobFilter()),
    "find_newest": lambda queue: queue.find_newest(JobFilter(), 5),
    "count": lambda queue: queue.count(JobFilter(statuses=LIVE)),
    "promote": lambda queue: queue.promote(),
    "reclaim": lambda queue: queue.reclaim(),
    "purge": lambda queue: queue.purge(JobStatus.FAILED),
    "single_flight": locked,
    "remove_dead_workers": lambda queue: queue.remove_dead_workers(),
    "claim_maintenance": lambda queue: queue.claim_maintenance("w", 1),
    "register": lambda queue: queue.session(Identity("w", "i")).register({}),
    "start": lambda queue: queue.session(Identity("w", "i")).start(1),
    "start_next": lambda queue: queue.session(Identity("w", "i")).start_next(0.01),
    "report": lambda queue: queue.session(Identity("w", "i")).report(
        [Report(Job({}, fence=1), Completed(b"{}"))]
    ),
    "checkpoints": lambda queue: queue.session(Identity("w", "i")).checkpoints(Job({})),
}

ODD_REPLIES = {
    "number": b":1\r\n",
    "nil": b"$-1\r\n",
    "nested lists": b"*2\r\n*1\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n",
    "numbers": b"*3\r\n:1\r\n:2\r\n:3\r\n",
    "nils": b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
    "three words": b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "bytes": b"$3\r\n\xff\xfe\xe9\r\n",
    "map": b"%1\r\n+a\r\n:1\r\n",
    "bad MOVED": b"-MOVED x\r\n",
    "error in Latin-1": b"-caf\xe9 closed\r\n",
    "empty error": b"-\r\n",
}


@pytest.mark.parametrize("reply", ODD_REPLIES.values(), ids=ODD_REPLIES)
async def test_every_call_refuses_what_it_cannot_read(odd_queue, reply):
    """A reply of another type or shape than a call expects is an error of ours, not one of Python's."""
    queue = odd_queue(reply)
    for name, call in CALLS.items():
        if (name, reply) == ("claim_maintenance", ODD_REPLIES["numbers"]):
            continue  # that is its shape
        with pytest.raises((RedisUnreachable, CommandRefused)) as error:
            await call(queue)
        assert error.value.exit_code in (69, 76), name


def test_an_error_without_a_meaning_has_a_code(stub):
    """An error that aragora-q does not know is not 1, which `wait` has for a job that failed."""
    done = run_command("wait", "j", REDIS_URL=stub(b"-ERR strange thing\r\n"))
    refused(done, 76, "refused a command: strange thing")


def test_every_script_has_a_shape():
    """The replies of all scripts are checked."""
    scripts = {path.stem for path in Path(keys.__file__).parent.joinpath("lua").glob("*.lua")}
    assert set(replies.SCRIPTS) == scripts


@pytest.mark.parametrize(
    "reply", [b":1\r\n", b"$-1\r\n", b"*0\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
)
def test_a_reply_that_is_none_ends_in_a_line(stub, reply):
    """Something that answers, but not as Redis does: 69 and a hint."""
    refused(run_command("stats", REDIS_URL=stub(reply)), 69, "cannot reach", "names a Redis server")


def test_protected_mode_is_a_denial(stub):
    """A server in protected mode greets with DENIED and closes the connection: 77 with the remedy."""
    done = run_command("stats", REDIS_URL=stub(PROTECTED, greets=True))
    refused(done, 77, "protected mode", "hint: set a password on the server")
    url = stub(PROTECTED, greets=True).replace("redis://", "redis+sentinel://")
    refused(run_command("stats", REDIS_URL=f"{url}/s"), 77, "the Sentinel at 127.0.0.1")


async def test_a_worker_waits_for_the_end_of_protected_mode(own_server, new_harness, worker_pool):
    """A server that comes back in protected mode refuses a running worker, which goes on afterwards."""
    server = own_server()
    harness = new_harness(redis_url=server.url, claim_idle_ms=2000)
    worker = worker_pool.start(harness, succeed)
    await wait_until_registered(harness, worker)
    server.kill()
    with socket.create_server(("127.0.0.1", server.port)) as listener:
        listener.setblocking(False)

        async def deny():
            while True:
                client, _ = await asyncio.get_running_loop().sock_accept(listener)
                with client:
                    client.send(PROTECTED)

        denying = asyncio.create_task(deny())
        await wait_until(
            lambda: "protected mode" in (worker.get_stats()["redis_error"] or ""), 60, "the denial"
        )
        denying.cancel()
        await asyncio.gather(denying, return_exceptions=True)
    server.start()
    harness.redis.connection_pool.disconnect()
    await wait_until(lambda: worker.get_stats()["redis_error"] is None, 60, "the worker to go on")
    assert not worker.task.done()


@pytest.mark.parametrize("command", ["INFO", "EVALSHA", "XREADGROUP", "TIME"])
def test_a_renamed_command_ends_the_start(own_server, command):
    """A worker whose server renamed a command exits 78, which systemd does not restart; the line has a hint."""
    server = own_server("--rename-command", command, "")
    done = run_command("worker", "--burst", "--metrics-port", "0", url=server.url)
    refused(
        done, 78, "does not run a command that aragora-q needs", "hint: the server or its provider"
    )


@pytest.mark.parametrize(
    "text",
    [
        "ERR unknown command 'EVALSHA', with args beginning with: ",
        "ERR Unknown Redis command called from script script: 1, on @user_script:1.",
        "ERR Error running script: script tried accessing undeclared key",
        "ERR This Redis command is not allowed from script",
        "ERR Script attempted to access a non local key in a cluster node",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "ERR command is disabled by the administrator",
        "ERR WAITAOF is not supported",
    ],
)
def test_what_a_server_forbids_is_unsupported(text):
    """These refusals last until an operator acts: exit code 78; a worker that ran before waits for them."""
    from redis import exceptions

    error = translate(exceptions.ResponseError(text), "redis://h")
    assert isinstance(error, UnsupportedServer)
    assert isinstance(error, CommandRefused)
    assert error.exit_code == 78
    assert error.hint


def test_an_unknown_error_at_the_start_is_waited_for(stub, worker_process):
    """A worker whose first INFO meets an unknown error logs it and waits: no restart loop with exit code 1."""
    worker = worker_process(stub(b"-ERR something odd\r\n"))
    wait_until_sync(lambda: "something odd" in worker.text(), 60, "the error in the log")
    assert worker.stop() == -15
    assert "Traceback" not in worker.text()


@pytest.fixture
def sentinel(own_server, tmp_path):
    """A Sentinel with an ACL user, and its primary."""
    primary = own_server()
    sentinel = servers.Server(servers.any_server())
    file = tmp_path / "sentinel.conf"
    file.write_text(
        f"port {sentinel.port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor queue 127.0.0.1 {primary.port} 1\n"
        "user default off\nuser app on >secret -@all +auth +ping +sentinel|master"
        " +sentinel|get-master-addr-by-name\n"
    )
    sentinel._command = [str(servers.any_server()), str(file), "--sentinel"]
    sentinel.options |= {"username": "app", "password": "secret"}
    yield sentinel.start()
    sentinel.stop()


def test_a_sentinel_may_have_users(sentinel):
    """The user of the Sentinels has a setting, and an error says that a Sentinel denies access."""
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/queue"
    given = {"REDIS_URL": url, "REDIS_SENTINEL_PASSWORD": "secret"}
    refused(
        run_command("stats", **given),
        77,
        f"the Sentinel at 127.0.0.1:{sentinel.port} denies access",
        "REDIS_SENTINEL_USERNAME",
    )
    done = run_command("stats", **given, REDIS_SENTINEL_USERNAME="app")
    assert done.returncode == 0, done.stderr


def test_plain_text_and_tls_are_told_apart(own_server, shared_server):
    """TLS to a port without it, and the reverse, end soon and with a hint that names the other scheme."""
    plain = own_server()
    done = run_command("stats", REDIS_URL=plain.url.replace("redis://", "rediss://"))
    refused(done, 69, "speaks no TLS", "use redis:// instead")
    url = shared_server("tls").url.replace("rediss://", "redis://")
    refused(run_command("stats", REDIS_URL=url), 69, "expects TLS", "rediss://")


@pytest.mark.parametrize(
    ("extensions", "days", "hint"),
    [
        ({"subjectAltName": "IP:127.0.0.1"}, 0, "renew the server's certificate"),
        ({"subjectAltName": "DNS:elsewhere"}, 2, "must contain the host"),
        ({"subjectAltName": "IP:127.0.0.1", "extendedKeyUsage": "clientAuth"}, 2, "serverAuth"),
    ],
)
async def test_a_hint_fits_the_certificate(tmp_path, extensions, days, hint):
    """Expired, made for another host, or not for servers: the hint names that, not the authority."""
    try:
        certificates = Certificates(tmp_path)
        certificates.make("odd", extensions, days)
    except servers.Unavailable as reason:
        pytest.skip(str(reason))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["odd.crt"], certificates["odd.key"])
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context
    )
    url = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    connection = Connection(QueueConfig(redis_url=url, redis_tls_ca_file=certificates["ca.crt"]))
    with pytest.raises(RedisUnreachable, match="CERTIFICATE_VERIFY_FAILED") as error:
        await connection.execute("PING")
    assert hint in error.value.hint
    await connection.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("certificate is not yet valid", "correct the clock"),
        ("self-signed certificate in certificate chain", "redis_tls_ca_file"),
        ("unable to get local issuer certificate", "redis_tls_ca_file"),
        ("Hostname mismatch, certificate is not valid for 'h'.", "must contain the host"),
    ],
)
def test_a_hint_fits_what_newer_pythons_find(text, hint):
    """Faults that this version of Python does not find, or that need another clock, have hints, too."""
    from redis import exceptions

    text = f"Error 1 connecting to h:1. [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {text}"
    error = translate(exceptions.ConnectionError(f"{text} (_ssl.c:1006)."), "rediss://h")
    assert hint in error.hint


@pytest.mark.parametrize(
    ("address", "text", "hint"),
    [
        ("redis://localhost:6379", "Connection refused", "REDIS_URL=embedded://"),
        ("redis://h:6379", "Connection refused", "check that the server runs"),
        ("redis+sentinel://h/x", "h:26379: No such master with that name", "check the service"),
        (
            "redis+sentinel://h/x",
            "h:26379: down and no other is elected yet",
            "wait for the failover",
        ),
    ],
)
def test_a_hint_fits_the_address(address, text, hint):
    """Only who has named no server reads of the embedded one; Sentinels without a primary are named."""
    from redis import exceptions

    error = translate(exceptions.ConnectionError(text), address)
    assert hint in error.hint
    assert ("embedded" in error.hint) == ("embedded" in hint)


def test_a_right_that_a_script_lacks_is_a_denial():
    """Exit code 77, also where the server names the place in the script before the reason."""
    from redis import exceptions

    reason = "ERR The user executing the script can't run this command or subcommand"
    for place in ("", "user_script:57: "):
        error = translate(exceptions.ResponseError(f"{place}{reason}"), "redis://h")
        assert error.exit_code == 77


def test_a_missing_right_leads_to_the_roles():
    """The hint of a denial names the command that prints what a role may do."""
    from redis import exceptions

    text = "this user has no permissions to run the 'xlen' command"
    error = translate(exceptions.NoPermissionError(text), "redis://h")
    assert "`aragora-q acl ROLE`" in error.hint
