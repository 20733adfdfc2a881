"""Bytes on a connection: however they come, a call gets its own replies, or an error and a new connection."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import uvloop
from redis import exceptions

from aragora_q.config.redis_url import RedisUrl
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import RedisUnreachable
from aragora_q.redis.connection import Connection
from aragora_q.redis.dialing import connector
from aragora_q.redis.options import Credentials

MEGABYTE = 1024 * 1024


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    def run(work):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(work, 60))

    return run


@asynccontextmanager
async def served_by(serve, user=""):
    """Yield a connection to a server that calls `serve(number, reader, writer)` for each connection to it."""
    count = 0

    async def accept(reader, writer):
        nonlocal count
        count += 1
        try:
            await serve(count, reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=4096)
    url = f"redis://{user}127.0.0.1:{server.sockets[0].getsockname()[1]}"
    connection = Connection(QueueConfig(redis_url=url))
    try:
        yield connection
    finally:
        await connection.close()
        server.close()


async def command(reader):
    """Return the last word of the next command, None at the end."""
    head = await reader.readline()
    words = [(await reader.readline(), await reader.readline()) for _ in range(int(head[1:] or 0))]
    return words[-1][1].strip() if words else None


def test_replies_in_single_bytes(run):
    """The server's packets end anywhere: within a length, a text, or between CR and LF."""
    texts = [b"", b"$1\r\na\r\n", b"x" * 40]

    async def serve(_number, reader, writer):
        for _ in texts:
            await command(reader)
        for byte in b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def call():
        async with served_by(serve) as connection:
            commands = [("GET", str(n)) for n in range(len(texts))]
            assert await connection.execute_all(commands) == texts

    run(call())


def test_a_long_reply_and_a_long_command(run, redis_url):
    """20 MB each way arrive whole, and the connection is used again."""
    long = b"0123456789abcdef" * (20 * MEGABYTE // 16)

    async def call():
        connection = Connection(QueueConfig(redis_url=redis_url))
        await connection.execute("SET", "long", long)
        assert await connection.execute_all([("GET", "long"), ("GET", "none")]) == [long, None]
        await connection.execute("DEL", "long")
        await connection.close()

    run(call())


def test_an_error_among_replies(run, redis_url):
    """The server's error takes the place of one reply, as redis-py's exception; the others are unaffected."""

    async def call():
        connection = Connection(QueueConfig(redis_url=redis_url))
        commands = [("SET", "a", "b"), ("INCR", "a"), ("EVALSHA", "0" * 40, 0), ("GET", "a")]
        replies = await connection.execute_all(commands)
        kinds = [bool, exceptions.ResponseError, exceptions.NoScriptError, bytes]
        assert list(map(type, replies)) == kinds
        await connection.execute("DEL", "a")
        await connection.close()

    run(call())


def test_a_cancelled_call_leaves_no_reply(run):
    """A call that is cancelled within its reply: the rest of it is not the next call's reply."""
    halved = asyncio.Event()

    async def serve(number, reader, writer):
        while (word := await command(reader)) is not None:
            if number == 1:
                writer.write(b"$6\r\nfi")
                halved.set()
                await command(reader)
                return
            writer.write(b"$%d\r\n%b\r\n" % (len(word), word))

    async def call():
        async with served_by(serve) as connection:
            first = asyncio.create_task(connection.execute("GET", "first"))
            await halved.wait()
            first.cancel()
            await asyncio.wait([first])
            assert first.cancelled()
            assert await connection.execute("GET", "second") == b"second"

    run(call())


@pytest.mark.parametrize(
    ("garbage", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "Protocol error"),
        (b"*1\r\n$x\r\n", "Bad bulk string length"),
    ],
)
def test_garbage_ends_a_connection(run, garbage, error):
    """The error shows the invalid data, and the next call uses a new connection."""

    async def serve(number, reader, writer):
        while await command(reader) is not None:
            writer.write(garbage if number == 1 else b"$1\r\na\r\n")

    async def call():
        async with served_by(serve) as connection:
            with pytest.raises(RedisUnreachable, match=error):
                await connection.execute("GET", "a")
            assert await connection.execute("GET", "a") == b"a"

    run(call())


def test_an_error_at_the_login_that_nobody_can_read(run):
    """It is named as what it is, not as a fault of Python's."""

    async def serve(_number, reader, writer):
        while await command(reader) is not None:
            writer.write(b"-MOVED x\r\n")

    async def call():
        async with served_by(serve, user=":secret@") as connection:
            with pytest.raises(RedisUnreachable, match="unexpected reply to the login"):
                await connection.execute("GET", "a")

    run(call())


def test_what_nobody_asked_for_is_no_reply(run):
    """A reply too many: the connection is not used again. A server that goes on is hung up on."""
    is_cut = asyncio.Event()

    async def serve(number, reader, writer):
        while await command(reader) is not None:
            writer.write(b"$1\r\n%d\r\n" % number)
            if number == 1:
                writer.write(b"$9\r\nunrelated\r\n")
            elif number == 2:
                try:
                    while True:
                        writer.write(b"$9\r\nunrelated\r\n" * 1000)
                        await writer.drain()
                except ConnectionError:
                    is_cut.set()

    async def call():
        async with served_by(serve) as connection:
            assert await connection.execute("GET", "a") == b"1"
            assert await connection.execute("GET", "a") == b"2"
            await is_cut.wait()
            assert await connection.execute("GET", "a") == b"3"

    run(call())


def test_a_server_that_reads_slowly(run):
    """A command of 4 MB waits for it; where it reads nothing, the call times out and its connection ends."""
    value, is_over = b"x" * (4 * MEGABYTE), asyncio.Event()

    async def serve(number, reader, writer):
        if number == 1:
            received = 0
            while received < 4 * MEGABYTE:
                received += len(await reader.read(65_536))
                await asyncio.sleep(0)
            writer.write(b"+OK\r\n")
        await is_over.wait()

    async def call():
        async with served_by(serve) as patient:
            hasty = patient.for_other_thread(timeout_seconds=3)
            assert await patient.execute("SET", "a", value) is True
            with pytest.raises(RedisUnreachable, match="no answer within 3 s"):
                await hasty.execute("SET", "a", value)
            is_over.set()
            await hasty.close()

    run(call())


def test_redis_py_logs_in_over_our_wire(run, redis_url):
    """Password, user and database are its business. If it opened its own streams, two would read replies."""

    async def call():
        credentials = Credentials("default", lambda: "any")
        options = {"protocol": 2, "driver_info": None, "db": 3, "credential_provider": credentials}
        connection = connector(RedisUrl.parse(redis_url).hosts[0], options)()
        await connection.connect()
        assert (connection._reader, connection._writer) == (None, None)
        connection.wire.write(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nINFO\r\n")
        [info] = await connection.wire.read(1)
        assert b" db=3 " in info
        await connection.wire.close()

    run(call())
