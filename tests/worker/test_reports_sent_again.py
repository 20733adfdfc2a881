"""A worker that repeats a report because its reply was lost loses no lease."""

import asyncio

import pytest
from support.wait import wait_until
from support.workers import LONG_LEASE

from aragora_q.contracts import FetchResult, Released, Report
from aragora_q.errors import RedisUnreachable, RetryLater


async def _retry(job):
    raise RuntimeError("once more")


async def _retry_later(job):
    raise RetryLater("busy", delay_seconds=60)


@pytest.mark.parametrize("executor", [_retry, _retry_later])
async def test_a_job_that_moved_on_meanwhile_is_no_lost_lease(new_harness, worker_pool, executor):
    """The reply to a retry is lost, and another worker runs the job before the report is sent again."""
    harness = new_harness(retry_base_delay=60, **LONG_LEASE)
    other, taken = await harness.worker("other"), []
    assert (await harness.queue.claim_maintenance("other", 60)).is_granted  # it alone promotes
    await harness.enqueue("a")
    worker = worker_pool.start(harness, executor)
    session = worker._session
    start, report = session.start, session.report

    async def start_once(*args, **options):
        session.start = starts_nothing  # the job is for `other` from now on
        return await start(*args, **options)

    async def starts_nothing(*_, **__):
        await asyncio.sleep(0.05)
        return FetchResult("empty")

    async def lossy(reports):
        results = await report(reports)
        if not taken:
            taken.append(await harness.start_delayed(other))
            raise RedisUnreachable("the reply was lost")
        return results

    session.start, session.start_next, session.report = start_once, starts_nothing, lossy
    await wait_until(lambda: taken)
    await wait_until(worker.metrics.attempts["retrying"]._value.get, what="the repeated report")
    assert worker.metrics.leases_lost._value.get() == 0
    assert worker.metrics.attempts["lost"]._value.get() == 0
    assert "refused" not in harness.counters()
    assert harness.fields("a")["fence"] == str(taken[0].fence)
    assert await other.report([Report(taken[0], Released())]) == ["released"]
