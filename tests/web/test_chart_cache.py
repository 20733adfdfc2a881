"""Many pages that show charts at once cost one read and one drawing."""

import asyncio
import time
from collections import Counter

import pytest
from support.queue_harness import QueueHarness, check_and_close

from aragora_q.errors import AragoraQError
from aragora_q.web import chart_cache
from aragora_q.web.chart_cache import ChartCache


@pytest.fixture
async def harness(redis_url):
    harness = QueueHarness(redis_url)
    yield harness
    await check_and_close(harness)


@pytest.fixture
def reads(monkeypatch):
    """Counts reads of samples by span."""
    counted, original = Counter(), chart_cache.read_samples

    async def read(connection, span):
        counted[span] += 1
        return await original(connection, span)

    monkeypatch.setattr(chart_cache, "read_samples", read)
    return counted


async def test_requests_share_a_read(harness, reads, monkeypatch):
    """Of the same span, until the charts are a few seconds old."""
    await harness.queue.sample()
    cache = ChartCache(harness.queue.connection)
    shown = await asyncio.gather(*(cache.charts("2h") for _ in range(50)), cache.charts("48h"))
    assert reads == {"2h": 1, "48h": 1}
    assert len(shown[0]) == 5
    assert len((await cache.samples("2h")).samples) == 1
    later = time.monotonic() + chart_cache.KEPT_SECONDS + 1
    monkeypatch.setattr(chart_cache.time, "monotonic", lambda: later)
    await cache.charts("2h")
    assert reads == {"2h": 2, "48h": 1}


async def test_an_error_is_not_kept(harness, reads):
    """Each request fails until the next read succeeds."""
    cache = ChartCache(harness.queue.connection)
    harness.redis.set(harness.keys.samples_minute, "damaged")
    for _ in range(2):
        with pytest.raises(AragoraQError):
            await cache.charts("2h")
    harness.redis.delete(harness.keys.samples_minute)
    assert len(await cache.charts("2h")) == 5
    assert reads == {"2h": 3}
