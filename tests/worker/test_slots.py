"""The worker on a real server: slots, leases, faults, stopping. In-process; processes are elsewhere."""

import asyncio
import logging
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

import pytest
from prometheus_client import generate_latest
from support.executors import GatedExecutor, succeed
from support.wait import wait_until
from support.workers import (
    LONG_LEASE,
    count_calls,
    enqueue_with_retry,
    kill_clients,
    reclaiming,
    wait_until_registered,
)

from aragora_q import worker as worker_module
from aragora_q.base import Completed, Fetched, Identity, Job, JobStatus, current_attempt
from aragora_q.errors import (
    AragoraQError,
    ConfigError,
    PermanentError,
    RedisUnreachable,
    RetryLater,
)
from aragora_q.keys import GROUP
from aragora_q.metrics import DEFAULT_PORTS, WorkerMetrics, serving
from aragora_q.retry import RetryPolicy
from aragora_q.streams import RedisStreamsQueue

# -- slots, reading, reporting


async def test_no_more_jobs_at_once_than_slots(new_harness, worker_pool):
    """Never more than max_concurrent jobs run; all of them get done."""
    harness, peak, running = new_harness(**LONG_LEASE), 0, 0

    async def executor(job):
        nonlocal peak, running
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.01)
        running -= 1
        return {}

    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(20)])
    worker = worker_pool.start(harness, executor, max_concurrent=3, burst=True)
    await worker.task
    assert peak == 3
    assert harness.redis.zcard(harness.keys.completed) == 20


async def test_idle_worker_blocks_instead_of_polling(new_harness, worker_pool):
    """An idle worker costs a few commands a second at most, and starts a new job at once."""
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)
    await wait_until(lambda: harness.redis.info("clients")["blocked_clients"], what="it to block")
    harness.redis.config_resetstat()
    await asyncio.sleep(2)  # the claim is about a span of time
    assert count_calls(harness, "evalsha") <= 8
    assert count_calls(harness, "xreadgroup") <= 6
    enqueued_at = time.monotonic()
    await harness.enqueue("a")
    await harness.wait_for_end("a")
    assert time.monotonic() - enqueued_at < worker_module.IDLE_SECONDS
    assert worker.get_stats()["jobs_processed"] == 1


async def test_busy_worker_starts_and_reports_in_batches(new_harness, worker_pool):
    """A thousand jobs take a small part of a thousand round trips."""
    harness = new_harness(**LONG_LEASE)
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(1000)])
    harness.redis.config_resetstat()
    await worker_pool.start(harness, succeed, max_concurrent=100, burst=True).task
    assert harness.redis.zcard(harness.keys.completed) == 1000
    assert count_calls(harness, "evalsha") + count_calls(harness, "eval") < 100


async def test_high_lane_starves_nobody(new_harness, worker_pool):
    """Every eighth read begins at the low lane."""
    harness, order = new_harness(**LONG_LEASE), []

    async def executor(job):
        order.append(job.id)
        return {}

    await harness.queue.enqueue_many([Job(payload={}, id=f"h{n}", priority=1) for n in range(20)])
    await harness.enqueue("low", priority=-1)
    await worker_pool.start(harness, executor, max_concurrent=1, burst=True).task
    assert order.index("low") < worker_module.LOW_FIRST_EVERY


async def test_burst_ends_when_nothing_is_left(new_harness, worker_pool):
    """A burst waits for retries and jobs due soon, not for those of tomorrow; and not when empty."""
    harness = new_harness(retry_max_delay=1, **LONG_LEASE)
    await worker_pool.start(harness, succeed, burst=True).task
    await harness.enqueue("soon", delay_seconds=0.3)
    await harness.enqueue("tomorrow", delay_seconds=86_400)
    await harness.enqueue("flaky")

    async def executor(job):
        if job.id == "flaky" and job.attempts < 3:
            raise RuntimeError("not yet")
        return {"attempts": job.attempts}

    worker = worker_pool.start(harness, executor, burst=True)
    await worker.task
    assert (await harness.queue.get_job("flaky")).result == {"attempts": 3}
    assert await harness.queue.get_status("soon") is JobStatus.COMPLETED
    assert await harness.queue.get_status("tomorrow") is JobStatus.PENDING
    assert worker.get_stats()["jobs_processed"] == 2


