"""The contract suite: `harness` runs each test on every backend; invariant Z is checked after each."""

import time

import pytest
from support.queue_harness import QueueHarness, check_and_close

DAY_SECONDS = 86_400
LONGEST_TEST_SECONDS = 30


@pytest.fixture(autouse=True)
def _within_one_day():
    """Budgets and what is spent are of a day, in UTC: a test that might see its end waits for the next."""
    left = DAY_SECONDS - time.time() % DAY_SECONDS
    if left < LONGEST_TEST_SECONDS:
        time.sleep(left + 0.1)


@pytest.fixture
async def harness(backend):
    """An empty queue on each backend, with leases that cannot expire during a test."""
    harness = QueueHarness.on(backend, claim_idle_ms=60_000)
    yield harness
    await check_and_close(harness)
