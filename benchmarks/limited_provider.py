"""A provider of language models on loopback with a published limit, which bills; and an executor that calls it.

The provider refuses requests beyond its rate or its number of requests at once with 429, and all of them while
it is shut. It notes every request, so that what was refused and billed can be compared with what the gates let
pass. Used by `providers.py` and by tests.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aragora_q.base import Job
from aragora_q.context import Call, Executor, Settlement, current_attempt

TOKENS = 40
"""Of each reply that is billed, input and output together."""


@dataclass
class Limits:
    """What a provider takes. Unset: no limit."""

    requests_per_second: float = math.inf
    at_once: float = math.inf
    reply_seconds: float = 0.0
    """On average: between half and one and a half of it."""
    retry_after_seconds: float | None = None
    """What a shut provider asks for; None: the time until it opens."""


@dataclass
class LimitedProvider:
    """A provider that listens on loopback, in a thread, from `start` to `close`."""

    limits: Limits
    requests: list[tuple[float, int]] = field(default_factory=list)
    """When each request came, on the monotonic clock, and the status of its reply."""
    shut_until: float = 0.0
    faults: list[int] = field(default_factory=list)
    """Statuses of the next replies, whatever the limits say."""

    def start(self) -> LimitedProvider:
        self._credit, self._credit_at, self._under_way = 1.0, time.monotonic(), 0
        self._loop, started = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def shut(self, seconds: float) -> None:
        """Refuse all requests for a time."""
        self.shut_until = time.monotonic() + seconds

    @property
    def useful(self) -> list[float]:
        """When the requests came that were answered."""
        return [at for at, status in self.requests if status == 200]

    @property
    def refused(self) -> list[float]:
        """When the requests came that were refused."""
        return [at for at, status in self.requests if status != 200]

    def _run(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, backlog=1000)
        self.address = "http://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        started.set()
        async with server:
            await self._stopped.wait()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            status, retry_after = self._admit()
            self.requests.append((time.monotonic(), status))
            if status == 200:
                self._under_way += 1
                try:
                    await asyncio.sleep(self.limits.reply_seconds * random.uniform(0.5, 1.5))
                finally:
                    self._under_way -= 1
            body = json.dumps({"tokens": TOKENS if status == 200 else 0}).encode()
            header = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
            writer.write(
                f"HTTP/1.1 {status} -\r\n{header}Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        writer.close()

    def _admit(self) -> tuple[int, int | None]:
        """Return the status of a request that comes now, and the seconds in `Retry-After`."""
        now, limits = time.monotonic(), self.limits
        if self.faults:
            return self.faults.pop(0), None
        if now < self.shut_until:
            seconds = limits.retry_after_seconds
            return 429, math.ceil(self.shut_until - now if seconds is None else seconds)
        burst = max(1.0, limits.requests_per_second)  # what a second allows
        earned = (now - self._credit_at) * limits.requests_per_second
        self._credit = burst if math.isinf(burst) else min(burst, self._credit + earned)
        self._credit_at = now
        if self._credit < 1 or self._under_way >= limits.at_once:
            return 429, 1
        self._credit -= 1
        return 200, None


async def post(address: str) -> tuple[int, float | None]:
    """Send a request; return the status, and the seconds in `Retry-After` if it has one."""
    port = int(address.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.read()
    finally:
        writer.close()
    named = head.partition("Retry-After: ")[2].partition("\r\n")[0]
    return int(head.split()[1]), float(named) if named else None


OUTCOMES = {200: "ok", 402: "credit_exhausted", 429: "rate_limited", 503: "overloaded"}


def caller(address: str, rounds: int = 1) -> Executor:
    """Return an executor whose jobs ask the provider once for each of their agents, in each of some rounds.

    The agents ask at the same time. A refused call is sent again as soon as the gates grant it; what was
    answered is kept for later attempts.
    """

    async def execute(job: Job) -> Mapping[str, Any]:
        attempt = current_attempt()
        kept = await attempt.checkpoints()

        async def ask(agent: str, key: str) -> None:
            tries = 0
            while key not in kept:
                tries += 1
                call = Call(
                    attempt.call_id(f"{key}/{tries}"), agent, "stub", "stub@1", "m", 30, 30, None
                )
                await attempt.acquire(call)
                try:
                    status, retry_after = await post(address)
                except OSError:
                    status, retry_after = 500, None
                outcome: Any = OUTCOMES.get(status, "unavailable")
                tokens = TOKENS if status == 200 else 0
                await attempt.settle(
                    call, Settlement(outcome, input_tokens=tokens, retry_after_seconds=retry_after)
                )
                if status == 200:
                    kept[key] = {}
                    await attempt.checkpoint(key, {})

        for number in range(rounds):
            asked = [ask(name, f"{number}/{name}") for name in job.payload["agents"]]
            results = await asyncio.gather(*asked, return_exceptions=True)
            for error in results:
                if isinstance(error, BaseException):
                    raise error
        return {"tokens": TOKENS * len(kept)}

    return execute
