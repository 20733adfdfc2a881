"""Wait for a condition instead of a fixed time; only a test that fails waits for as long as it may."""

import asyncio
import inspect
import time

DAY = 86_400


async def wait_until(condition, timeout=30.0, what="the condition"):
    """Return the first true value of `condition` (sync or async); fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        await asyncio.sleep(0.01)


def wait_until_sync(condition, timeout=30.0, what="the condition"):
    """As `wait_until`, for tests without an event loop."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        time.sleep(0.01)


def stay_in_one_day(seconds):
    """If the UTC day ends within `seconds`, wait for the next one: daily budgets reset at midnight."""
    left = DAY - time.time() % DAY
    if left < seconds:
        time.sleep(left + 1)
