"""`aragora-q wait`: ends with the jobs, or with the time limit."""

from support.jobs import numbered_job


async def test_waiting_for_many_jobs_takes_few_connections(harness, run_cli):
    """1,000 ids take several round trips, but not a connection each."""
    await harness.queue.enqueue_many([numbered_job(n) for n in range(1000)])
    before = harness.redis.info("stats")["total_connections_received"]
    ended = run_cli("wait", *(f"j{n}" for n in range(1000)), "--timeout", 0)
    assert ended.code == 124
    assert harness.redis.info("stats")["total_connections_received"] - before <= 5
