"""Events can be resumed after an id, and their stream is bounded."""

import asyncio


async def test_events_resume_after_an_id(harness):
    """A reader that resumes after the last id it received misses nothing."""
    await harness.enqueue("a")
    seen = []
    async for event in harness.queue.events(after="0-0"):
        seen.append(event)
        break
    await harness.enqueue("b")
    await harness.queue.cancel("a")
    async for event in harness.queue.events(after=seen[0]["id"]):
        seen.append(event)
        if event["event"] == "cancelled":
            break
    assert [(e["event"], e["ids"]) for e in seen] == [
        ("enqueued", "a"),
        ("enqueued", "b"),
        ("cancelled", "a"),
    ]


async def test_events_are_capped(harness):
    """The stream of events never grows beyond a few thousand entries."""
    await asyncio.gather(*(harness.enqueue(f"a{n}") for n in range(750)))
    assert 500 <= harness.redis.xlen(harness.keys.events) < 700
    for n in range(250):
        await harness.queue.pause(paused=n % 2 == 0)
    assert 500 <= harness.redis.xlen(harness.keys.events) < 700
