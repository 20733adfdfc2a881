"""Records and consumers of dead workers are deleted, those of live workers never."""

from support.queue_harness import decisions

from aragora_q.contracts import Completed
from aragora_q.maintenance import reap_pass
from aragora_q.redis.keys import GROUP
from aragora_q.streams.queue import REAPER


async def test_consumers_of_dead_workers_are_deleted(harness):
    """Empty consumers of dead workers, and the reaper's, are deleted; others are not."""
    for name in ("alive", "dead", "busy"):
        session = await harness.worker(name)
        await harness.enqueue(f"for-{name}")
        job = await harness.start_one(session)
        if name != "busy":
            await harness.report(session, job, Completed(b"{}"))
    harness.stop_heartbeat("dead", 200)
    harness.stop_heartbeat("busy", 200)
    await harness.queue.remove_dead_workers()

    def names():
        return {c["name"] for c in harness.redis.xinfo_consumers(harness.keys.stream_normal, GROUP)}

    assert names() == {"alive", "busy"}
    harness.backdate("for-busy")
    report = await reap_pass(harness.queue, REAPER)
    assert decisions(report.reclaimed) == [("for-busy", "reclaimed")]
    assert names() == {"alive"}
    workers = (await harness.queue.get_queue_stats())["workers"]
    assert [worker["worker_id"] for worker in workers] == ["alive"]


async def test_a_short_lease_of_the_caller_deletes_no_live_worker(harness):
    """When a worker counts as dead depends on its own lease, not on the caller's."""
    await harness.worker("alive")
    harness.stop_heartbeat("alive", 15)
    await harness.other_client(claim_idle_ms=200).remove_dead_workers()
    assert harness.redis.exists(harness.keys.worker("alive"))
    assert harness.redis.zcard(harness.keys.workers) == 1
