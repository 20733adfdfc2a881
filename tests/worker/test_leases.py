"""A worker keeps the leases of its running jobs, and stops attempts whose lease is lost."""

import time

import pytest
from support.executors import GatedExecutor
from support.wait import wait_until
from support.workers import (
    LONG_LEASE,
    reclaiming,
)

from aragora_q.base import JobStatus
from aragora_q.contracts import Completed, Identity
from aragora_q.errors import ConfigError


@pytest.mark.slow
async def test_blocked_event_loop_keeps_its_leases(new_harness, worker_pool):
    """Code that blocks the loop for longer than a lease loses no job of this worker."""
    harness = new_harness(claim_idle_ms=2000)
    gated = GatedExecutor()

    async def executor(job):
        if job.id == "blocking":
            time.sleep(1.5 * harness.config.claim_idle_ms / 1000)
            return {}
        return await gated(job)

    async with reclaiming(harness) as claimed:
        worker_pool.start(harness, executor)
        await harness.enqueue("neighbour")
        await wait_until(lambda: gated.entered)
        await harness.enqueue("blocking")
        await harness.wait_for_end("blocking")
        gated.gate.set()
        await harness.wait_for_end("neighbour")
    assert claimed == []
    assert harness.counters().get("crashed", 0) == 0
    for name in ("neighbour", "blocking"):
        job = await harness.queue.get_job(name)
        assert (job.attempts, job.crashes) == (1, 0)
    assert harness.counters()["started"] == 2


async def test_cancel_stops_a_running_job(new_harness, worker_pool):
    """A cancel reaches the running task within the lease."""
    harness, gated = new_harness(claim_idle_ms=16_000), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    cancelled_at = time.monotonic()
    assert await harness.queue.cancel("a")
    await wait_until(lambda: gated.cancelled == ["a"], what="the task to be cancelled")
    assert time.monotonic() - cancelled_at < harness.config.claim_idle_ms / 1000
    await wait_until(lambda: worker.get_stats()["active_jobs"] == 0)
    assert worker.metrics.attempts["cancelled"]._value.get() == 1
    await harness.enqueue("b")
    gated.gate.set()
    await harness.wait_for_end("b")


async def _renewed(worker):
    """Wait for the first renewal: until the next one, a quarter lease later, an old lease stays old."""
    await wait_until(lambda: worker.keeper.last_answer_at > worker._started_at, what="a renewal")


@pytest.mark.slow
async def test_lost_job_is_given_up(new_harness, worker_pool):
    """An attempt whose job was reclaimed is stopped; the new attempt's result stands."""
    harness, gated = new_harness(claim_idle_ms=24_000), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    successor = await harness.worker("successor")
    await _renewed(worker)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    fence = (await harness.queue.get_job("a")).fence
    await harness.queue.pause()
    harness.backdate("a")
    await harness.queue.reclaim()  # unless the worker's own pass was faster
    assert (await harness.queue.get_job("a")).crashes == 1
    await wait_until(lambda: gated.cancelled == ["a"], what="the zombie to stop")
    assert worker.metrics.leases_lost._value.get() == 1
    await harness.queue.pause(paused=False)
    gated.gate.set()
    await harness.wait_for_end("a")
    assert (await harness.queue.get_job("a")).fence > fence
    assert successor


async def test_result_of_a_zombie_is_refused(new_harness, worker_pool):
    """A result that arrives after the job was reclaimed changes nothing and is counted."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    successor = await harness.worker("successor")
    await _renewed(worker)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    await harness.queue.pause()
    harness.backdate("a")
    await harness.queue.reclaim()
    gated.gate.set()  # long before the next renewal: the worker does not know yet
    await wait_until(lambda: harness.counters().get("refused"), what="the refusal")
    await worker.stop()
    await harness.queue.pause(paused=False)
    again = await harness.start_one(successor)
    assert await harness.report(successor, again, Completed(b'{"by":"successor"}')) == "completed"
    assert (await harness.queue.get_job("a")).result == {"by": "successor"}
    assert worker.get_stats()["jobs_processed"] == 0
    assert worker.metrics.attempts["lost"]._value.get() == 1


async def test_job_that_ends_after_its_cancel_is_no_lost_lease(new_harness, worker_pool):
    """A job that is cancelled, and ends before the next renewal, counts as cancelled, not as lost."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    await harness.queue.cancel("a")
    gated.gate.set()
    await wait_until(worker.metrics.attempts["cancelled"]._value.get, what="the verdict")
    await worker.stop()
    assert worker.metrics.leases_lost._value.get() == 0
    assert await harness.queue.get_status("a") is JobStatus.CANCELLED


async def test_lost_record_is_written_again_while_all_slots_are_busy(new_harness, worker_pool):
    """A worker without a record registers again at once, however long its jobs run."""
    harness, gated = new_harness(claim_idle_ms=16_000), GatedExecutor()
    worker_pool.start(harness, gated, max_concurrent=1)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    harness.redis.delete(harness.keys.worker("w1"), harness.keys.workers)
    await wait_until(lambda: harness.redis.exists(harness.keys.worker("w1")), what="the record")
    await wait_until(lambda: harness.redis.zscore(harness.keys.workers, "w1"), what="the heartbeat")
    gated.gate.set()
    await harness.wait_for_end("a")
    assert harness.counters()["started"] == 1


async def test_replaced_worker_ends(new_harness, worker_pool):
    """A worker whose id another instance took stops lost attempts, releases other jobs, and ends."""
    harness, gated = new_harness(claim_idle_ms=8000), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=1)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    other_worker = harness.queue.session(Identity("w1", "other_worker"))
    assert (
        await other_worker.register({"pid": "7"}, dead_instance_id=worker.identity.instance_id) == 0
    )

    async def beat():
        await harness.renew(other_worker)
        return worker.task.done()

    await wait_until(beat, 60, "the old boot to end")
    with pytest.raises(ConfigError, match="worker id w1 is in use by pid 7"):
        await worker.task
    assert gated.cancelled == ["a"]
    await wait_until(lambda: harness.fields("a").get("status") in ("pending", "retrying"))
    await other_worker.unregister()


async def test_lease_keeper_survives_anything(new_harness, worker_pool):
    """An unexpected error costs one renewal, not the thread."""
    harness, gated = new_harness(claim_idle_ms=2000), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    broken, make = [], worker.keeper._open_renewer

    class Broken:
        async def renew(self, leases, **options):
            broken.append(leases)
            raise ZeroDivisionError("a bug")

        async def close(self):
            worker.keeper._open_renewer = make

    worker.keeper._open_renewer = Broken
    await wait_until(lambda: broken, what="the bug to strike")
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    before = worker.keeper.last_answer_at
    await wait_until(lambda: worker.keeper.last_answer_at > before, what="the next renewal")
    gated.gate.set()
    await harness.wait_for_end("a")
    assert harness.counters()["started"] == 1
