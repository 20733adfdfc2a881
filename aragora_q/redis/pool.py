"""Connections to one server: send commands, read replies, one deadline per call.

Why not redis-py's own pool: on the machine of `benchmarks/RESULTS.md` a call costs 85 µs of client CPU
through it and 70 µs here, and single enqueues would miss their required ratio. Of redis-py we use the
connections (dialing, TLS, credentials, parsing). Used by `client.py`; raises redis-py's errors.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import hiredis
import redis.asyncio
from redis import exceptions

from aragora_q.errors import QueueClosed
from aragora_q.redis import replies
from aragora_q.redis.errors import TOO_LONG

MAX_CONNECTIONS = 64
"""Connections to one server at most; further callers wait for one."""

MIN_BULK_LIMIT_BYTES = 1024 * 1024
"""The lowest `proto-max-bulk-len` a server can have: it takes every value up to this size."""

SIZE_CHECK_SECONDS = 2.0
"""How long a server may take to say whether it takes a value of some size."""

SWEEP_SECONDS = 0.5
"""How late at most a call times out. One timer serves all calls: one timer each costs 10 % more CPU."""

Command = Sequence[Any]

_CONVERTERS: Mapping[Any, Any] = {
    name: convert
    for name, convert in redis.asyncio.Redis(protocol=2).response_callbacks.items()
    if name != "XREAD"  # `Connection.read_blocking` converts it itself
}
"""By command, what turns its reply into the Python value that redis-py's clients return."""


class ConnectionPool:
    """Connections to one server. Each call uses one connection from its first byte to its last.

    A pool belongs to the event loop of its first call. With `must_be_primary`, calls raise ReadOnlyError
    if the server is a replica when a connection is opened.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        timeout_seconds: float,
        *,
        must_be_primary: bool = False,
    ) -> None:
        self._connect = connect
        self._timeout_seconds = timeout_seconds
        self._must_be_primary = must_be_primary
        self._idle: list[Any] = []
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._is_closed = False
        self._is_aborted = False
        self._deadlines: dict[asyncio.Timeout, float] = {}
        self._is_sweeping = False

    async def execute(
        self,
        commands: Sequence[Command],
        block_seconds: float = 0.0,
        *,
        may_repeat: bool = False,
    ) -> list[Any]:
        """Send commands together and return their replies; the server's errors are in the list.

        `block_seconds` is how long the commands may block in the server, beyond the pool's time limit.
        With `may_repeat`, they are sent again on a new connection if an idle one turns out to be closed:
        servers and proxies close idle connections, and the end of one may arrive after the commands left.
        Raises redis-py's ConnectionError and TimeoutError, and QueueClosed after `abort`; commands may
        have been executed.
        """
        async with self._free:
            if self._is_aborted:
                raise closed_error()
            connection = self._idle.pop() if self._idle else self._connect()
            try:
                # One deadline for all, connecting included. redis-py's own creates a task per send, and
                # on Python 3.11 that task swallows the caller's cancellation.
                async with asyncio.timeout(None) as deadline:
                    self._watch(deadline, self._timeout_seconds + block_seconds)
                    try:
                        is_reused = await _is_usable(connection)
                        if not is_reused:
                            await self._open(connection)
                        try:
                            replies = await _round_trip(connection, commands)
                        except (exceptions.ConnectionError, OSError, RuntimeError):
                            if not (is_reused and may_repeat):
                                raise
                            await self._open(connection)
                            replies = await _round_trip(connection, commands)
                    finally:
                        self._deadlines.pop(deadline, None)
            except BaseException as error:
                await connection.disconnect(nowait=True)  # replies still to come have no reader
                explained = await self._explained(error, connection, commands)
                if explained is error:
                    raise
                raise explained from error
            if self._is_closed:
                await connection.disconnect()
            else:
                self._idle.append(connection)
            return replies

    async def _open(self, connection: Any) -> None:
        await connection.disconnect(nowait=True)
        await connection.connect()
        if not self._must_be_primary:
            return
        [reply] = await _round_trip(connection, [("ROLE",)])
        if isinstance(reply, exceptions.NoPermissionError):
            return  # the user's ACL rules predate this check and lack +role
        if isinstance(reply, Exception):
            raise reply
        if reply[0] != b"master":
            raise exceptions.ReadOnlyError("READONLY the server has become a replica")

    async def _explained(
        self, error: BaseException, connection: Any, commands: Sequence[Command]
    ) -> BaseException:
        """Return the error to raise for one that ended a call."""
        if self._is_aborted and isinstance(error, Exception):
            return closed_error()
        if isinstance(error, TimeoutError):
            awaited = getattr(connection, "awaited", "answer")
            return exceptions.TimeoutError(f"no {awaited} within {self._timeout_seconds:g} s")
        if isinstance(error, exceptions.ConnectionError | OSError | RuntimeError):
            if refusal := await self.size_refusal(_longest(commands)):
                return refusal
            if isinstance(error, RuntimeError):  # uvloop, when it writes to a closed connection
                return exceptions.ConnectionError(f"connection lost: {error}")
        return error

    def _watch(self, deadline: asyncio.Timeout, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._deadlines[deadline] = loop.time() + seconds
        if not self._is_sweeping:
            self._is_sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Expire the deadlines of calls that take too long; continue while there are calls."""
        now = loop.time()
        for deadline in [deadline for deadline, due in self._deadlines.items() if due <= now]:
            del self._deadlines[deadline]
            deadline.reschedule(now)
        self._is_sweeping = bool(self._deadlines)
        if self._is_sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    async def size_refusal(self, length: int) -> exceptions.ResponseError | None:
        """Return the server's refusal of a value of `length` bytes; None if it takes it or cannot say.

        The length is announced on a new connection, the value is not sent. A server that refuses a value
        closes the connection while the value is being sent, mostly before its reason is read; without
        this check the call would look like an outage and be retried forever.
        """
        if length <= MIN_BULK_LIMIT_BYTES:
            return None
        connection = self._connect()
        try:
            async with asyncio.timeout(SIZE_CHECK_SECONDS):
                await connection.connect()
                announcement = b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % length
                await connection.send_packed_command(announcement, check_health=False)
                await connection.read_response()
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            is_refusal = str(error).startswith(TOO_LONG)
            return exceptions.ResponseError(f"{error} ({length} bytes)") if is_refusal else None
        finally:
            await connection.disconnect(nowait=True)
        return None

    async def close(self) -> None:
        """Close idle connections; a call under way closes its connection when it ends."""
        self._is_closed = True
        for connection in self._idle:
            await connection.disconnect()
        self._idle.clear()

    async def abort(self) -> None:
        """Close all connections; calls under way, and those that wait for a connection, raise QueueClosed."""
        self._is_aborted = True
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            deadline.reschedule(now)
        self._deadlines.clear()
        await self.close()

    def abandon(self) -> None:
        """Close the sockets of idle connections after the event loop of this pool was closed."""
        for connection in self._idle:
            with suppress(OSError, AttributeError, TypeError):  # uvloop has closed them itself
                connection._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)  # noqa: SLF001
            connection._writer = None  # noqa: SLF001 - redis-py would close it in the closed event loop
        self._idle.clear()