async def test_stats_have_the_promised_keys(new_harness, worker_pool):
    """`get_stats` before, while and after: id, active, processed, failed, uptime."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    assert worker.get_stats()["active_jobs"] == 0
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    stats = worker.get_stats()
    assert (stats["worker_id"], stats["active_jobs"]) == ("w1", 1)
    assert (stats["jobs_processed"], stats["jobs_failed"]) == (0, 0)
    assert stats["uptime_seconds"] > 0
    gated.gate.set()
    await harness.wait_for_end("a")
    await wait_until(lambda: worker.get_stats()["jobs_processed"] == 1)


async def test_paused_worker_resumes(new_harness, worker_pool, caplog):
    """A worker that finds its queue paused says so once, waits, and goes on soon after the resume."""
    caplog.set_level(logging.INFO)
    harness = new_harness(**LONG_LEASE)
    await harness.queue.pause()
    await harness.enqueue("a")
    worker = worker_pool.start(harness, succeed)
    await wait_until(lambda: "queue is paused" in caplog.text, what="it to say so")
    harness.redis.config_resetstat()
    await wait_until(
        lambda: count_calls(harness, "xreadgroup") or count_calls(harness, "evalsha") > 3
    )
    assert caplog.text.count("queue is paused") == 1
    assert await harness.queue.get_status("a") is JobStatus.PENDING
    assert worker.is_healthy()
    resumed_at = time.monotonic()
    await harness.queue.pause(paused=False)
    await harness.wait_for_end("a")
    assert time.monotonic() - resumed_at < worker_module.IDLE_SECONDS + 3


async def test_burst_ends_on_a_paused_queue(new_harness, worker_pool):
    """A burst does not wait for a resume; what already runs is finished first."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated, burst=True, max_concurrent=2)
    await harness.enqueue("running")
    await wait_until(lambda: gated.entered or worker.task.done())
    if worker.task.done():  # it was done before the job came
        worker = worker_pool.start(harness, gated, "w2", burst=True, max_concurrent=2)
        await wait_until(lambda: gated.entered)
    await harness.queue.pause()
    await harness.enqueue("late")
    gated.gate.set()
    await asyncio.wait_for(worker.task, 10)
    assert await harness.queue.get_status("running") is JobStatus.COMPLETED
    assert await harness.queue.get_status("late") is JobStatus.PENDING


async def test_burst_ends_before_jobs_of_a_newer_version(new_harness, worker_pool):
    """A job that no worker of this version can run keeps no burst waiting."""
    harness = new_harness(**LONG_LEASE)
    await harness.enqueue("newer")
    harness.redis.hset(harness.keys.job("newer"), "schema", 99)
    await harness.enqueue("a")
    await asyncio.wait_for(worker_pool.start(harness, succeed, burst=True).task, 10)
    assert await harness.queue.get_status("a") is JobStatus.COMPLETED
    assert harness.redis.zcard(harness.keys.delayed) == 1


# -- what executors do


class _Base(BaseException):
    pass


RAISED = {
    "ValueError": (ValueError("x"), "failed"),
    "TypeError": (TypeError("x"), "failed"),
    "KeyError": (KeyError("x"), "failed"),
    "PermanentError": (PermanentError("x"), "failed"),
    "message": (RuntimeError("model Not Found"), "failed"),
    "RuntimeError": (RuntimeError("x"), "retrying"),
    "Exception": (Exception("x"), "retrying"),
    "ConnectionError": (ConnectionError("host not found"), "retrying"),
    "TimeoutError": (TimeoutError("invalid"), "retrying"),
    "RetryLater": (RetryLater("busy", delay_seconds=60), "retrying"),
    "BaseException": (_Base("x"), "retrying"),
    "SystemExit": (SystemExit(3), "retrying"),
    "GeneratorExit": (GeneratorExit(), "retrying"),
    "CancelledError": (asyncio.CancelledError(), "retrying"),
    "ExceptionGroup": (ExceptionGroup("x", [ValueError("y")]), "retrying"),
}


