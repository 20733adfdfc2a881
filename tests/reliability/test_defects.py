"""Defects of an earlier implementation, and the tests that would find them here.

`DEFECTS` describes each defect and names its tests. Those that no other file contains are below.
"""

import ast
import asyncio
import re
import time

import pytest
from support.paths import TESTS

from aragora_q.base import Job, JobStatus
from aragora_q.redis.connection import READ_SECONDS
from aragora_q.streams.queue import create_redis_queue, default_worker_id

DEFECTS = {
    # blocking
    "once the group exists, every further process dies of BUSYGROUP": (
        "test_any_number_of_processes_may_join",
    ),
    "the idle time of pending entries is misread, so no stale job is ever claimed": (
        "test_reclaim_counts_a_crash_not_an_attempt",
    ),
    "a claimed job is never executed": (
        "test_killed_worker_is_replaced_by_another",
        "test_restarted_worker_takes_its_jobs_at_once",
    ),
    "a retry is never redelivered, its backoff only logged": (
        "test_retries_until_it_works",
        "test_retry_waits_out_its_backoff",
    ),
    "nothing is ever acknowledged: one finished job is one pending entry for ever": (
        "test_complete",
    ),
    "exceptions of other types escape: the job stays PROCESSING for ever": (
        "test_whatever_an_executor_raises_is_an_outcome",
    ),
    "SIGTERM cancels running jobs and leaves them PROCESSING": (
        "test_sigterm_drains",
        "test_jobs_are_released_after_the_drain_time",
    ),
    "a job that arrives during the last blocking read is started and cancelled": (
        "test_stop_drains",
    ),
    "with all slots busy a signal is has_received only when a job ends, a second one never": (
        "test_second_signal_releases",
        "test_second_stop_releases_at_once",
    ),
    "any disconnect kills the worker and its running jobs": (
        "test_worker_goes_on_after",
        "test_outage_longer_than_the_lease_charges_nobody",
    ),
    "all queues share one stream: workers take jobs that are not theirs": (
        "test_queues_do_not_mix",
    ),
    "attempts and delays are ignored: a failing job is retried thousands of times a second": (
        "test_attempts_are_bounded",
        "test_retries_until_it_works",
    ),
    "an idle worker dies of the client's own read timeout": (
        "test_blocking_read_ends_before_its_timeout",
    ),
    # data and state
    "attempts start again at 1 with every delivery": ("test_attempts_are_bounded",),
    "the error is lost": (
        "test_retry_waits_out_its_backoff",
        "test_fail",
    ),
    "the result is lost, a failure shows as completed": (
        "test_complete",
        "test_fail",
    ),
    "a cancelled job runs, and its status goes back to PROCESSING": (
        "test_cancel_ends_any_live_job_at_once",
        "test_cancel_stops_a_running_job",
    ),
    "a fast worker finishes a job before its status is written, which then stays PENDING": (
        "test_workers_may_be_faster_than_enqueue",
    ),
    "a late report turns COMPLETED into RETRYING": (
        "test_late_report_changes_nothing",
        "test_only_the_lease_owner_may_report",
    ),
    "a malformed entry kills the worker, or stays pending for ever": (
        "test_malformed_entry_becomes_a_dead_letter",
        "test_malformed_payload_is_a_dead_letter",
    ),
    "the stream keeps every job ever enqueued": ("test_ended_jobs_leave_the_stream",),
    "data of a waiting job expires before it runs; payloads are stored twice": (
        "test_waiting_jobs_never_expire",
    ),
    "a status update of an expired job leaves half a hash": (
        "test_running_job_whose_hash_was_lost_runs_again",
    ),
    "priority and delay are ignored": (
        "test_any_lane_can_be_read_first",
        "test_delayed_job_waits_outside_the_lanes",
    ),
    "the status lies under another prefix than the stream": (
        "test_every_key_has_the_configured_prefix",
    ),
    "claiming looks at the first hundred entries only": ("test_reclaim_walks_the_whole_list",),
    "a live job longer than the claim time is taken from its worker": (
        "test_blocked_event_loop_keeps_its_leases",
        "test_renew_keeps_leases_and_the_heartbeat",
    ),
    "consumers of dead workers pile up; default names collide": (
        "test_consumers_of_dead_workers_are_deleted",
        "test_default_worker_ids_differ",
    ),
    "enqueueing an id again runs it twice": ("test_enqueue_again_changes_nothing",),
}


def _test_names():
    for file in TESTS.rglob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                yield node.name


TEST_NAMES = set(_test_names())


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_has_its_test(defect):
    """Every defect names tests that exist."""
    assert set(DEFECTS[defect]) <= TEST_NAMES


