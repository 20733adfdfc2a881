"""Many jobs in one request: JSON lines in, results out, while they arrive, in bounded memory.

Many clients send all before they read anything. So results wait in a temporary file until they are read:
neither side waits for the other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from aragora_q.errors import AragoraQError, TryAgain
from aragora_q.intake.bulk import BulkEnqueuer, LineChecker
from aragora_q.intake.lines import LineSplitter, in_batches, max_line_bytes, undecoded
from aragora_q.web.access import Access
from aragora_q.web.media import NDJSON
from aragora_q.web.problems import NO_STORE, problem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

SOME_REFUSED = 3
"""Exit code of `enqueue` for lines of which some were refused."""

IN_MEMORY_BYTES = 1024 * 1024
CHUNK_BYTES = 65_536


class Results:
    """Results that are written at one end, and read at the other."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closed by `close`
        self._written = self._read = 0
        self._news = asyncio.Event()
        self.is_complete = False

    def write(self, results: Sequence[Any]) -> None:
        """Add results."""
        text = "".join(f"{json.dumps(each, separators=(',', ':'))}\n" for each in results)
        self._file.seek(self._written)
        self._written += self._file.write(text.encode())
        self._news.set()

    def complete(self) -> None:
        """Say that there are no more."""
        self.is_complete = True
        self._news.set()

    async def read(self) -> bytes:
        """Return the next ones; nothing at the end."""
        while self._read == self._written and not self.is_complete:
            self._news.clear()
            await self._news.wait()
        self._file.seek(self._read)
        chunk = self._file.read(min(CHUNK_BYTES, self._written - self._read))
        self._read += len(chunk)
        return chunk

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


class LinesResponse(Response):
    """Answers lines while they arrive: a result for each, and a summary."""

    media_type = NDJSON

    def __init__(self, request: Request, enqueuer: BulkEnqueuer, access: Access) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers(NO_STORE)
        del self.headers["content-length"]
        self._chunks = request.stream()
        self._enqueuer = enqueuer
        self._access = access
        self._splitter = LineSplitter(max_line_bytes(enqueuer.config))
        self._results = Results()
        self._failure: AragoraQError | None = None

    async def begin(self) -> None:
        """Enqueue the first lines.

        Raises:
            AragoraQError: the first batch could not be enqueued.
        """
        summary = self._enqueuer.summary
        while not summary.last_line and self._failure is None and await self._enqueue_chunk():
            pass
        if self._failure is not None and not (summary.created or summary.existing):
            raise self._failure

    def close(self) -> None:
        """Delete what waits to be sent."""
        self._results.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive  # the stream of the request has it
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        reading = asyncio.create_task(self._enqueue_all())
        try:
            while chunk := await self._results.read():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await reading
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._results.close()
            self._access.log_changed(self._enqueuer.summary.created)

    async def _enqueue_all(self) -> None:
        try:
            with suppress(ClientDisconnect):  # its next request begins where this one ended
                while await self._enqueue_chunk():
                    pass
        finally:
            self._results.complete()

    async def _enqueue_chunk(self) -> bool:
        """Enqueue the lines that the next chunk completes. Return False after the last one."""
        if self._results.is_complete:
            return False
        chunk = await anext(self._chunks, b"")
        lines = self._splitter.feed(chunk) if chunk else self._splitter.end()
        for items in in_batches(undecoded(lines, self._splitter.max_bytes)):
            results, self._failure = await self._enqueuer.enqueue(items)
            self._results.write(results)
            self._access.log_changed(self._enqueuer.summary.created)
            if self._failure is not None:
                break
        if chunk and self._access.console.feed.is_ending:
            self._failure = self._failure or TryAgain(
                "the console is stopping", hint="send the other lines again"
            )
        if not chunk or self._failure is not None:
            self._results.write([{"summary": self._summary()}])
            self._results.complete()
        return not self._results.is_complete

    def _summary(self) -> dict[str, Any]:
        summary, failure = self._enqueuer.summary, self._failure
        found: dict[str, Any] = {
            "created": summary.created,
            "existing": summary.existing,
            "refused": summary.refused,
            "held": summary.held,
            "not_durable": summary.not_durable,
            "warning": summary.warning() if summary.warnings else None,
            "exit_code": SOME_REFUSED if summary.refused else 75 if summary.not_durable else 0,
            "problem": None,
        }
        if failure is not None:
            found |= {"exit_code": failure.exit_code, "problem": problem(failure)}
        return found


async def respond(checker: LineChecker, request: Request, access: Access) -> Response:
    """Enqueue the jobs in the lines of a body; return their results.

    Raises:
        AragoraQError: the first lines could not be enqueued.
    """
    response = LinesResponse(request, BulkEnqueuer(checker), access)
    try:
        await response.begin()
    except BaseException:
        response.close()
        raise
    return response