@pytest.mark.parametrize(("error", "status"), RAISED.values(), ids=RAISED)
async def test_whatever_an_executor_raises_is_an_outcome(new_harness, worker_pool, error, status):
    """No exception escapes: the job is retried or failed as the table says, the worker goes on."""
    harness = new_harness(retry_base_delay=60, **LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise error
        return {}

    worker = worker_pool.start(harness, executor)
    await harness.enqueue("bad")
    await harness.enqueue("good")
    await harness.wait_for_end("good")

    async def settled():
        return await harness.queue.get_status("bad") == status

    await wait_until(settled, what=f"the job to be {status}")
    job = await harness.queue.get_job("bad")
    assert job.error
    assert job.attempts == (0 if isinstance(error, RetryLater) else 1)
    assert not worker.task.done()


RESULTS = {
    "none": (None, "not a JSON object"),
    "list": ([1], "not a JSON object"),
    "nan": ({"x": float("nan")}, "not JSON"),
    "object": ({"x": object()}, "not JSON"),
    "oversize": ({"x": "y" * 2000}, "max_result_bytes is 1000"),
}


@pytest.mark.parametrize(("result", "rule"), RESULTS.values(), ids=RESULTS)
async def test_results_that_cannot_be_kept_fail_the_job(new_harness, worker_pool, result, rule):
    """What is no JSON object, or too large, is a dead letter that says so."""
    harness = new_harness(max_result_bytes=1000, **LONG_LEASE)

    async def executor(job):
        return result

    worker_pool.start(harness, executor)
    await harness.enqueue("a")
    job = await harness.wait_for_end("a")
    assert job.status is JobStatus.FAILED
    assert rule in job.error


async def test_retries_until_it_works(new_harness, worker_pool):
    """A job that fails twice is run a third time, after its backoff, and completes."""
    harness, starts = new_harness(**LONG_LEASE), []

    async def executor(job):
        starts.append(time.monotonic())
        if job.attempts < 3:
            raise RuntimeError("not yet")
        return {"attempts": job.attempts}

    policy = RetryPolicy(base_delay_seconds=0.2, jitter=False)
    worker_pool.start(harness, executor, retry_policy=policy)
    await harness.enqueue("a")
    job = await harness.wait_for_end("a")
    assert job.result == {"attempts": 3}
    assert starts[1] - starts[0] >= 0.2
    assert starts[2] - starts[1] >= 0.4


async def test_timeout_seconds_is_kept(new_harness, worker_pool):
    """A job's own time limit ends its attempt, which is charged and may be retried."""
    harness = new_harness(**LONG_LEASE)
    worker_pool.start(harness, GatedExecutor())
    await harness.queue.enqueue(Job(payload={"timeout_seconds": 0.05}, id="a", max_attempts=1))
    job = await harness.wait_for_end("a")
    assert job.status is JobStatus.FAILED
    assert "no result within timeout_seconds (0.05)" in job.error


async def test_executor_speaks_through_its_attempt(new_harness, worker_pool):
    """Progress shows while the job runs; a checkpoint reaches the next attempt."""
    harness, go_on = new_harness(**LONG_LEASE), asyncio.Event()

    async def executor(job):
        attempt = current_attempt()
        kept = await attempt.checkpoints()
        await attempt.report_progress({"round": len(kept)})
        if not kept:
            await attempt.checkpoint("round", {"said": "x"})
            await go_on.wait()
            raise RuntimeError("after the checkpoint")
        return {"kept": kept, "last": attempt.is_last_attempt}

    worker_pool.start(harness, executor)
    await harness.enqueue("a", max_attempts=2)

    async def progress():
        return (await harness.queue.get_job("a")).progress == {"round": 0}

    await wait_until(progress, what="progress to show")
    go_on.set()
    assert (await harness.wait_for_end("a")).result == {
        "kept": {"round": {"said": "x"}},
        "last": True,
    }


async def test_malformed_payload_is_a_dead_letter(new_harness, worker_pool):
    """A payload that is no JSON object fails its own job, bytes kept, and no other."""
    harness = new_harness(**LONG_LEASE)
    worker_pool.start(harness, succeed)
    harness.write_raw({"id": "bytes", "payload": b"\xff\x00"})
    harness.write_raw({"id": "list", "payload": "[1]"})
    await harness.enqueue("good")
    odd, other, good = await harness.wait_for_end("bytes", "list", "good")
    assert (odd.status, other.status, good.status) == ("failed", "failed", "completed")
    assert odd.raw_payload == b"\xff\x00"
    assert "not an object" in other.error


# -- leases


async def test_blocked_event_loop_keeps_its_leases(new_harness, worker_pool):
    """Code that blocks the loop for three leases loses no job: not its own, not its neighbour's."""
    harness = new_harness()
    gated = GatedExecutor()

    async def executor(job):
        if job.id == "blocking":
            time.sleep(3 * harness.config.claim_idle_ms / 1000)
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
        assert (job.attempts, job.fence, job.crashes) == (1, 1, 0)


async def test_cancel_stops_a_running_job(new_harness, worker_pool):
    """A cancel reaches the running task within a quarter lease or little more."""
    harness, gated = new_harness(claim_idle_ms=2000), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    cancelled_at = time.monotonic()
    assert await harness.queue.cancel("a")
    await wait_until(lambda: gated.cancelled == ["a"], what="the task to be cancelled")
    assert time.monotonic() - cancelled_at < 1.5
    await wait_until(lambda: worker.get_stats()["active_jobs"] == 0)
    assert worker.metrics.jobs["cancelled"]._value.get() == 1
    await harness.enqueue("b")
    gated.gate.set()
    await harness.wait_for_end("b")


async def test_lost_job_is_given_up(new_harness, worker_pool):
    """An attempt whose job was taken over is stopped; the new holder's result stands."""
    harness, gated = new_harness(claim_idle_ms=2000), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    successor = await harness.worker("successor")
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    await harness.queue.pause()
    harness.backdate("a")
    assert [each.decision for each in await harness.queue.reclaim()] == ["reclaimed"]
    await wait_until(lambda: gated.cancelled == ["a"], what="the zombie to stop")
    assert worker.metrics.leases_lost._value.get() == 1
    await harness.queue.pause(paused=False)
    gated.gate.set()
    await harness.wait_for_end("a")
    assert (await harness.queue.get_job("a")).fence == 2
    assert successor


async def test_result_of_a_zombie_is_refused(new_harness, worker_pool):
    """A result that arrives after the job was taken over changes nothing and is counted."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    successor = await harness.worker("successor")
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
    assert worker.metrics.jobs["lost"]._value.get() == 1


async def test_job_that_ends_after_its_cancel_is_no_lost_lease(new_harness, worker_pool):
    """A job that is cancelled, and ends before a renewal tells, counts as cancelled: no alert."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    await harness.queue.cancel("a")
    gated.gate.set()
    await wait_until(worker.metrics.jobs["cancelled"]._value.get, what="the verdict")
    await worker.stop()
    assert worker.metrics.leases_lost._value.get() == 0
    assert await harness.queue.get_status("a") is JobStatus.CANCELLED


async def test_lost_record_is_written_again_while_all_slots_are_busy(new_harness, worker_pool):
    """A worker that is told it is unregistered signs on again at once, however long its jobs run."""
    harness, gated = new_harness(claim_idle_ms=800), GatedExecutor()
    worker_pool.start(harness, gated, max_concurrent=1)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    harness.redis.delete(harness.keys.worker("w1"), harness.keys.workers)
    await wait_until(lambda: harness.redis.exists(harness.keys.worker("w1")), what="the record")
    await wait_until(lambda: harness.redis.zscore(harness.keys.workers, "w1"), what="the heartbeat")
    gated.gate.set()
    assert (await harness.wait_for_end("a")).fence == 1


async def test_replaced_worker_goes(new_harness, worker_pool):
    """A worker whose id another boot took over gives up what it lost, hands back the rest, and ends."""
    harness, gated = new_harness(claim_idle_ms=400), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=1)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    other_worker = harness.queue.session(Identity("w1", "other_worker"))
    assert await other_worker.register({"pid": "7"}, dead_boot_id=worker.identity.boot_id) == 0

    async def beat():
        harness.renew(other_worker)
        return worker.task.done()

    await wait_until(beat, what="the old boot to end")
    with pytest.raises(ConfigError, match="worker id w1 is in use by pid 7"):
        await worker.task
    assert gated.cancelled == ["a"]
    await wait_until(lambda: harness.fields("a").get("status") in ("pending", "retrying"))
    await other_worker.unregister()


