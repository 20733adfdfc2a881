"""pause.lua: a paused queue starts no job."""


async def test_paused_queue_starts_nothing(harness):
    """No job starts between pause and resume; repeating either changes nothing."""
    session = await harness.worker()
    await harness.enqueue("a")
    assert await harness.queue.pause()
    assert not await harness.queue.pause()
    fetched = await session.start(1)
    assert (fetched.state, fetched.jobs) == ("paused", [])
    assert (await harness.renew(session)).state == "paused"
    assert (await harness.queue.get_queue_stats())["paused"]
    assert harness.pending() == []
    assert await harness.queue.pause(paused=False)
    assert (await harness.start_one(session)).id == "a"
    assert [event for event, _ in harness.events()] == ["enqueued", "paused", "resumed", "started"]
