"""The charts of a queue, read and drawn at most a few times a minute, however many pages show them."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup

from aragora_q.redis.connection import Connection
from aragora_q.samples import Samples, Span, read_samples
from aragora_q.web.charts import queue_charts

KEPT_SECONDS = 10.0
"""How long charts are shown again: maintenance writes one sample a minute."""


class ChartCache:
    """The samples and charts of each span. An error is raised to each request, and not kept."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locks: dict[Span, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._kept: dict[Span, tuple[float, Samples, Sequence[Markup]]] = {}

    async def charts(self, span: Span) -> Sequence[Markup]:
        """Return the charts of a span, as `queue_charts`."""
        return (await self._get(span))[2]

    async def samples(self, span: Span) -> Samples:
        """Return the samples that the charts of a span show."""
        return (await self._get(span))[1]

    async def _get(self, span: Span) -> tuple[float, Samples, Sequence[Markup]]:
        async with self._locks[span]:  # one of the requests that come together reads for all
            kept = self._kept.get(span)
            if kept is None or kept[0] < time.monotonic():
                samples = await read_samples(self._connection, span)
                drawn = queue_charts(samples.series())
                kept = self._kept[span] = (time.monotonic() + KEPT_SECONDS, samples, drawn)
            return kept