async def test_unheard_start_is_undone(new_harness, worker_pool):
    """A start that was served but whose answer was lost runs anyway, charged once."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    gated.gate.set()
    worker = worker_pool.start(harness, gated)
    original, lost = worker._session.start, []

    async def lossy(limit, **options):
        fetched = await original(limit, **options)
        if fetched.jobs and not lost:
            lost.extend(fetched.jobs)
            raise RedisUnreachable("the answer was lost")
        return fetched

    worker._session.start = lossy
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(3)])
    jobs = await harness.wait_for_end("j0", "j1", "j2")
    assert lost
    assert all(job.attempts == 1 and job.crashes == 0 for job in jobs)
    assert harness.counters()["released"] == len(lost)


async def test_blocked_worker_starts_nothing_unheard(new_harness, worker_pool):
    """While a job blocks the event loop, no other job is started for this worker: others may run it."""
    harness, seen = new_harness(**LONG_LEASE), []

    async def enqueue():
        queue = RedisStreamsQueue(harness.config)
        await queue.enqueue(Job(payload={}, id="other"))
        await queue.close()

    async def executor(job):
        if job.id == "blocking":
            await wait_until(
                lambda: harness.redis.info("clients")["blocked_clients"], what="the read"
            )
            thread = threading.Thread(target=lambda: asyncio.run(enqueue()))
            thread.start()
            thread.join()
            seen.append(harness.fields("other")["status"])
        return {}

    worker_pool.start(harness, executor)
    await harness.enqueue("blocking")
    await harness.wait_for_end("blocking", "other")
    assert seen == ["pending"]


async def test_freed_slot_is_filled_at_once(new_harness, worker_pool):
    """A worker that looked for unheard starts while all its slots were busy still knows what waits."""
    harness, gated, looks = new_harness(), GatedExecutor(), []
    worker = worker_pool.start(harness, gated, max_concurrent=1)
    original = worker._session.recover

    async def recover(*args, **options):
        looks.append(args)
        return await original(*args, **options)

    worker._session.recover = recover
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    await harness.enqueue("b")
    await wait_until(lambda: looks, what="a look")
    freed_at = time.monotonic()
    gated.gate.set()
    await wait_until(lambda: "b" in gated.entered)
    assert time.monotonic() - freed_at < worker_module.IDLE_SECONDS / 2


# -- stopping


async def test_stop_hands_back_what_it_did_not_hear_of(new_harness, worker_pool):
    """A job that was started for an idle worker just as it stops goes back before the drain, uncharged."""
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)
    original = worker._session.start_next

    async def unheard(*args):
        if (await original(*args)).jobs:
            await asyncio.Event().wait()
        return Fetched("ok")

    worker._session.start_next = unheard
    await wait_until_registered(harness, worker)
    await harness.enqueue("a")
    await wait_until(lambda: harness.fields("a")["status"] == "processing")
    stopping = asyncio.create_task(worker.stop())
    await wait_until(lambda: harness.fields("a")["status"] == "pending")
    await stopping
    job = await harness.queue.get_job("a")
    assert (job.attempts, job.crashes) == (0, 0)


async def test_stop_drains(new_harness, worker_pool):
    """stop() waits for running jobs, takes no new ones, and signs off."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=2)
    await harness.enqueue("running")
    await wait_until(lambda: gated.entered)
    stopping = asyncio.create_task(worker.stop())
    await wait_until(lambda: worker.get_stats()["is_draining"])
    await harness.enqueue("late")
    assert not stopping.done()
    gated.gate.set()
    await stopping
    assert await harness.queue.get_status("running") is JobStatus.COMPLETED
    assert await harness.queue.get_status("late") is JobStatus.PENDING
    assert gated.entered == ["running"]
    assert (await harness.queue.get_queue_stats())["workers"] == []
    assert harness.redis.xinfo_consumers(harness.keys.stream_normal, GROUP) == []


