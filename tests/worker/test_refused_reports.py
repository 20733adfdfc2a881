"""Reports that Redis refuses end the job instead of repeating it endlessly."""

from collections import Counter

import pytest
from support.wait import wait_until
from support.workers import LONG_LEASE, wait_until_registered

from aragora_q.base import JobStatus
from aragora_q.errors import AragoraQError, PermanentError


async def test_refused_report_fails_the_job(own_server, new_harness, worker_pool):
    """A result that the server refuses makes a dead letter that says so, after a single run."""
    server, starts = own_server("--proto-max-bulk-len", "1mb"), []
    harness = new_harness(redis_url=server.url, claim_idle_ms=1000, max_result_bytes=2_000_000)

    async def executor(job):
        starts.append(job.id)
        return {"x": "y" * 1_500_000} if job.id == "big" else {}

    worker_pool.start(harness, executor)
    await harness.enqueue("big")
    big = await harness.wait_for_end("big")
    await harness.enqueue("small")
    assert (await harness.wait_for_end("small")).status is JobStatus.COMPLETED
    assert big.status is JobStatus.FAILED
    assert "report refused" in big.error
    assert starts.count("big") == 1


async def test_a_refused_partial_result_does_not_cost_the_failure(
    own_server, new_harness, worker_pool
):
    """A failure whose partial result the server refuses is recorded without it; its error has both causes."""
    server = own_server("--proto-max-bulk-len", "1mb")
    harness = new_harness(redis_url=server.url, claim_idle_ms=1000, max_result_bytes=2_000_000)

    async def executor(job):
        raise PermanentError("no vote", partial_result={"x": "y" * 1_500_000})

    worker_pool.start(harness, executor)
    await harness.enqueue("big")
    big = await harness.wait_for_end("big")
    assert (big.status, big.result, big.attempts) == (JobStatus.FAILED, None, 1)
    assert big.error.startswith("partial result left out (report refused: ")
    assert big.error.endswith("; PermanentError: no vote")


@pytest.mark.slow
async def test_report_refused_every_time_is_a_crash(new_harness, worker_pool):
    """A job whose every report is refused runs exactly twice as often as crashes are permitted.

    Its live worker does not renew it, which is not a crash the first times.
    """
    harness = new_harness(max_crashes=2, **LONG_LEASE)
    starts = Counter()

    async def executor(job):
        starts[job.id] += 1
        return {}

    worker = worker_pool.start(harness, executor)
    original = worker._session.report

    async def refusing(reports):
        if any(report.job.id == "bad" for report in reports):
            raise AragoraQError("no report with this one")
        return await original(reports)

    worker._session.report = refusing
    await wait_until_registered(harness, worker)
    record = harness.keys.worker("w1")
    await wait_until(
        lambda: len(set(harness.redis.hmget(record, "registered_at", "heartbeat_at"))) == 2
    )
    await harness.enqueue("bad")
    for refused in range(1, 5):
        await wait_until(
            lambda count=refused: worker._log.counts["lost"] == count, what="the next refusal"
        )
        harness.backdate_entry(harness.keys.stream_normal, harness.fields("bad")["entry"])
        await harness.queue.reclaim()
    await harness.enqueue("good")
    bad, good = await harness.wait_for_end("bad", "good")
    assert (good.status, starts["good"]) == (JobStatus.COMPLETED, 1)
    assert (bad.status, bad.crashes, starts["bad"]) == (JobStatus.FAILED, 2, 4)
    counters = harness.counters()
    assert (counters["redelivered"], counters["crashed"]) == (2, 2)
