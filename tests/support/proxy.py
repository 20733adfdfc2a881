"""A TCP proxy in front of a Redis server, for faults that signals cannot cause.

`mode` applies to all connections: `pass`; `drop_reply`: matching commands are forwarded, then the
connection is closed before the reply; `blackhole`: nothing is forwarded; `delay`: replies to matching
commands come late. `bytes_per_second` bounds replies; `freeze` makes the present connections half-open.
"""

import asyncio
import socket
import struct
from contextlib import suppress

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    def __init__(self, port):
        self._to = port
        self.mode = "pass"
        self.match = b""
        self.delay_seconds = 0.0
        self.bytes_per_second = None
        self.hits = 0
        self._writers = set()
        self._frozen = set()
        self._tasks = set()
        self._server = None
        self.port = 0

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    async def stop(self):
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self):
        """Reset every connection at once."""
        for writer in list(self._writers):
            writer.transport.abort()

    def freeze(self):
        """Forward nothing any more on the present connections, and do not close them."""
        self._frozen |= self._writers

    def _is_passing(self, writer):
        return self.mode != "blackhole" and writer not in self._frozen

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            await self._forward(reader, writer)
        finally:
            self._tasks.discard(asyncio.current_task())

    async def _forward(self, reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE
        )
        ours = {writer, up_writer}
        self._writers |= ours
        asked = {"dropped": False, "delayed": False}
        ways = [
            asyncio.create_task(self._ask(reader, up_writer, asked)),
            asyncio.create_task(self._answer(up_reader, writer, asked)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in ours:
                each.transport.abort()
            self._writers -= ours
            self._frozen -= ours

    async def _ask(self, reader, up_writer, asked):
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.mode == "drop_reply" and self.match in data:
                    asked["dropped"] = True
                    self.hits += 1
                if self.mode == "delay" and self.match in data:
                    asked["delayed"] = True
                    self.hits += 1
                if self._is_passing(up_writer):
                    up_writer.write(data)
                    await up_writer.drain()

    async def _answer(self, up_reader, writer, asked):
        with suppress(OSError):
            while data := await up_reader.read(65536):
                if asked["delayed"]:
                    asked["delayed"] = False
                    await asyncio.sleep(self.delay_seconds)
                if self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
                if asked["dropped"]:
                    return
                if self._is_passing(writer):
                    writer.write(data)
                    await writer.drain()
