"""Names, addresses and idle connections: what is tried, what is waited for, what an error names."""

import asyncio
import gc
import select
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing

import pytest
import redis
import uvloop
from support import processes
from support.executors import succeed
from support.proxy import Proxy
from support.servers import Server, any_server, free_port, silent_address
from support.wait import wait_until, wait_until_sync
from support.workers import wait_until_registered

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import RedisUnreachable
from aragora_q.redis import dialing
from aragora_q.redis.pool import FRESH_SECONDS
from aragora_q.streams.queue import RedisStreamsQueue, create_redis_queue

LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@pytest.fixture
def names(monkeypatch):
    """Addresses by name, in the order in which a look-up returns them; a function is called instead."""
    names, resolve = {}, socket.getaddrinfo

    def look_up(host, port, *args, **kwargs):
        if host not in names:
            return resolve(host, port, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        found = names[host]
        if callable(found):
            found()
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [each for address in found for each in resolve(*address, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


@pytest.fixture
def silent():
    """An address that drops packets."""
    with silent_address() as address:
        yield address


def address_of(url):
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return host, int(port)


def run(loop, work):
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(work)


async def _enqueue(url):
    queue = await create_redis_queue(QueueConfig(redis_url=url))
    try:
        await queue.enqueue(Job({}, id="a"))
    finally:
        await queue.close()


@LOOPS
def test_every_address_of_a_name_is_tried(names, silent, redis_url, redis_client, loop):
    """A silent address and a closed port do not keep a client from the third address."""
    names["three.test"] = [silent, ("127.0.0.1", free_port()), address_of(redis_url)]
    run(loop, _enqueue("redis://three.test"))
    assert redis_client.xlen("aragora:queue:debates:stream") == 1


@LOOPS
def test_an_error_has_the_reason_of_each_address(names, loop):
    """No address answers: the message names each, and why."""
    names["dead.test"] = [("127.0.0.1", free_port()), ("127.0.0.2", free_port())]
    with pytest.raises(RedisUnreachable) as error:
        run(loop, _enqueue("redis://dead.test"))
    assert str(error.value).endswith(
        "redis://dead.test:6379: connection refused (127.0.0.1, 127.0.0.2)"
    )


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis+sentinel"])
def test_a_failed_look_up_is_named(names, scheme):
    """An unknown name is not reported as a failure to connect, wherever it comes from."""
    names["unknown.test"] = lambda: None
    with pytest.raises(
        RedisUnreachable, match=r"look-up of the name 'unknown.test' failed: try"
    ) as error:
        asyncio.run(_enqueue(f"{scheme}://unknown.test/{'s' if 'sentinel' in scheme else ''}"))
    assert "name servers" in error.value.hint


@LOOPS
def test_a_hanging_look_up_can_be_cancelled(names, monkeypatch, loop):
    """Neither the call nor the event loop waits for the resolver; the message names the look-up."""
    over = threading.Event()
    names["hangs.test"] = over.wait
    monkeypatch.setattr("aragora_q.redis.options.CONNECT_TIMEOUT_SECONDS", 1.0)

    async def call():
        queue = RedisStreamsQueue(QueueConfig(redis_url="redis://hangs.test"))
        with pytest.raises(RedisUnreachable, match=r"look-up of the name 'hangs.test' within 1 s"):
            await queue.get_status("a")
        monkeypatch.setattr("aragora_q.redis.options.CONNECT_TIMEOUT_SECONDS", 60.0)
        patient = RedisStreamsQueue(QueueConfig(redis_url="redis://hangs.test"))
        calls = [asyncio.create_task(patient.get_status("a")) for _ in range(5)]
        await asyncio.sleep(0.1)
        assert sum(thread.name == "look-up" for thread in threading.enumerate()) == 1
        for each in calls:
            each.cancel()
        await asyncio.wait(calls, timeout=60)
        assert all(each.cancelled() for each in calls)
        await queue.close()
        await patient.close()

    try:
        run(loop, call())
    finally:
        over.set()


HANGING_RESOLVER = """\
import pathlib, socket, time
resolve = socket.getaddrinfo
def look_up(host, *args, **kwargs):
    if host == "hangs.test" and not kwargs.get("flags"):
        pathlib.Path("looking-up").touch()
        time.sleep(120)
    return resolve(host, *args, **kwargs)
socket.getaddrinfo = look_up
"""


def test_signals_end_a_process_whose_look_up_hangs(tmp_path):
    """Ctrl-C ends a command and SIGTERM a worker that waits for Redis at once, not with the resolver."""
    (tmp_path / "sitecustomize.py").write_text(HANGING_RESOLVER)
    environment = processes.env(REDIS_URL="redis://hangs.test", PYTHONPATH=str(tmp_path))
    for command, marker, number in (
        (["stats"], None, signal.SIGINT),
        (["worker", "--metrics-port", "0"], "waiting for it", signal.SIGTERM),
    ):
        (tmp_path / "looking-up").unlink(missing_ok=True)
        log = tmp_path / f"{command[0]}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                processes.cli(*command), env=environment, stdout=stderr, stderr=stderr, cwd=tmp_path
            )
        try:
            wait_until_sync((tmp_path / "looking-up").exists, 60, "the look-up")
            if marker:
                wait_until_sync(
                    lambda m=marker, f=log: m in f.read_text(), 60, "the worker to wait"
                )
            process.send_signal(number)
            assert process.wait(60) == -number, log.read_text()
        finally:
            process.kill()
            process.wait()
        assert "Traceback" not in log.read_text()


async def test_the_announced_server_is_named(own_server):
    """A node that the cluster announces at an address where no server listens: the error names both."""
    dead = free_port()
    node = own_server(
        "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.9",
        "--cluster-announce-port", str(dead),
    )  # fmt: skip
    with node.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        await wait_until(
            lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok",
            60,
            "the cluster",
        )
    url = f"redis+cluster://127.0.0.1:{node.port}"
    with pytest.raises(RedisUnreachable) as error:
        await _enqueue_once(url)
    expected = f"Redis at 127.0.0.9:{dead} (announced by {url}): connection refused"
    assert expected in str(error.value)


def test_addresses_of_ipv6(own_server, tmp_path):
    """A server and a Sentinel at ::1, which announces ::1: the URL and the announced address are used."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as reason:
        pytest.skip(f"no IPv6 on this machine: {reason}")
    server = own_server("--bind", "127.0.0.1", "::1")
    asyncio.run(_enqueue(f"redis://[::1]:{server.port}"))
    sentinel = Server(any_server())
    file = tmp_path / "sentinel.conf"
    file.write_text(
        f"port {sentinel.port}\nbind 127.0.0.1 ::1\ndir {tmp_path}\n"
        f"sentinel monitor queue ::1 {server.port} 1\n"
    )
    sentinel._command = [str(any_server()), str(file), "--sentinel"]
    sentinel.start()
    try:
        asyncio.run(_enqueue(f"redis+sentinel://[::1]:{free_port()},[::1]:{sentinel.port}/queue"))
    finally:
        sentinel.stop()
    with server.client() as client:
        assert client.xlen("aragora:queue:debates:stream") == 1


async def _enqueue_once(url):
    queue = RedisStreamsQueue(QueueConfig(redis_url=url))
    try:
        await queue.enqueue(Job({}, id="a"))
    finally:
        await queue.close()


SET_UP = {"NULL", "auth", "hello", "client|setinfo", "client|setname", "select"}
"""The last command of a connection that is still being opened; NULL during the TLS handshake."""


@pytest.mark.parametrize("kind", ["tls", "debian"])
async def test_a_closed_idle_connection_is_no_fault(
    shared_server, new_harness, worker_pool, kind, caplog
):
    """A server that closes idle connections: no failed renewal, no log line, no error is counted."""
    backend = shared_server(kind)
    harness = new_harness(
        redis_url=backend.url,
        client=backend.admin_client(),
        **backend.settings,
        claim_idle_ms=12_000,
    )
    worker = worker_pool.start(harness, succeed)
    await wait_until_registered(harness, worker)

    def close_idle():
        if time.monotonic() - worker.keeper.last_answer_at > 2:
            return []  # the next renewal, three seconds after the last one, must not meet this
        idle = [
            client["id"]
            for client in harness.redis.client_list(_type="normal")
            if "b" not in client["flags"]
            and client["cmd"] not in SET_UP  # a connection that is being opened is not idle
            and int(client["idle"]) >= 1
        ]
        for number in idle:
            harness.redis.client_kill_filter(_id=number)
        return idle

    for _ in range(2):
        await wait_until(close_idle, what="an idle connection")
        answered_at = worker.keeper.last_answer_at
        await wait_until(lambda at=answered_at: worker.keeper.last_answer_at > at, 60, "a renewal")
    assert worker.get_stats()["redis_error"] is None
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


async def _cannot_reach(serve, match):
    """Enqueue with TLS to a server whose connections `serve` handles; the error must match."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(RedisUnreachable, match=match):
            await _enqueue_once(f"rediss://127.0.0.1:{port}")
    finally:
        server.close()


@LOOPS
def test_a_connection_closed_in_its_tls_handshake_is_named(loop):
    """A server that closes a connection during the TLS handshake: the error says so."""

    async def close(reader, writer):
        await reader.read(1)
        writer.close()

    run(loop, _cannot_reach(close, "TLS handshake"))


@LOOPS
def test_a_server_that_greets_before_tls_is_named(monkeypatch, loop):
    """A greeting in plain text that is there before the TLS handshake begins: the error says so."""

    async def greet(reader, writer):
        writer.write(b"-DENIED Redis is running in protected mode\r\n")
        writer.close()

    async def connect_late(*args):
        connected = await connect(*args)
        await wait_until(lambda: select.select([connected], [], [], 0)[0], what="the greeting")
        return connected

    connect = dialing._connect_to_any
    monkeypatch.setattr(dialing, "_connect_to_any", connect_late)
    run(loop, _cannot_reach(greet, "speaks no TLS"))


@LOOPS
def test_a_reset_idle_connection_is_noticed(redis_url, loop):
    """A proxy that resets idle connections: the next call, of any kind, uses a new one."""

    async def call():
        proxy = await Proxy(address_of(redis_url)[1]).start()
        queue = RedisStreamsQueue(QueueConfig(redis_url=proxy.url))
        for n in range(5):
            await queue.enqueue(Job({}, id=f"j{n}"))
            proxy.cut()
            await asyncio.sleep(0.05)
        await queue.close()
        await proxy.stop()

    run(loop, call())


class _DropsOnce(Proxy):
    """Closes the connection before one reply, and no other."""

    @property
    def hits(self):
        return self._hits

    @hits.setter
    def hits(self, count):
        self._hits = count
        self.mode = "pass"

    def drop(self, match):
        self.mode, self.match = "drop_reply", match


@LOOPS
def test_a_read_is_sent_again_when_an_idle_connection_ends(redis_url, loop):
    """The end of an idle connection meets a command: a read is repeated silently, a write is not."""

    async def call():
        proxy = await _DropsOnce(address_of(redis_url)[1]).start()
        queue = RedisStreamsQueue(QueueConfig(redis_url=proxy.url))
        await queue.get_status("a")
        proxy.drop(b"EVALSHA")
        with pytest.raises(RedisUnreachable):
            await queue.enqueue(Job({}, id="a"))
        assert await queue.get_status("a") == "pending"
        proxy.drop(b"PTTL")
        assert await queue.get_status("a") == "pending"
        assert proxy.hits == 2
        await queue.close()
        await proxy.stop()

    run(loop, call())


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_look_up_at_the_limit_on_threads_is_not_waited_for(
    names, redis_url, redis_client, monkeypatch, scheme
):
    """It fails at once with this reason, and leaves nothing that the next one waits for."""
    names["threads.test"] = [address_of(redis_url)]
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", _refuse_thread)
        with pytest.raises(RedisUnreachable, match="'threads.test' failed: can't start new thread"):
            asyncio.run(_enqueue(f"{scheme}://threads.test"))
    asyncio.run(_enqueue("redis://threads.test"))
    assert redis_client.xlen("aragora:queue:debates:stream") == 1


def _refuse_thread(_thread):
    raise RuntimeError("can't start new thread")


@LOOPS
def test_a_connection_that_was_closed_between_two_runs_of_the_loop_is_replaced(redis_url, loop):
    """Programs without an event loop run one for each call, and it reads nothing in between."""
    queue = RedisStreamsQueue(QueueConfig(redis_url=redis_url))
    runner = loop()
    runner.run_until_complete(queue.enqueue(Job({}, id="a")))
    with closing(redis.Redis.from_url(redis_url)) as client:
        client.client_kill_filter(_type="normal", skipme=True)
        time.sleep(2 * FRESH_SECONDS)
        runner.run_until_complete(queue.enqueue(Job({}, id="b")))
        assert client.hget(queue.connection.keys.counters, "enqueued") == b"2"
    runner.run_until_complete(queue.close())
    runner.close()


async def _cancel(_queue, call):
    call.cancel()


async def _close(queue, _call):
    await queue.close()


async def _cancel_and_close(queue, call):
    call.cancel()
    await queue.close()


INTERRUPTS = pytest.mark.parametrize("interrupt", [_cancel, _close, _cancel_and_close])
"""What may happen to a queue and its call at any turn of the event loop."""


async def _interrupt(settings, interrupt, turns):
    """Interrupt the first call of a queue after so many turns; another queue connects then."""
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    queue, other = (RedisStreamsQueue(QueueConfig(**settings)) for _ in range(2))
    call = asyncio.create_task(queue.get_status("a"))
    for _ in range(turns):
        await asyncio.sleep(0)
    await interrupt(queue, call)
    await asyncio.gather(call, return_exceptions=True)
    assert await other.get_status("a") is None
    await asyncio.gather(queue.close(), other.close())
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not faults


@LOOPS
@INTERRUPTS
def test_a_call_that_is_interrupted_while_it_connects_harms_no_other(
    shared_server, loop, interrupt
):
    """Cancelled or closed at any step of a TLS handshake: other connections open, and nothing goes on."""
    backend = shared_server("tls")
    for turns in range(1, 21):
        run(loop, _interrupt({"redis_url": backend.url, **backend.settings}, interrupt, turns))


@LOOPS
@INTERRUPTS
def test_a_call_that_is_interrupted_while_it_connects_leaves_no_socket(
    names, redis_url, silent, monkeypatch, loop, interrupt
):
    """Of the addresses that are tried at a time, none is left to the garbage collector, which would warn."""
    monkeypatch.setattr(dialing, "HEAD_START_SECONDS", 0)
    names["two.test"] = [silent, address_of(redis_url)]
    for turns in range(1, 13):
        run(loop, _interrupt({"redis_url": "redis://two.test"}, interrupt, turns))
    gc.collect()
