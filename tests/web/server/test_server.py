"""The HTTP server: clients that are slow or many, and how it ends."""

import asyncio
import contextlib
import time

import pytest
from support import consoles, servers
from support.wait import wait_until

from aragora_q.observability.web_metrics import WebMetrics
from aragora_q.web import guard, server
from aragora_q.web.auth import Auth, Proxies
from aragora_q.web.guard import Guard, Hosts
from aragora_q.web.roles import Role
from aragora_q.web.tokens import TokenFile

HEAD = b"GET /login HTTP/1.1\r\nHost: localhost\r\n\r\n"
DRIPS = [bytes([c]) for c in HEAD[:-2] + b"X: " + b"x" * 80]
"""A head that takes 12 seconds with a pause of 0.1 after each byte."""

POST = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"

WAITS = {"/logout": lambda: asyncio.sleep(60)}
"""What is awaited before the answer, by path."""


async def application(scope, receive, send):
    """Answers with an endless stream, with more than a client reads, or with what it received."""
    if scope["type"] != "http":
        return
    is_stream = scope["path"] in ("/healthz", "/events")
    headers = [(b"content-type", b"text/event-stream")] if is_stream else []
    received = 0
    if scope["path"] in WAITS:
        await WAITS[scope["path"]]()
    while scope["method"] == "POST":
        message = await receive()
        received += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if is_stream:
        while True:
            await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
            await asyncio.sleep(0.01)
    size = 50_000_000 if scope["path"] == "/metrics" else 10
    await send({"type": "http.response.body", "body": b"x" * size})


@contextlib.asynccontextmanager
async def serving(tokens=None):
    """Yields the server and its port."""
    port = servers.free_port()
    auth = Auth(tokens, Proxies([], {}), highest=Role.VIEWER, port=port, is_loopback=True)
    guarded = Guard(application, auth, Hosts("127.0.0.1", []), WebMetrics("debates"), 1000)
    http = server.create_server(guarded)
    http.guard = guarded
    with server.listen("127.0.0.1", port) as sock:
        task = asyncio.create_task(http.serve(sockets=[sock]))
        await wait_until(lambda: http.started)
        yield http, port
        http.should_exit = True
        await asyncio.wait_for(task, 30)


async def seconds_until_closed(port, *parts, pause=0.0):
    """Send parts with pauses, but the first three at once; return how long the server keeps the connection,
    and what it sent.
    """
    began_at, received = time.monotonic(), bytearray()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send():
        for number, part in enumerate(parts):
            writer.write(part)
            await asyncio.sleep(pause if number > 1 else 0.001)

    sending = asyncio.create_task(send())
    with contextlib.suppress(ConnectionError):
        while part := await asyncio.wait_for(reader.read(65536), 30):
            received += part
    sending.cancel()
    writer.transport.abort()
    return time.monotonic() - began_at, bytes(received)