async def _done(job):
    return {"by": job.worker_id}


async def test_any_number_of_processes_may_join(new_harness, worker_pool):
    """Clients and workers that find stream and group in place use them, however often they come."""
    harness = new_harness(claim_idle_ms=60_000)
    for n in range(3):
        worker_pool.start(harness, _done, f"w{n}")
    for n in range(3):
        queue = await create_redis_queue(harness.config)
        await queue.enqueue(Job(payload={}, id=f"j{n}"))
        await queue.close()
    assert {job.status for job in await harness.wait_for_end("j0", "j1", "j2")} == {
        JobStatus.COMPLETED
    }


async def test_queues_do_not_mix(new_harness, worker_pool):
    """A worker never gets a job of another queue on the same server, even with the same id."""
    debates, mail = (
        new_harness(claim_idle_ms=60_000),
        new_harness(claim_idle_ms=60_000, queue="mail"),
    )
    await debates.enqueue("a", group="g")
    await mail.enqueue("a", group="g")
    worker_pool.start(mail, _done, "postman")
    assert (await mail.wait_for_end("a")).worker_id == "postman"
    for harness, ended in ((debates, 0), (mail, 1)):
        assert (await harness.queue.tracker.get_group("g")).counts["completed"] == ended
    assert await debates.queue.get_status("a") is JobStatus.PENDING
    assert (await debates.queue.get_queue_stats())["workers"] == []


async def test_blocking_read_ends_before_its_timeout(new_harness):
    """The server ends a blocking read before any client's timeout does."""
    harness = new_harness()
    started_at = time.monotonic()
    read = harness.queue.connection.read_blocking({harness.keys.events: "$"}, 3600, count=1)
    assert await read == {}
    assert time.monotonic() - started_at >= READ_SECONDS * 0.9


async def test_workers_may_be_faster_than_enqueue(new_harness, worker_pool):
    """With workers waiting for every job, no job stays in an earlier status."""
    harness = new_harness(claim_idle_ms=60_000)
    for n in range(2):
        worker_pool.start(harness, _done, f"w{n}", max_concurrent=20)
    ids = [f"j{n}" for n in range(200)]
    await asyncio.gather(*(harness.enqueue(job_id) for job_id in ids))
    assert {job.status for job in await harness.wait_for_end(*ids)} == {JobStatus.COMPLETED}


async def test_ended_jobs_leave_the_stream(new_harness, worker_pool):
    """XLEN counts jobs that wait or run, not ended ones."""
    harness = new_harness(claim_idle_ms=60_000)
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(300)])
    await worker_pool.start(harness, _done, max_concurrent=50, burst=True).task
    assert harness.redis.xlen(harness.keys.stream_normal) == 0
    stats = await harness.queue.get_queue_stats()
    assert (stats["stream_length"], stats["pending_count"], stats["completed"]) == (0, 0, 300)


async def test_waiting_jobs_never_expire(new_harness):
    """No key of a job that waits, runs or is delayed has a TTL; its payload lies in one place."""
    harness = new_harness(claim_idle_ms=60_000, max_job_ttl_days=0.0001)
    session = await harness.worker()
    await harness.enqueue("running")
    await harness.start_one(session)
    await harness.enqueue("waiting")
    await harness.enqueue("delayed", delay_seconds=9)
    keys = list(harness.redis.scan_iter(match=f"{harness.keys.job_prefix}*"))
    assert sorted(keys) == sorted(
        [
            *(harness.keys.job(name) for name in ("running", "waiting", "delayed")),
            harness.keys.payload("delayed"),
        ]
    )
    assert {harness.redis.pttl(key) for key in keys} == {-1}


async def test_every_key_has_the_configured_prefix(new_harness, worker_pool):
    """Stream, status, indexes, labels, groups, workers, events: all lie under key_prefix and queue name."""
    harness = new_harness(key_prefix="elsewhere:", queue="q1", claim_idle_ms=60_000)
    await harness.enqueue("a", group="g", tenant="t", tags={"k": "v"})
    await harness.queue.seal_group("g", Job({}, id="then", tenant="t"))
    await harness.enqueue("b", delay_seconds=3600)
    await worker_pool.start(
        harness, _done, burst=True, retry_policy=harness.config.retry_policy()
    ).task
    keys = harness.redis.keys("*")
    assert len(keys) >= 12
    assert not [key for key in keys if not key.startswith("elsewhere:q1:")]


def test_default_worker_ids_differ():
    """Default worker ids differ, also within one process."""
    ids = {default_worker_id() for _ in range(20)}
    assert len(ids) > 15
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}", each) for each in ids)