async def test_drain_time_over_jobs_go_back(new_harness, worker_pool):
    """What has not finished within the drain time is released: nothing charged."""
    harness, gated = new_harness(drain_timeout_seconds=0.1, **LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    await worker.stop()
    job = await harness.queue.get_job("a")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)
    assert gated.cancelled == ["a"]


async def test_second_stop_hands_back_at_once(new_harness, worker_pool):
    """While a drain is under way, even with every slot busy, hurry ends it."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=2)
    for name in "abc":
        await harness.enqueue(name)
    await wait_until(lambda: len(gated.entered) == 2)
    draining = asyncio.create_task(worker.stop())
    await wait_until(lambda: worker.get_stats()["is_draining"])
    await worker.stop(hurry=True)
    await draining
    assert sorted(gated.cancelled) == ["a", "b"]
    assert [await harness.queue.get_status(name) for name in "abc"] == ["pending"] * 3
    assert harness.fields("a")["attempts"] == "0"


async def test_stop_of_an_idle_worker_is_quick(new_harness, worker_pool):
    """A worker blocked in its read stops at once, and leaves nothing that would start a job for it."""
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)
    await wait_until(lambda: harness.redis.info("clients")["blocked_clients"], what="it to block")
    asked_at = time.monotonic()
    await worker.stop()
    assert time.monotonic() - asked_at < 1
    await harness.enqueue("a")
    assert not harness.redis.info("clients")["blocked_clients"]
    assert await harness.queue.get_status("a") is JobStatus.PENDING


async def test_stop_before_start_and_twice(new_harness, worker_pool):
    """stop() before the start keeps it from taking jobs; stop() after the end returns."""
    harness = new_harness(**LONG_LEASE)
    await harness.enqueue("a")
    worker = worker_pool.start(harness, succeed)
    await worker.stop()
    await worker.task
    await worker.stop()
    assert await harness.queue.get_status("a") is JobStatus.PENDING


async def test_cancelled_start_hands_back(new_harness, worker_pool):
    """When the task that runs start() is cancelled, running jobs are released before it ends."""
    harness, gated = new_harness(**LONG_LEASE), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    worker.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker.task
    assert (await harness.queue.get_job("a")).attempts == 0
    assert await harness.queue.get_status("a") is JobStatus.PENDING


# -- faults


FAULTS = {
    "connections cut": kill_clients,
    "scripts flushed": lambda harness: harness.redis.script_flush(),
    "stream deleted": lambda harness: harness.redis.delete(harness.keys.stream_normal),
    "group deleted": lambda harness: harness.redis.xgroup_destroy(
        harness.keys.stream_normal, GROUP
    ),
    "everything deleted": lambda harness: harness.redis.flushall(),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_worker_goes_on_after(new_harness, worker_pool, fault):
    """Whatever is cut or deleted under an idle worker, the next jobs run."""
    harness = new_harness(claim_idle_ms=1000)
    worker = worker_pool.start(harness, succeed)
    await harness.enqueue("before")
    await harness.wait_for_end("before")
    FAULTS[fault](harness)
    for name in ("after", "later"):
        await enqueue_with_retry(harness, name)
        assert (await harness.wait_for_end(name)).status is JobStatus.COMPLETED
    assert not worker.task.done()


@pytest.mark.parametrize("kind", ["frozen", "restarted"])
async def test_outage_longer_than_the_lease_charges_nobody(
    own_server, new_harness, worker_pool, kind
):
    """Redis away for longer than a lease: running jobs stay with their workers, results get through."""
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    harness = new_harness(redis_url=server.url, claim_idle_ms=4000)
    gated = {name: GatedExecutor() for name in ("w1", "w2")}
    for name, executor in gated.items():
        worker_pool.start(harness, executor, name, max_concurrent=1)
    for name in ("a", "b"):
        await harness.enqueue(name)
    await wait_until(lambda: all(each.entered for each in gated.values()))
    if kind == "frozen":
        server.process.send_signal(signal.SIGSTOP)
    else:
        server.kill()
    gated["w1"].gate.set()  # one job ends meanwhile: its result waits for the server
    await asyncio.sleep(6)
    if kind == "frozen":
        server.process.send_signal(signal.SIGCONT)
    else:
        server.start()
        harness.redis.connection_pool.disconnect()
    await asyncio.sleep(4.5)  # long enough for a caretaker to take what it should not
    gated["w2"].gate.set()
    for job in await harness.wait_for_end("a", "b"):
        assert (job.status, job.attempts, job.fence, job.crashes) == ("completed", 1, 1, 0)
    assert not {"crashed", "refused"} & set(harness.counters())


async def test_password_set_later_is_waited_out(own_server, new_harness, worker_pool):
    """NOAUTH in mid-life does not end a worker; it says so and goes on when it is let in again."""
    server = own_server()
    harness = new_harness(redis_url=server.url, claim_idle_ms=1000)
    worker = worker_pool.start(harness, succeed)
    await harness.enqueue("a")
    await harness.wait_for_end("a")
    harness.redis.config_set("requirepass", "secret")
    kill_clients(harness)
    await wait_until(
        lambda: "denies access" in (worker.get_stats()["redis_fault"] or ""),
        what="the fault to show",
    )
    assert worker.is_healthy()
    harness.redis.config_set("requirepass", "")
    await enqueue_with_retry(harness, "b")
    await harness.wait_for_end("b")
    await wait_until(lambda: worker.get_stats()["redis_fault"] is None, what="the fault to pass")
    assert worker.metrics.redis_errors("AccessDenied")._value.get() >= 1


async def test_full_server_drains(own_server, new_harness, worker_pool):
    """When Redis is out of memory, new jobs are refused and running and waiting ones still end."""
    server = own_server()
    harness = new_harness(redis_url=server.url, **LONG_LEASE)
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(20)])
    harness.redis.config_set("maxmemory", 1)
    with pytest.raises(Exception, match="OOM"):
        await harness.enqueue("new")
    await worker_pool.start(harness, succeed, burst=True).task
    assert harness.redis.zcard(harness.keys.completed) == 20
    harness.redis.config_set("maxmemory", 0)


async def test_refused_report_fails_the_job(own_server, new_harness, worker_pool):
    """A result that the server will not take is a dead letter that says so, after a single run."""
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


async def test_report_refused_for_good_is_a_crash(new_harness, worker_pool):
    """A job whose every report is refused runs as often as crashes allow, not for ever."""
    harness = new_harness(claim_idle_ms=400, max_crashes=2)
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
    for name in ("bad", "good"):
        await harness.enqueue(name)
    bad, good = await harness.wait_for_end("bad", "good")
    assert (good.status, starts["good"]) == (JobStatus.COMPLETED, 1)
    assert (bad.status, bad.crashes, starts["bad"]) == (JobStatus.FAILED, 2, 2)


async def test_busy_worker_is_healthy_through_an_outage(
    own_server, new_harness, worker_pool, monkeypatch, caplog
):
    """With every slot full and nothing to report, an outage is noticed, told, and no stall."""
    monkeypatch.setattr(worker_module, "STALLED_SECONDS", 0.3)
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    harness, gated = new_harness(redis_url=server.url, claim_idle_ms=400), GatedExecutor()
    worker = worker_pool.start(harness, gated, max_concurrent=1)
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    caplog.clear()
    server.kill()
    silence = lambda: time.monotonic() - worker.keeper.last_answer_at  # noqa: E731
    await wait_until(lambda: silence() > 2, what="a silence longer than limit and lease")
    assert worker.is_healthy()
    assert worker.get_stats()["redis_fault"]
    assert any(
        record.levelno == logging.WARNING and record.what == "renew"
        for record in caplog.records
        if record.message == "Redis did not serve us, trying on"
    )
    server.start()
    harness.redis.connection_pool.disconnect()
    await wait_until(lambda: worker.get_stats()["redis_fault"] is None, what="the fault to pass")
    assert worker.is_healthy()
    gated.gate.set()
    assert (await harness.wait_for_end("a")).status is JobStatus.COMPLETED


async def test_denied_read_does_not_spin(new_harness, worker_pool):
    """If only the blocking read is refused, the worker still works, at a bounded rate."""
    harness = new_harness(**LONG_LEASE)
    worker = worker_pool.start(harness, succeed)

    async def refused(*_):
        raise RedisUnreachable("no XREAD for you")

    worker._session.wait_for_work = worker._session.start_next = refused
    await harness.enqueue("a")
    await harness.wait_for_end("a")
    harness.redis.config_resetstat()
    await asyncio.sleep(1)  # the claim is about a span of time
    assert count_calls(harness, "evalsha") < 60


# -- what can be seen


async def test_failures_are_logged_among_many_successes(new_harness, worker_pool, caplog):
    """However fast good jobs come and go, the one that failed has its line."""
    caplog.set_level(logging.INFO)
    harness = new_harness(**LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise ValueError("never")
        return {}

    await harness.queue.enqueue_many(
        [*(Job(payload={}, id=f"j{n}") for n in range(400)), Job(payload={}, id="bad")]
    )
    await worker_pool.start(harness, executor, max_concurrent=50, burst=True).task
    failed = [record for record in caplog.records if record.message == "job failed"]
    assert [(record.job, record.levelno) for record in failed] == [("bad", logging.WARNING)]
    assert sum("job completed" in record.message for record in caplog.records) < 400


def _value(metrics, sample):
    text = generate_latest(metrics.registry).decode()
    return float(re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)[1])


async def test_metrics_count_what_happened(new_harness, worker_pool):
    """Jobs by outcome, run and wait times, slots; clean for promtool."""
    harness = new_harness(retry_base_delay=0.01, **LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise ValueError("never")
        if job.attempts == 1:
            raise RuntimeError("again")
        return {}

    worker = worker_pool.start(harness, executor, max_concurrent=4)
    for name in ("good", "bad"):
        await harness.enqueue(name)
    await harness.wait_for_end("good", "bad")
    await worker.stop()
    for outcome, count in {"completed": 1, "failed": 1, "retrying": 1, "lost": 0}.items():
        sample = f'aragora_q_jobs_total{{outcome="{outcome}",queue="debates"}}'
        assert _value(worker.metrics, sample) == count
    assert _value(worker.metrics, 'aragora_q_job_run_seconds_count{queue="debates"}') == 3
    assert _value(worker.metrics, 'aragora_q_job_wait_seconds_count{queue="debates"}') == 3
    assert _value(worker.metrics, 'aragora_q_slots{queue="debates"}') == 4
    assert _value(worker.metrics, 'aragora_q_jobs_active{queue="debates"}') == 0
    assert abs(_value(worker.metrics, 'aragora_q_last_fetch_timestamp_seconds{queue="debates"}')
               - time.time()) < 60  # fmt: skip
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(worker.metrics.registry),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def _get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def test_health_tells_the_truth(new_harness, worker_pool, monkeypatch):
    """200 while all loops move, 503 while the event loop is blocked, 200 again after it."""
    monkeypatch.setattr(worker_module, "STALLED_SECONDS", 0.3)
    harness, seen = new_harness(claim_idle_ms=400), []
    with serving(
        WorkerMetrics("debates").registry,
        "127.0.0.1",
        None,
        lambda: worker.is_healthy(),  # noqa: PLW0108 - made later
    ) as port:

        async def executor(job):
            prober = asyncio.get_running_loop().run_in_executor(None, probe)
            time.sleep(1)
            await prober
            return {}

        def probe():
            deadline = time.monotonic() + 0.9
            while time.monotonic() < deadline and 503 not in seen:
                seen.append(_get(port, "/healthz")[0])
                time.sleep(0.05)

        worker = worker_pool.start(harness, executor)
        await wait_until_registered(harness, worker)
        assert await asyncio.to_thread(_get, port, "/healthz") == (200, b"ok\n")
        await harness.enqueue("a")
        await harness.wait_for_end("a")
        assert 503 in seen

        async def healthy():
            return (await asyncio.to_thread(_get, port, "/healthz"))[0] == 200

        await wait_until(healthy, what="health to return")
        assert (await asyncio.to_thread(_get, port, "/metrics"))[0] == 200
        assert (await asyncio.to_thread(_get, port, "/else"))[0] == 404


async def test_dead_lease_keeper_is_unhealthy(new_harness, worker_pool, monkeypatch):
    """If the thread that renews leases is gone, the worker does not call itself healthy."""
    monkeypatch.setattr(worker_module, "STALLED_SECONDS", 0.3)
    harness = new_harness(claim_idle_ms=400)
    worker = worker_pool.start(harness, succeed)
    await wait_until_registered(harness, worker)
    assert worker.is_healthy()
    await worker.keeper.stop()
    await wait_until(lambda: not worker.is_healthy(), what="the worker to own up")


async def test_lease_keeper_survives_anything(new_harness, worker_pool):
    """An error that nobody foresaw costs one renewal, not the thread."""
    harness, gated = new_harness(claim_idle_ms=800), GatedExecutor()
    worker = worker_pool.start(harness, gated)
    broken, make = [], worker.keeper._open_renewer

    class Broken:
        def renew(self, held):
            broken.append(held)
            raise ZeroDivisionError("a bug")

        def close(self):
            worker.keeper._open_renewer = make

    worker.keeper._open_renewer = Broken
    await wait_until(lambda: broken, what="the bug to strike")
    await harness.enqueue("a")
    await wait_until(lambda: gated.entered)
    before = worker.keeper.last_answer_at
    await wait_until(lambda: worker.keeper.last_answer_at > before, what="the next renewal")
    gated.gate.set()
    assert (await harness.wait_for_end("a")).fence == 1


def test_metrics_ports():
    """Unset: the first free one of 9464 to 9473, or none. Set and taken: refused by name. 0: off."""
    registry = WorkerMetrics("debates").registry
    with serving(registry, "127.0.0.1", None, lambda: True) as first:
        with serving(registry, "127.0.0.1", None, lambda: True) as second:
            assert first in DEFAULT_PORTS
            assert second in DEFAULT_PORTS
            assert first < second
        taken = f"metrics on 127.0.0.1:{first}: Address already in use"
        with (
            pytest.raises(ConfigError, match=taken),
            serving(registry, "127.0.0.1", first, lambda: True),
        ):
            pass
    with serving(registry, "127.0.0.1", 0, lambda: True) as off:
        assert off is None