async def test_slow_clients_are_disconnected(monkeypatch):
    """A client that sends its head, its next head or its body too slowly is disconnected; others are not."""
    monkeypatch.setattr(server, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(server, "BODY_SECONDS", 1.0)
    async with serving() as (_, port):
        silent, dripping, second, body, drip_body, whole = await asyncio.gather(
            seconds_until_closed(port),
            seconds_until_closed(port, *DRIPS, pause=0.1),
            seconds_until_closed(port, HEAD, *DRIPS, pause=0.1),
            seconds_until_closed(port, POST),
            seconds_until_closed(port, POST, *[b"x"] * 120, pause=0.1),
            seconds_until_closed(port, POST, *[b"x" * 10_000] * 10, pause=0.15),
        )
    for seconds, received in (silent, dripping, body, drip_body):
        assert seconds < 10, "less than it takes to send all drips"
        assert received == b""
    assert second[0] < 10
    assert second[1].count(b"HTTP/1.1 200") == 1
    assert whole[1].count(b"HTTP/1.1 200") == 1


async def test_a_client_that_does_not_read_is_disconnected(monkeypatch):
    """An answer that its client does not read keeps neither memory nor a connection."""
    monkeypatch.setattr(server, "READ_SECONDS", 1.0)
    async with serving() as (http, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(HEAD.replace(b"/login", b"/metrics"))
        await wait_until(lambda: http.server_state.connections)
        await wait_until(lambda: not http.server_state.connections)
        writer.transport.abort()


async def test_idle_connections_make_room_for_new_ones(monkeypatch):
    """At the limit, the oldest idle connection is closed; requests under way go on."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)
    async with serving() as (http, port):
        stream_reader, stream_writer = await asyncio.open_connection("127.0.0.1", port)
        stream_writer.write(HEAD.replace(b"/login", b"/healthz"))
        await stream_reader.readuntil(b":\n\n")
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
        await wait_until(lambda: len(http.server_state.connections) <= 5)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await stream_reader.readuntil(b":\n\n")
        for _, each in [*idle, (reader, writer), (stream_reader, stream_writer)]:
            each.transport.abort()


@pytest.fixture
def patient(monkeypatch):
    """A server that, on a slow machine, too, is stopped by its guard before it gives up."""
    assert guard.STOP_SECONDS < server.STOP_SECONDS
    monkeypatch.setattr(server, "STOP_SECONDS", 60.0)


@pytest.mark.usefixtures("patient")
async def test_open_streams_end_when_the_process_stops():
    """A stream that does not end by itself is ended soon, as a complete answer."""
    async with serving() as (http, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD.replace(b"/login", b"/healthz"))
        await reader.readuntil(b":\n\n")
        http.should_exit = True
        rest = await asyncio.wait_for(reader.read(), 30)
        assert rest.endswith(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()


@pytest.mark.usefixtures("patient")
async def test_requests_that_wait_are_answered_when_the_process_stops():
    """A request that waits, such as for the end of a job, gets 503 with Retry-After."""
    async with serving() as (http, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD.replace(b"/login", b"/logout"))
        await wait_until(lambda: http.guard._requests)
        http.should_exit = True
        answer = await asyncio.wait_for(reader.read(), 30)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in answer
        writer.close()
        await writer.wait_closed()


async def test_answers_end_with_the_login(monkeypatch, tmp_path):
    """When a token is removed, its open streams end, as complete answers, and what waits gets 401."""
    monkeypatch.setattr(guard, "RECHECK_SECONDS", 0.1)
    may_answer = asyncio.Event()
    monkeypatch.setitem(WAITS, "/wait", may_answer.wait)
    file = tmp_path / "tokens"
    token = consoles.write_tokens(file, Role.VIEWER)[Role.VIEWER]
    head = HEAD.replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    async with serving(TokenFile(file)) as (http, port):
        stream, stream_writer = await asyncio.open_connection("127.0.0.1", port)
        waiting, waiting_writer = await asyncio.open_connection("127.0.0.1", port)
        stream_writer.write(head.replace(b"/login", b"/events"))
        await stream.readuntil(b":\n\n")
        await asyncio.sleep(0.3)
        await stream.readuntil(b":\n\n")
        waiting_writer.write(head.replace(b"/login", b"/wait"))
        await wait_until(lambda: len(http.guard._requests) == 2)
        await asyncio.sleep(0.2)
        file.write_text("")
        await asyncio.wait_for(stream.readuntil(b"0\r\n\r\n"), 30)
        may_answer.set()
        assert (await asyncio.wait_for(waiting.readline(), 30)).startswith(b"HTTP/1.1 401")
        for writer in (stream_writer, waiting_writer):
            writer.transport.abort()


async def test_head_of_a_stream_ends():
    """HEAD of a stream of events is answered without the stream."""
    async with serving() as (http, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD.replace(b"GET /login", b"HEAD /healthz"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await wait_until(lambda: not http.guard._requests)
        writer.transport.abort()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 300])
def test_an_address_that_cannot_be_served_is_a_clear_error(host):
    """The error names the address and the option."""
    from aragora_q.errors import ConfigError

    with pytest.raises(ConfigError, match="cannot serve the console on ") as caught:
        server.listen(host, 8080)
    assert caught.value.hint == "choose another address: --listen HOST:PORT"
