"""One open connection: bytes go out, and the replies to them come back.

Why not the streams of asyncio, which redis-py uses: they cost two more objects, a buffer and several coroutines
for each reply. Here, what arrives goes straight into hiredis, and one future ends when all replies of a
call are there. Used by `dialing.py`, which opens wires, and `pool.py`; raises redis-py's errors.
"""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import suppress
from typing import Any

import hiredis
from redis import exceptions
from redis.asyncio.connection import DefaultParser

CLOSE_SECONDS = 1.0
"""How long a server may take to agree to the end of a TLS connection."""

MAX_UNASKED_BYTES = 64 * 1024
"""Limit of data that belongs to no call. A greeting is kept, because it may explain a refusal."""

CLOSED_BY_SERVER = "Connection closed by server."

_INCOMPLETE = object()


class Wire(asyncio.Protocol):
    """The client's end of one connection. It belongs to the event loop that opened it.

    It serves one call at a time. Who gives up a call must `abort` the wire: replies to it may still come.
    Nothing is done about a slow receiver: a call's bytes are in memory before it begins, and the next call
    begins only after the replies.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._parser = hiredis.Reader(
            protocolError=exceptions.InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._awaited_count = 0
        self._ending = ""
        self._is_lost = self._loop.create_future()
        self.replies: list[Any] = []
        """The replies to the call under way that have arrived."""
        self.idle_since = 0.0
        """When its pool last got it back, on the event loop's clock."""

    @property
    def is_open(self) -> bool:
        """True until either side closes it."""
        return not self._ending and not self._transport.is_closing()

    @property
    def is_usable(self) -> bool:
        """True if it is open and nothing has arrived that was not asked for."""
        return self.is_open and not self._parser.has_data()

    def has_unread(self) -> bool:
        """Return True if something has arrived, or the connection was closed, since the event loop last ran."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    @property
    def is_waiting(self) -> bool:
        """True while a call waits for its replies."""
        return self._waiter is not None and not self._waiter.done()

    def write(self, data: bytes) -> None:
        """Send bytes. A wire that was lost drops them: reading from it raises the reason."""
        if self.is_open:
            self._transport.write(data)

    def read(self, count: int) -> asyncio.Future[list[Any]]:
        """Return a future of the next `count` replies, the server's errors among them.

        It raises what ends the connection: redis-py's ConnectionError, also where it is the server's reply;
        InvalidResponse for data that is not RESP; ResponseError if the server reports a protocol error; and
        what redis-py raises for an error reply that it cannot read.
        """
        self._waiter = waiter = self._loop.create_future()
        self._awaited_count = count
        self.replies = []
        self._take()
        if self._ending:
            self.fail(exceptions.ConnectionError(self._ending))
        return waiter

    def fail(self, error: Exception) -> None:
        """Raise `error` in the call that waits for replies, if one does."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def abort(self) -> None:
        """Close it now, whatever is still to be sent or to come."""
        if self._transport is not None:  # as while TLS is negotiated
            self._transport.abort()

    async def close(self) -> None:
        """Close it, with a farewell if it is encrypted."""
        self._transport.close()
        try:
            await asyncio.wait([self._is_lost], timeout=CLOSE_SECONDS)
        finally:
            self._transport.abort()

    def abandon(self) -> None:
        """Close the socket after the event loop was closed."""
        with suppress(OSError, AttributeError, TypeError):  # uvloop has closed it itself
            self._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def connection_made(self, transport: Any) -> None:
        """Take the transport; asyncio calls this."""
        self._transport = transport
        transport.set_write_buffer_limits(0)  # uvloop sends at once, not after its next poll

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; asyncio calls this."""
        self._parser.feed(data)
        self._take()

    def eof_received(self) -> None:
        """Note that the server closed the connection; asyncio calls this, and then closes our end."""
        self._end(CLOSED_BY_SERVER)

    def connection_lost(self, error: Exception | None) -> None:
        """Note why the connection ended; asyncio calls this last."""
        reason = getattr(error, "strerror", None) or str(error)
        self._end(reason if error else CLOSED_BY_SERVER)
        if not self._is_lost.done():
            self._is_lost.set_result(None)

    def _end(self, reason: str) -> None:
        self._ending = self._ending or reason
        self.fail(exceptions.ConnectionError(reason))

    def _take(self) -> None:
        """Read replies for the call that waits, if all it needs have arrived."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            if self._parser.len() > MAX_UNASKED_BYTES:
                self.abort()
            return
        taken = self.replies
        try:
            while len(taken) < self._awaited_count:
                reply = self._parser.gets()
                if reply is _INCOMPLETE:
                    return
                if isinstance(reply, Exception) and _ends_connection(reply):
                    waiter.set_exception(reply)
                    return
                taken.append(reply)
            waiter.set_result(taken)
        except Exception as error:  # noqa: BLE001 - raised in the call
            waiter.set_exception(error)


def _ends_connection(error: Exception) -> bool:
    """Return True for an error after which the server closes the connection, or should have."""
    return isinstance(error, exceptions.ConnectionError) or str(error).startswith("Protocol error")
