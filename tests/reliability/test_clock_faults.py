"""Fault matrix of docs/reliability.md: clocks that jump."""

import asyncio
import mmap
import struct
import time

import pytest
from support import servers
from support.wait import wait_until

from aragora_q.base import Job, JobStatus

pytestmark = pytest.mark.slow

HOUR = 3600


@pytest.mark.parametrize("hours", [1, -1])
async def test_the_servers_clock_jumps(
    preloaded_server, new_harness, worker_process, tmp_path, hours
):
    """Row 31: leases do not all expire at once, fences hold, jobs go on."""
    file = tmp_path / "offset"
    file.write_bytes(struct.pack("l", 0))
    server = preloaded_server("clock", servers.debian_redis, CLOCK_OFFSET_FILE=str(file))
    harness = new_harness(redis_url=server.url)
    worker_process(server.url, "w1").wait_until_started()
    worker_process(server.url, "w2").wait_until_started()
    may_end = tmp_path / "may-end"
    await harness.enqueue_steps("running", ["until", str(may_end)])
    fence = (await harness.wait_for_status("running", JobStatus.PROCESSING)).fence
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as offset:
        offset[:8] = struct.pack("l", hours * HOUR)
    await harness.queue.enqueue(Job(payload={}, id="after"))
    await harness.wait_for_status("after", JobStatus.COMPLETED)
    await asyncio.sleep(2.5)  # longer than a lease: a wrong reclaim would have happened
    may_end.touch()
    job = await harness.wait_for_status("running", JobStatus.COMPLETED)
    assert (job.fence, job.crashes) == (fence, 0), "its lease was kept over the jump"


async def test_the_clock_is_set_back_after_a_worker_died(preloaded_server, tmp_path, new_harness):
    """Row 31: its job is reclaimed after one lease, not when the clock has caught up."""
    file = tmp_path / "offset"
    file.write_bytes(struct.pack("l", 0))
    server = preloaded_server("clock", servers.debian_redis, CLOCK_OFFSET_FILE=str(file))
    harness = new_harness(redis_url=server.url, claim_idle_ms=2_000)
    await harness.enqueue("a")
    await harness.start_one(await harness.worker("dead"))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as offset:
        offset[:8] = struct.pack("l", -HOUR)
    live = await harness.worker("live")

    async def is_reclaimed():
        await harness.renew(live)
        return [each.id for each in await harness.queue.reclaim()] == ["a"]

    await wait_until(is_reclaimed, 60, "a to be reclaimed")


async def test_a_workers_clock_is_wrong(redis_url, new_harness, worker_process, shim, tmp_path):
    """Row 32: a worker's clock that is an hour ahead changes nothing: only the server's counts."""
    file = tmp_path / "offset"
    file.write_bytes(struct.pack("l", HOUR))
    harness = new_harness()
    odd = {"LD_PRELOAD": shim("clock"), "CLOCK_OFFSET_FILE": str(file)}
    worker_process(redis_url, "ahead", environment=odd).wait_until_started()
    worker_process(redis_url, "right").wait_until_started()
    may_end = tmp_path / "may-end"
    for n in range(8):
        await harness.enqueue_steps(f"j{n}", ["until", str(may_end)])
    await wait_until(lambda: len(harness.pending()) == 8, what="both to use all their slots")
    may_end.touch()
    jobs = [await harness.wait_for_status(f"j{n}", JobStatus.COMPLETED) for n in range(8)]
    assert {(job.attempts, job.crashes) for job in jobs} == {(1, 0)}
    assert harness.counters()["started"] == 8, "none was started twice"
    now = time.time()
    assert all(abs(job.started_at - now) < 120 for job in jobs)
    assert {"ahead", "right"} == {job.worker_id for job in jobs}
