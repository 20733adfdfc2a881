"""The contract suite: `harness` runs each test on every backend; invariant Z is checked after each."""

import pytest
from support.queue_harness import QueueHarness, check_and_close


@pytest.fixture(autouse=True)
def _within_a_day(within_a_day):
    """Many of these tests spend money."""


@pytest.fixture
async def harness(backend):
    """An empty queue on each backend, with leases that cannot expire during a test."""
    harness = QueueHarness.on(backend, claim_idle_ms=60_000)
    yield harness
    await check_and_close(harness)
