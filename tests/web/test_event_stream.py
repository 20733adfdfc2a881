"""The response that sends events over HTTP: to clients that leave, that do not read, and that are too many."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import httpx2
import pytest
from support.event_streams import Reader
from support.wait import wait_until

from aragora_q.web import server
from aragora_q.web.app import create_app
from aragora_q.web.console import open_console
from aragora_q.web.roles import Actor, Role

EVENTS = "/api/v1/queues/debates/events"


class Served:
    """A console on a free port of loopback, whose requests come from `actor`."""

    def __init__(self, console):
        self.console = console
        self.actor = Actor("alice", Role.OPERATOR, "127.0.0.1")
        self.app = create_app(console)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.server = server.create_server(self)
        self.client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.address[1]}", trust_env=False, timeout=30
        )

    def stop(self):
        """The server stops."""

    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {})["actor"] = self.actor
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def events(self, path=EVENTS, **options):
        async with self.client.stream("GET", path, **options) as response:
            assert response.status_code == 200
            yield Reader(response.aiter_raw())


@pytest.fixture
async def served(harness):
    async with open_console(harness.config) as console:
        served = Served(console)
        task = asyncio.create_task(served.server.serve([served.socket]))
        await wait_until(lambda: served.server.started and console.feed.is_connected)
        yield served
        await served.client.aclose()
        console.feed.end_streams()
        served.server.should_exit = True
        await task


async def test_a_browser_resumes(served, harness):
    """The header Last-Event-ID, or `after` in the address, says where a stream goes on; the header is newer."""
    await harness.enqueue("a")
    async with served.events(EVENTS + "?after=0") as reader:
        assert (await reader.next())["id"] == "a"
        last = reader.last_event_id
    await harness.queue.cancel("a")
    async with served.events(EVENTS + "?after=0", headers={"Last-Event-ID": last}) as reader:
        assert (await reader.next())["event"] == "cancelled"
    async with served.events(EVENTS + "?job=b&after=0") as reader:
        await harness.enqueue("b")
        assert (await reader.next())["id"] == "b"


async def test_a_page_learns_that_there_is_news(served, harness):
    """A page's stream says only that something happened, in the queue or to its job; it can resume."""
    async with served.events("/events?job=b") as reader:
        first = asyncio.create_task(reader.next())
        await wait_until(lambda: reader.last_event_id)
        await harness.enqueue("a")
        await harness.enqueue("b")
        assert await first == {"event": "changed"}
        last = reader.last_event_id
    await harness.queue.cancel("b")
    async with served.events("/events", headers={"Last-Event-ID": last}) as reader:
        assert await reader.next() == {"event": "changed"}


async def test_errors(served):
    """What is not an event id, or a stream too many, is an error with its status, not a stream."""
    answer = await served.client.get(EVENTS, headers={"Last-Event-ID": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-payload")
    served.console.feed._max_streams = 0
    answer = await served.client.get(EVENTS)
    assert (answer.status_code, answer.json()["code"]) == (503, "too-many-streams")
    assert answer.headers["retry-after"]


async def test_headers(served):
    """Caches and proxies are asked to pass each event on at once, and to keep none."""
    async with served.client.stream("GET", "/events") as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in response.headers


async def test_a_client_that_leaves_frees_its_place(served):
    """A closed connection ends its stream at once, and no task is left."""
    async with served.events(), served.events():
        await wait_until(lambda: served.console.feed.streams == 2)
    await wait_until(lambda: served.console.feed.streams == 0)


async def test_a_client_that_does_not_read_is_dropped(served, harness, monkeypatch):
    """A client that leaves its events unread takes no memory for them, and loses its place after a while."""
    monkeypatch.setattr(server, "READ_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, served.address)
        await loop.sock_sendall(
            client, f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        await wait_until(lambda: served.console.feed.streams == 1)
        progress = {"event": "progress", "ids": "a", "data": json.dumps("x" * 60_000)}

        def is_dropped():
            harness.redis.xadd(harness.keys.events, progress, maxlen=10)
            return served.console.feed.streams == 0

        await wait_until(is_dropped)


async def test_the_server_stops_while_streams_are_open(served):
    """Open streams end when the console stops, so that it need not wait for their clients."""
    async with served.events() as reader:
        await wait_until(lambda: served.console.feed.streams == 1)
        served.console.feed.end_streams()
        assert await reader.next() is None