def closed_error() -> QueueClosed:
    """Return the error of a call on a closed queue."""
    return QueueClosed("the queue is closed", hint="open a new one with create_redis_queue")


def _longest(commands: Sequence[Command]) -> int:
    return max(
        len(value) for command in commands for value in command if isinstance(value, bytes | str)
    )


def _texts(args: Sequence[Any]) -> list[Any]:
    """Return arguments with integers as text.

    hiredis crashes if a signal handler raises while it formats one, which is when Python runs handlers.
    """
    return [str(arg) if type(arg) is int else arg for arg in args]


async def _round_trip(connection: Any, commands: Sequence[Command]) -> list[Any]:
    packed = [hiredis.pack_command((*name.split(), *_texts(args))) for name, *args in commands]
    await connection.send_packed_command(packed, check_health=False)
    return [await _read_reply(connection, command) for command in commands]


async def _is_usable(connection: Any) -> bool:
    """Return True if it is open and has nothing to read: one closed by the server has its end to read."""
    try:
        if not connection.is_connected or connection._writer.is_closing():  # noqa: SLF001 - after a reset
            return False
        return not await connection.can_read()
    except (exceptions.ConnectionError, OSError):
        return False


async def _read_reply(connection: Any, command: Command) -> Any:
    """Return a reply, or the server's error. Raises InvalidResponse for what the command cannot reply."""
    name = command[0]
    try:
        reply = await connection.read_response()
    except exceptions.ResponseError as error:
        if str(error).startswith("Protocol error"):  # the server is about to close the connection
            raise
        return error
    except replies.MALFORMED as error:  # of redis-py, which cannot read the server's error
        raise exceptions.InvalidResponse(f"unexpected reply to {name}: {error}") from error
    if name == "ZRANGE" and command[-1] == "WITHSCORES":
        name = "ZRANGE WITHSCORES"
    shape, convert = replies.COMMANDS.get(name), _CONVERTERS.get(command[0])
    if shape is not None:
        replies.check(reply, shape, command[0])
    try:
        return convert(reply) if convert else reply
    except replies.MALFORMED:
        raise replies.unexpected(reply, command[0]) from None
