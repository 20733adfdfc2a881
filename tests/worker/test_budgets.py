"""Budgets from end to end: a worker's jobs are held when a budget is full, and run when there is room again."""

import pytest
from support.wait import wait_until

from aragora_q.base import JobStatus
from aragora_q.config.tables import BudgetConfig
from aragora_q.context import Call, Settlement, current_attempt
from aragora_q.gates.book import Book
from aragora_q.maintenance import reap_pass

pytestmark = pytest.mark.usefixtures("within_a_day")

DAY = {"limit_usd": 1.0, "window": "day"}


async def _buy(job):
    """Make one call that costs 0.40 US dollars."""
    attempt = current_attempt()
    call = Call(attempt.call_id("propose"), "a", "stub", "stub@0", "m", 10, 10, 0.4)
    await attempt.acquire(call)
    await attempt.settle(call, Settlement("ok", cost_usd=0.4))
    return {"attempts": job.attempts}


async def _statuses(harness, ids):
    return sorted([str(await harness.queue.get_status(each)) for each in ids])


async def test_held_jobs_run_when_the_budget_is_raised(new_harness, worker_pool):
    """Without an operator, and without a charged attempt; until then the worker does not try them."""
    harness = new_harness(claim_idle_ms=2000, budgets={"day": DAY})
    ids = [f"j{n}" for n in range(5)]
    for job_id in ids:
        await harness.enqueue(job_id)
    worker_pool.start(harness, _buy, max_concurrent=2)

    async def are(*statuses):
        return await _statuses(harness, ids) == sorted(statuses)

    full = ("completed", "completed", "held", "held", "held")
    await wait_until(lambda: are(*full), what="the budget to be full")
    hold = (await harness.queue.get_job("j4")).hold
    assert (hold.cause, hold.by) == ("budget", "day")
    connection = harness.queue.connection.for_gates()
    try:
        await Book(connection).set_budget("day", BudgetConfig(**{**DAY, "limit_usd": 9}), by="me")
    finally:
        await connection.close()
    await wait_until(lambda: are(*["completed"] * 5), what="held jobs to be freed")
    jobs = [await harness.queue.get_job(each) for each in ids]
    assert {job.attempts for job in jobs} == {1}
    assert all(job.hold is None for job in jobs)


async def test_a_reload_changes_what_a_worker_declares(new_harness, worker_pool):
    """Budgets and limits of providers apply to its next call, and those that are gone do not."""
    harness = new_harness(budgets={"day": {**DAY, "limit_usd": 0.1}})
    worker = worker_pool.start(harness, _buy)
    await harness.enqueue("too-expensive")
    await harness.wait_for_status("too-expensive", JobStatus.FAILED)
    worker.reconfigure(harness.other_client(budgets={"month": DAY}).config)
    await harness.enqueue("cheap")
    await harness.wait_for_status("cheap", JobStatus.COMPLETED)


async def test_reap_frees_held_jobs(new_harness, worker_pool):
    """While no worker is alive, budgets are those of its configuration."""
    harness = new_harness(budgets={"day": {**DAY, "limit_usd": 0.4}})
    await harness.enqueue("first")
    await harness.enqueue("second")
    worker = worker_pool.start(harness, _buy, max_concurrent=1)
    await harness.wait_for_status("second", JobStatus.HELD)
    await worker.stop()  # with it ends what its configuration declares
    assert (await reap_pass(harness.queue, "reaper")).unheld == 0
    assert await harness.queue.get_status("second") == "held"
    report = await reap_pass(
        harness.other_client(budgets={"day": {**DAY, "limit_usd": 5}}), "reaper"
    )
    assert (report.unheld, report.is_complete) == (1, True)
    assert await harness.queue.get_status("second") == "retrying"
