"""One call of each model goes ahead of the others, which then find the prompt in the provider's cache.

Used by the participants where the calls of a debate share their prefix. Must not know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aragora_q.executors.debate.requests import Agent


class Leads:
    """The first calls of one attempt, by account and model: those that share a cache."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], asyncio.Event] = {}

    @asynccontextmanager
    async def turn(self, agent: Agent, seconds: float) -> AsyncIterator[None]:
        """Run the body, a call, at once if it is the first of its model; else when that has ended.

        It waits for at most `seconds`.
        """
        model = agent.account, agent.model
        if model in self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ended[model].wait()
            yield
            return
        has_ended = asyncio.Event()
        if agent.price is None or not agent.price.is_free:  # else nothing is saved
            self._ended[model] = has_ended
        try:
            yield
        finally:
            has_ended.set()
