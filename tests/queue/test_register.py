"""register.lua and unregister.lua: one live worker per worker id."""

from support.queue_harness import decisions

from aragora_q.contracts import Completed, Identity
from aragora_q.redis.keys import GROUP


async def test_an_id_is_taken_for_the_lease_of_its_worker(harness):
    """A caller with a shorter lease cannot take the id of a worker whose longer lease has not ended."""
    await harness.worker("w1", lease_seconds=60)
    harness.stop_heartbeat("w1", 20)
    other_worker = harness.queue.session(Identity("w1"), lease_seconds=5)
    assert 30 < await other_worker.register({}) <= 40
    harness.stop_heartbeat("w1", 45)
    assert await other_worker.register({}) == 0


async def test_a_worker_id_has_one_live_instance(harness):
    """The id of a live instance is refused, with the time to wait; a silent one is replaced."""
    session = await harness.worker("w1")
    assert await session.register({}) == 0
    other_worker = harness.queue.session(Identity("w1", "other_worker"))
    assert 50 < await other_worker.register({}) <= 60
    assert (await other_worker.registered_instance())["instance_id"] == session.identity.instance_id
    harness.stop_heartbeat("w1", 61)
    assert await other_worker.register({"pid": "7"}) == 0
    record = await session.registered_instance()
    assert (record["instance_id"], record["pid"], "host" in record) == ("other_worker", "7", False)


async def test_a_clock_set_back_locks_no_worker_out(harness):
    """A heartbeat from the future keeps a worker id taken for one more lease only."""
    await harness.worker("w1")
    harness.stop_heartbeat("w1", -2 * 86_400)
    other_worker = harness.queue.session(Identity("w1", "other_worker"))
    assert 50 < await other_worker.register({}) <= 60
    harness.stop_heartbeat("w1", 61)
    assert await other_worker.register({}) == 0


async def test_unregister_leaves_nothing(harness):
    """A worker without jobs leaves neither record, heartbeat nor consumer."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    await harness.report(session, await harness.start_one(session), Completed(b"{}"))
    await session.unregister()
    assert (await harness.queue.get_queue_stats())["workers"] == []
    assert harness.redis.xinfo_consumers(harness.keys.stream_normal, GROUP) == []
    assert not harness.redis.exists(harness.keys.worker("w1"))


async def test_unregister_with_jobs_keeps_the_consumer(harness):
    """A worker that unregisters with running jobs leaves its consumer; its next instance gets them back."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    await harness.start_one(session)
    await session.unregister()
    assert harness.pending()[0]["consumer"] == "w1"
    successor = await harness.worker("w1")
    assert decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert (await harness.start_one(successor)).id == "a"
