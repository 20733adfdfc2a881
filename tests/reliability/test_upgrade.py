"""Row 40: versions side by side. A newer queue is refused, no loss in a rolling restart."""

import asyncio

import pytest
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.errors import UnsupportedServer

pytestmark = pytest.mark.slow


async def test_a_newer_queue_is_refused(new_harness):
    """A worker that does not understand the queue's schema exits 78 before it takes anything."""
    harness = new_harness()
    await harness.enqueue("a")
    await harness.worker("w1")
    assert harness.redis.hget(harness.keys.control, "schema") == "1"
    harness.redis.hset(harness.keys.control, "schema", "2")
    with pytest.raises(UnsupportedServer, match="schema 2") as refused:
        await harness.worker("w2")
    assert refused.value.exit_code == 78


async def test_a_rolling_restart_under_load(redis_url, new_harness, worker_process):
    """Every worker is replaced, one after the other: nothing lost, nothing charged, nothing crashed."""
    harness = new_harness(claim_idle_ms=2000)
    workers = [worker_process(redis_url, f"w{n}", lease_ms=2000) for n in range(3)]
    for worker in workers:
        worker.wait_until_started()
    enqueued = []

    async def load():
        while True:
            job = Job(payload={"do": [["sleep", 0.2]]})
            await harness.queue.enqueue(job)
            enqueued.append(job.id)
            await asyncio.sleep(0.02)

    loading = asyncio.create_task(load())
    for worker in workers:
        before = len(enqueued)
        await wait_until(lambda n=before: len(enqueued) > n + 15, 20, "some load")
        await asyncio.to_thread(worker.stop)
        worker.start()
    await wait_until(lambda: len(enqueued) > 90, 20, "some load")
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)

    async def all_done():
        return (await harness.queue.get_queue_stats())["completed"] == len(enqueued)

    await wait_until(all_done, 30, "all jobs to be completed")
    jobs = [harness.fields(job_id) for job_id in enqueued]
    assert {job["attempts"] for job in jobs} == {"1"}
    assert not [job for job in jobs if "crashes" in job]
    assert harness.counters().get("crashed", 0) == 0
