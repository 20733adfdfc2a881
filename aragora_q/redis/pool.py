"""Commands to one server and their replies, over redis-py's asyncio connections.

redis-py's own client and pool do so much around every command that they cost more than the command;
its connections (dialling, TLS, credentials, parsing) are what we need of it. Used by `primary.py`,
which knows which server it is; raises redis-py's errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis import exceptions

from aragora_q.redis.errors import TOO_LONG

MAX_IDLE_CONNECTIONS = 64
"""To one server: however many callers there are, the rest of them wait their turn."""

MIN_BULK_LIMIT_BYTES = 1024 * 1024
"""The lowest `proto-max-bulk-len` that a server can have: it takes every value up to here."""


REFUSAL_SECONDS = 2.0
"""How long a server may think about whether it would take a value."""

SWEEP_SECONDS = 0.5
"""How late at most a call is given up. One timer looks after all: one each costs a tenth of a call."""

Command = Sequence[Any]

_SHAPES: Mapping[Any, Any] = {
    word: shape
    for word, shape in redis.asyncio.Redis(protocol=2).response_callbacks.items()
    if word != "XREAD"  # a worker waits for what comes behind that, not for what it says
}
"""By a command's first word, what makes its reply the Python value that redis-py's clients give."""


class ConnectionPool:
    """Connections to one server. Each call has one for itself, from the first byte to the last."""

    def __init__(self, dial: Callable[[], Any], timeout_seconds: float) -> None:
        self._dial = dial
        self._timeout_seconds = timeout_seconds
        self._idle: list[Any] = []
        self._turns = asyncio.Semaphore(MAX_IDLE_CONNECTIONS)
        self._is_closed = False
        self._due: dict[asyncio.Timeout, float] = {}
        self._is_sweeping = False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Replies to commands that travel together; errors that the server answers in their places."""
        async with self._turns:
            return await self._exchange(commands)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        line = self._idle.pop() if self._idle else self._dial()
        try:
            # One deadline for all of it, dialling included. redis-py's makes a task of every send, and
            # that task, with Python 3.11, swallows the cancel of whoever waits for it.
            async with asyncio.timeout(None) as deadline:
                self._watch(deadline)
                try:
                    replies = await _converse(line, commands)
                finally:
                    self._due.pop(deadline, None)
        except BaseException as error:
            await line.disconnect(nowait=True)  # whatever it would still say, nobody waits for it
            if isinstance(error, TimeoutError):
                text = f"no answer within {self._timeout_seconds:g} s"
                raise exceptions.TimeoutError(text) from None
            is_lost = isinstance(error, exceptions.ConnectionError | OSError | RuntimeError)
            if is_lost and (refusal := await self.refusal_of(_longest(commands))):
                raise refusal from error
            if isinstance(error, RuntimeError):  # uvloop's word for writing to what is gone
                raise exceptions.ConnectionError(f"connection lost: {error}") from error
            raise
        if self._is_closed:
            await line.disconnect()
        else:
            self._idle.append(line)
        return replies

    def _watch(self, deadline: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        self._due[deadline] = loop.time() + self._timeout_seconds
        if not self._is_sweeping:
            self._is_sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the deadlines of calls that take too long pass, and come again while there are calls."""
        now = loop.time()
        for deadline in [deadline for deadline, due in self._due.items() if due <= now]:
            del self._due[deadline]
            deadline.reschedule(now)
        self._is_sweeping = bool(self._due)
        if self._is_sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    async def refusal_of(self, length: int) -> exceptions.ResponseError | None:
        """What the server says to a value of `length` bytes, which is announced and never sent.

        None if it would take it, or cannot be asked. One that refuses a value hangs up while it is
        still being sent, mostly before its reason is heard: that looks like an outage, for ever.
        """
        if length <= MIN_BULK_LIMIT_BYTES:
            return None
        line = self._dial()
        try:
            async with asyncio.timeout(REFUSAL_SECONDS):
                await line.connect()
                announced = b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % length
                await line.send_packed_command(announced, check_health=False)
                await line.read_response()
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            is_refusal = str(error).startswith(TOO_LONG)
            return exceptions.ResponseError(f"{error} ({length} bytes)") if is_refusal else None
        finally:
            await line.disconnect(nowait=True)
        return None

    async def close(self) -> None:
        """Hang up; a call that is under way hangs up itself."""
        self._is_closed = True
        for line in self._idle:
            await line.disconnect()
        self._idle.clear()


def _longest(commands: Sequence[Command]) -> int:
    return max(len(value) for each in commands for value in each if isinstance(value, bytes | str))


async def _converse(line: Any, commands: Sequence[Command]) -> list[Any]:
    if not await _is_usable(line):
        await line.disconnect(nowait=True)
        await line.connect()
    packed = [hiredis.pack_command((*each[0].split(), *each[1:])) for each in commands]
    await line.send_packed_command(packed, check_health=False)
    return [await _reply(line, each[0]) for each in commands]


async def _is_usable(line: Any) -> bool:
    """Whether it is connected, and silent: one that the server has closed meanwhile has its end to read."""
    try:
        return line.is_connected and not await line.can_read()
    except (exceptions.ConnectionError, OSError):
        return False


async def _reply(line: Any, word: str) -> Any:
    try:
        reply = await line.read_response()
    except exceptions.ResponseError as error:
        if str(error).startswith("Protocol error"):  # the server is about to hang up
            raise
        return error
    shape = _SHAPES.get(word)
    return shape(reply) if shape else reply
