"""Connections to one server: send commands, read replies, one deadline per call.

Why not redis-py's own pool: its client surrounds each command with retries, instrumentation and coroutines, and
its connections read through asyncio's streams; single enqueues would miss their required ratio. `dialing.py`
opens connections, `wire.py` carries the bytes. Used by `client.py`; raises redis-py's errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis import exceptions

from aragora_q.errors import QueueClosed
from aragora_q.redis import replies
from aragora_q.redis.errors import TOO_LONG
from aragora_q.redis.wire import Wire

MAX_CONNECTIONS = 64
"""Connections to one server at most; further callers wait for one."""

MIN_BULK_LIMIT_BYTES = 1024 * 1024
"""The lowest `proto-max-bulk-len` a server can have: it takes every value up to this size."""

SIZE_CHECK_SECONDS = 2.0
"""How long a server may take to say whether it takes a value of some size."""

SWEEP_SECONDS = 0.5
"""How late at most a call times out. One timer serves all calls: one timer each costs 10 % more CPU."""

FRESH_SECONDS = 0.05
"""A connection that has been idle for less is used without asking the system whether it was closed."""

Command = Sequence[Any]
"""Its name, which may be a Head, and operands."""

_CONVERTERS: Mapping[Any, Any] = {
    name: convert
    for name, convert in redis.asyncio.Redis(
        protocol=2, driver_info=None
    ).response_callbacks.items()
    if name != "XREAD"  # `Connection.read_blocking` converts it itself
}
"""By command, what turns its reply into the Python value that redis-py's clients return."""


class Head(str):
    """The name of a command, with its first operands: packed once, for calls that differ in the others."""

    __slots__ = ("packed", "size")

    packed: bytes
    size: int
    """The number of values in `packed`."""

    @classmethod
    def of(cls, name: str, *operands: Any) -> Head:
        """Return a head that can begin many commands."""
        head = cls(name)
        head.packed = _packed_values([name, *operands])
        head.size = 1 + len(operands)
        return head


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
        self._idle: list[Wire] = []
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._is_closed = False
        self._is_aborted = False
        self._due: dict[Wire, float] = {}  # of each open wire: when its last call times out
        self._opening: set[asyncio.Timeout] = set()
        self._is_sweeping = False

    async def execute(
        self,
        commands: Sequence[Command],
        block_seconds: float = 0.0,
        *,
        may_repeat: bool = False,
    ) -> list[Any]:
        """Send commands together and return their replies; the server's errors are in the list.

        `block_seconds` is how long the commands may block in the server, beyond the pool's time limit, which
        includes connecting. With `may_repeat`, they are sent again on a new connection if an idle one turns
        out to be closed: servers and proxies close idle connections, and the end of one may arrive after
        the commands left. Raises redis-py's ConnectionError and TimeoutError, and QueueClosed after `abort`;
        commands may have been executed.
        """
        await self._free.acquire()
        try:
            packed = _packed(commands)
            now = asyncio.get_running_loop().time()
            due = now + self._timeout_seconds + block_seconds
            wire = self._reusable(now)
            if wire is not None:
                try:
                    return await self._exchange(wire, commands, packed, due)
                except exceptions.ConnectionError:
                    if not may_repeat:
                        raise
            wire = await self._open(due)
            return await self._exchange(wire, commands, packed, due)
        except Exception as error:
            if self._is_aborted:
                raise closed_error() from None
            may_be_size = isinstance(error, exceptions.ConnectionError) or _is_too_long(error)
            if may_be_size and (refusal := await self.size_refusal(_longest(commands))):
                raise refusal from error
            raise
        finally:
            self._free.release()

    def _reusable(self, now: float) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()
            # The event loop may not have run since: programs without one run it for each call.
            is_fresh = now - wire.idle_since < FRESH_SECONDS
            if wire.is_usable and (is_fresh or not wire.has_unread()):
                return wire
            self._drop(wire)
        return None

    async def _open(self, due: float) -> Wire:
        if self._is_aborted:
            raise closed_error()
        connection = self._connect()
        try:
            async with asyncio.timeout_at(due) as deadline:
                self._opening.add(deadline)
                try:
                    await connection.connect()
                    wire: Wire = connection.wire
                    if self._must_be_primary:
                        await _check_primary(wire)
                finally:
                    self._opening.discard(deadline)
        except BaseException as error:
            await connection.disconnect()
            if isinstance(error, TimeoutError):
                raise self._timeout_error(connection.awaited) from None
            raise
        return wire

    async def _exchange(
        self, wire: Wire, commands: Sequence[Command], packed: bytes, due: float
    ) -> list[Any]:
        """Send packed commands and return the replies; the wire is idle then, or closed."""
        self._due[wire] = due
        if not self._is_sweeping:
            self._is_sweeping = True
            loop = asyncio.get_running_loop()
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)
        try:
            answers = await _round_trip(wire, commands, packed)
        except BaseException:
            self._drop(wire)  # replies still to come have no reader
            raise
        if self._is_closed:
            await self._close(wire)
        else:
            wire.idle_since = asyncio.get_running_loop().time()
            self._idle.append(wire)
        return answers

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fail calls that take too long; continue while there are calls."""
        now = loop.time()
        for wire, due in self._due.items():
            if due <= now:
                wire.fail(self._timeout_error("answer"))
        self._is_sweeping = any(wire.is_waiting for wire in self._due)
        if self._is_sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _timeout_error(self, awaited: str) -> exceptions.TimeoutError:
        return exceptions.TimeoutError(f"no {awaited} within {self._timeout_seconds:g} s")

    def _drop(self, wire: Wire) -> None:
        self._due.pop(wire, None)
        wire.abort()

    async def _close(self, wire: Wire) -> None:
        self._due.pop(wire, None)
        await wire.close()

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
                await connection.send_packed_command([b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % length])
                await connection.read_response()
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            return (
                exceptions.ResponseError(f"{error} ({length} bytes)")
                if _is_too_long(error)
                else None
            )
        finally:
            await connection.disconnect()
        return None

    async def close(self) -> None:
        """Close idle connections; a call under way closes its connection when it ends."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        try:
            await asyncio.gather(*map(self._close, idle))
        finally:
            # If this call is cancelled, some connections may not have begun to close.
            for wire in idle:
                self._drop(wire)

    async def abort(self) -> None:
        """Close all connections; calls under way, and those that wait for a connection, raise QueueClosed."""
        self._is_aborted = True
        for wire in self._due:
            if wire.is_waiting:
                wire.abort()
        for deadline in self._opening:
            if not deadline.expired():
                deadline.reschedule(asyncio.get_running_loop().time())
        await self.close()

    def abandon(self) -> None:
        """Close the sockets after the event loop of this pool was closed."""
        for wire in self._due:
            wire.abandon()
        self._due.clear()
        self._idle.clear()


