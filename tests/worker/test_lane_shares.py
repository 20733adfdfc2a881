"""While all lanes are busy, each of them gets its share of starts."""

import random
from collections import Counter

import pytest
from support.wait import wait_until
from support.workers import LONG_LEASE

from aragora_q.base import LANES, Job
from aragora_q.worker.fetcher import LANE_SHARES

PRIORITIES = {"high": 1, "normal": 0, "low": -1}


async def _fill(harness, **jobs_by_lane):
    for lane, count in jobs_by_lane.items():
        priority = PRIORITIES[lane]
        jobs = [Job({}, id=f"{lane}-{n}", priority=priority) for n in range(count)]
        await harness.queue.enqueue_many(jobs)


def _counting(starts, worker_of, limit):
    async def executor(job):
        if sum(starts.values()) < limit:
            starts[job.id.partition("-")[0]] += 1
        else:
            worker_of[0]._stop.set()
        return {}

    return executor


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 2, 3, 5, 8, 13, 20])
async def test_each_busy_lane_gets_half_its_share_at_least(new_harness, worker_pool, concurrency):
    """Of all starts, high, normal and low get about 6, 1 and 1 eighths, however many a fetch starts."""
    random.seed(concurrency)
    jobs = max(1500, 400 * concurrency)
    harness, starts, worker_of = new_harness(**LONG_LEASE), Counter(), []
    await _fill(harness, high=jobs, normal=jobs // 2, low=jobs // 2)
    executor = _counting(starts, worker_of, jobs)
    worker_of.append(worker_pool.start(harness, executor, max_concurrent=concurrency))
    await wait_until(worker_of[0]._stop.is_set, 60, "enough starts")
    await worker_of[0].stop(immediately=True)
    total, weights = sum(starts.values()), sum(LANE_SHARES.values())
    assert total == jobs
    for lane in LANES:
        assert starts[lane] / total >= LANE_SHARES[lane] / weights / 2, starts
    harness.redis.flushdb()  # thousands of jobs that are of no interest any more


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("concurrency", [1, 2, 20])
async def test_one_job_runs_soon_between_two_busy_lanes(
    new_harness, worker_pool, lane, concurrency
):
    """A job whose lane is empty otherwise runs while the other two lanes never become empty.

    Lanes are drawn at random: 400 fetches that all leave out one lane are rarer than one in 10**20.
    """
    harness, order = new_harness(**LONG_LEASE), []

    async def executor(job):
        order.append(job.id)
        return {}

    busy = {name: 400 * concurrency for name in LANES if name != lane}
    await _fill(harness, **busy)
    await harness.enqueue("single", priority=PRIORITIES[lane])
    worker = worker_pool.start(harness, executor, max_concurrent=concurrency)
    await harness.wait_for_end("single")
    await worker.stop()
    for name in busy:
        assert harness.redis.xlen(harness.keys.stream_of(PRIORITIES[name])) > 0, (
            "it ran before them"
        )
    harness.redis.flushdb()