def closed_error() -> QueueClosed:
    """Return the error of a call on a closed queue."""
    return QueueClosed("the queue is closed", hint="open a new one with create_redis_queue")


def _is_too_long(error: Exception) -> bool:
    return str(error).startswith(TOO_LONG)


def _longest(commands: Sequence[Command]) -> int:
    return max(
        len(value) for command in commands for value in command if isinstance(value, bytes | str)
    )


def _packed(commands: Iterable[Command]) -> bytes:
    """Return commands as they are sent."""
    parts: list[bytes] = []
    for name, *operands in commands:
        head = name if type(name) is Head else Head.of(*name.split())
        parts += b"*%d\r\n" % (head.size + len(operands)), head.packed, _packed_values(operands)
    return b"".join(parts)


def _packed_values(values: Sequence[Any]) -> bytes:
    """Return values as they are sent, without their number.

    Integers become text first: hiredis crashes if a signal handler raises while it formats one, which is when
    Python runs handlers.
    """
    texts = tuple([str(value) if type(value) is int else value for value in values])
    packed: bytes = hiredis.pack_command(texts)  # type: ignore[arg-type] # of any length
    return packed[packed.index(b"\n") + 1 :]


async def _round_trip(wire: Wire, commands: Sequence[Command], packed: bytes) -> list[Any]:
    wire.write(packed)
    try:
        answers = await wire.read(len(commands))
    except replies.MALFORMED as error:  # of redis-py, which cannot read the server's error
        name = commands[len(wire.replies)][0]
        raise exceptions.InvalidResponse(f"unexpected reply to {name}: {error}") from error
    return list(map(_read, commands, answers))


def _read(command: Command, reply: Any) -> Any:
    """Return a reply, or the server's error. Raises InvalidResponse for what the command cannot reply."""
    if isinstance(reply, Exception):
        return reply
    name = command[0]
    if name == "ZRANGE" and command[-1] == "WITHSCORES":
        name = "ZRANGE WITHSCORES"
    shape, convert = replies.COMMANDS.get(name), _CONVERTERS.get(command[0])
    if shape is not None:
        replies.check(reply, shape, command[0])
    try:
        return convert(reply) if convert else reply
    except replies.MALFORMED:
        raise replies.unexpected(reply, command[0]) from None


async def _check_primary(wire: Wire) -> None:
    """Raise ReadOnlyError if the server is a replica."""
    command = ("ROLE",)
    [reply] = await _round_trip(wire, [command], _packed([command]))
    if isinstance(reply, exceptions.NoPermissionError):
        return  # the user's ACL rules predate this check and lack +role
    if isinstance(reply, Exception):
        raise reply
    if reply[0] != b"master":
        raise exceptions.ReadOnlyError("READONLY the server has become a replica")
