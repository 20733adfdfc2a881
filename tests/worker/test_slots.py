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
from crew import Steps, ended, reaping
from prometheus_client import generate_latest
from waiting import wait_until

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

LONG_LEASE = {"claim_idle_ms": 60_000}


async def done(job):
    return {}


def calls(stage, command):
    stats = stage.raw.info("commandstats")
    return stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]


async def at_work(stage, worker):
    """Until the worker has signed on."""
    record = stage.keys.worker(worker.identity.worker_id)
    await wait_until(lambda: stage.raw.exists(record) or worker.task.done(), what="it to sign on")
    assert not worker.task.done(), worker.task.exception()


# -- slots, reading, reporting


async def test_no_more_jobs_at_once_than_slots(new_stage, crew):
    """Never more than max_concurrent jobs run; all of them get done."""
    stage, peak, running = new_stage(**LONG_LEASE), 0, 0

    async def executor(job):
        nonlocal peak, running
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.01)
        running -= 1
        return {}

    await stage.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(20)])
    worker = crew.hire(stage, executor, max_concurrent=3, burst=True)
    await worker.task
    assert peak == 3
    assert stage.raw.zcard(stage.keys.completed) == 20


async def test_idle_worker_blocks_instead_of_polling(new_stage, crew):
    """An idle worker costs a few commands a second at most, and starts a new job at once."""
    stage = new_stage(**LONG_LEASE)
    worker = crew.hire(stage, done)
    await wait_until(lambda: stage.raw.info("clients")["blocked_clients"], what="it to block")
    stage.raw.config_resetstat()
    await asyncio.sleep(2)  # the claim is about a span of time
    assert calls(stage, "evalsha") <= 8
    assert calls(stage, "xreadgroup") <= 6
    enqueued_at = time.monotonic()
    await stage.enqueue("a")
    await ended(stage, "a")
    assert time.monotonic() - enqueued_at < worker_module.IDLE_SECONDS
    assert worker.get_stats()["jobs_processed"] == 1


async def test_busy_worker_starts_and_reports_in_batches(new_stage, crew):
    """A thousand jobs take a small part of a thousand round trips."""
    stage = new_stage(**LONG_LEASE)
    await stage.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(1000)])
    stage.raw.config_resetstat()
    await crew.hire(stage, done, max_concurrent=100, burst=True).task
    assert stage.raw.zcard(stage.keys.completed) == 1000
    assert calls(stage, "evalsha") + calls(stage, "eval") < 100


async def test_high_lane_starves_nobody(new_stage, crew):
    """Every eighth read begins at the low lane."""
    stage, order = new_stage(**LONG_LEASE), []

    async def executor(job):
        order.append(job.id)
        return {}

    await stage.queue.enqueue_many([Job(payload={}, id=f"h{n}", priority=1) for n in range(20)])
    await stage.enqueue("low", priority=-1)
    await crew.hire(stage, executor, max_concurrent=1, burst=True).task
    assert order.index("low") < worker_module.LOW_FIRST_EVERY


async def test_burst_ends_when_nothing_is_left(new_stage, crew):
    """A burst waits for retries and jobs due soon, not for those of tomorrow; and not when empty."""
    stage = new_stage(retry_max_delay=1, **LONG_LEASE)
    await crew.hire(stage, done, burst=True).task
    await stage.enqueue("soon", delay_seconds=0.3)
    await stage.enqueue("tomorrow", delay_seconds=86_400)
    await stage.enqueue("flaky")

    async def executor(job):
        if job.id == "flaky" and job.attempts < 3:
            raise RuntimeError("not yet")
        return {"attempts": job.attempts}

    worker = crew.hire(stage, executor, burst=True)
    await worker.task
    assert (await stage.queue.get_job("flaky")).result == {"attempts": 3}
    assert await stage.queue.get_status("soon") is JobStatus.COMPLETED
    assert await stage.queue.get_status("tomorrow") is JobStatus.PENDING
    assert worker.get_stats()["jobs_processed"] == 2


async def test_stats_have_the_promised_keys(new_stage, crew):
    """`get_stats` before, while and after: id, active, processed, failed, uptime."""
    stage, steps = new_stage(**LONG_LEASE), Steps()
    worker = crew.hire(stage, steps)
    assert worker.get_stats()["active_jobs"] == 0
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    stats = worker.get_stats()
    assert (stats["worker_id"], stats["active_jobs"]) == ("w1", 1)
    assert (stats["jobs_processed"], stats["jobs_failed"]) == (0, 0)
    assert stats["uptime_seconds"] > 0
    steps.gate.set()
    await ended(stage, "a")
    await wait_until(lambda: worker.get_stats()["jobs_processed"] == 1)


async def test_paused_worker_resumes(new_stage, crew, caplog):
    """A worker that finds its queue paused says so once, waits, and goes on soon after the resume."""
    caplog.set_level(logging.INFO)
    stage = new_stage(**LONG_LEASE)
    await stage.queue.pause()
    await stage.enqueue("a")
    worker = crew.hire(stage, done)
    await wait_until(lambda: "queue is paused" in caplog.text, what="it to say so")
    stage.raw.config_resetstat()
    await wait_until(lambda: calls(stage, "xreadgroup") or calls(stage, "evalsha") > 3)
    assert caplog.text.count("queue is paused") == 1
    assert await stage.queue.get_status("a") is JobStatus.PENDING
    assert worker.is_healthy()
    resumed_at = time.monotonic()
    await stage.queue.pause(paused=False)
    await ended(stage, "a")
    assert time.monotonic() - resumed_at < worker_module.IDLE_SECONDS + 3


async def test_burst_ends_on_a_paused_queue(new_stage, crew):
    """A burst does not wait for a resume; what already runs is finished first."""
    stage, steps = new_stage(**LONG_LEASE), Steps()
    worker = crew.hire(stage, steps, burst=True, max_concurrent=2)
    await stage.enqueue("running")
    await wait_until(lambda: steps.entered or worker.task.done())
    if worker.task.done():  # it was done before the job came
        worker = crew.hire(stage, steps, "w2", burst=True, max_concurrent=2)
        await wait_until(lambda: steps.entered)
    await stage.queue.pause()
    await stage.enqueue("late")
    steps.gate.set()
    await asyncio.wait_for(worker.task, 10)
    assert await stage.queue.get_status("running") is JobStatus.COMPLETED
    assert await stage.queue.get_status("late") is JobStatus.PENDING


async def test_burst_ends_before_jobs_of_a_newer_version(new_stage, crew):
    """A job that no worker of this version can run keeps no burst waiting."""
    stage = new_stage(**LONG_LEASE)
    await stage.enqueue("newer")
    stage.raw.hset(stage.keys.job("newer"), "schema", 99)
    await stage.enqueue("a")
    await asyncio.wait_for(crew.hire(stage, done, burst=True).task, 10)
    assert await stage.queue.get_status("a") is JobStatus.COMPLETED
    assert stage.raw.zcard(stage.keys.delayed) == 1


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
async def test_whatever_an_executor_raises_is_an_outcome(new_stage, crew, error, status):
    """No exception escapes: the job is retried or failed as the table says, the worker goes on."""
    stage = new_stage(retry_base_delay=60, **LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise error
        return {}

    worker = crew.hire(stage, executor)
    await stage.enqueue("bad")
    await stage.enqueue("good")
    await ended(stage, "good")

    async def settled():
        return await stage.queue.get_status("bad") == status

    await wait_until(settled, what=f"the job to be {status}")
    job = await stage.queue.get_job("bad")
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
async def test_results_that_cannot_be_kept_fail_the_job(new_stage, crew, result, rule):
    """What is no JSON object, or too large, is a dead letter that says so."""
    stage = new_stage(max_result_bytes=1000, **LONG_LEASE)

    async def executor(job):
        return result

    crew.hire(stage, executor)
    await stage.enqueue("a")
    job = await ended(stage, "a")
    assert job.status is JobStatus.FAILED
    assert rule in job.error


async def test_retries_until_it_works(new_stage, crew):
    """A job that fails twice is run a third time, after its backoff, and completes."""
    stage, starts = new_stage(**LONG_LEASE), []

    async def executor(job):
        starts.append(time.monotonic())
        if job.attempts < 3:
            raise RuntimeError("not yet")
        return {"attempts": job.attempts}

    policy = RetryPolicy(base_delay_seconds=0.2, jitter=False)
    crew.hire(stage, executor, retry_policy=policy)
    await stage.enqueue("a")
    job = await ended(stage, "a")
    assert job.result == {"attempts": 3}
    assert starts[1] - starts[0] >= 0.2
    assert starts[2] - starts[1] >= 0.4


async def test_timeout_seconds_is_kept(new_stage, crew):
    """A job's own time limit ends its attempt, which is charged and may be retried."""
    stage = new_stage(**LONG_LEASE)
    crew.hire(stage, Steps())
    await stage.queue.enqueue(Job(payload={"timeout_seconds": 0.05}, id="a", max_attempts=1))
    job = await ended(stage, "a")
    assert job.status is JobStatus.FAILED
    assert "no result within timeout_seconds (0.05)" in job.error


async def test_executor_speaks_through_its_attempt(new_stage, crew):
    """Progress shows while the job runs; a checkpoint reaches the next attempt."""
    stage, go_on = new_stage(**LONG_LEASE), asyncio.Event()

    async def executor(job):
        attempt = current_attempt()
        kept = await attempt.checkpoints()
        await attempt.report_progress({"round": len(kept)})
        if not kept:
            await attempt.checkpoint("round", {"said": "x"})
            await go_on.wait()
            raise RuntimeError("after the checkpoint")
        return {"kept": kept, "last": attempt.is_last_attempt}

    crew.hire(stage, executor)
    await stage.enqueue("a", max_attempts=2)

    async def progress():
        return (await stage.queue.get_job("a")).progress == {"round": 0}

    await wait_until(progress, what="progress to show")
    go_on.set()
    assert (await ended(stage, "a")).result == {"kept": {"round": {"said": "x"}}, "last": True}


async def test_malformed_payload_is_a_dead_letter(new_stage, crew):
    """A payload that is no JSON object fails its own job, bytes kept, and no other."""
    stage = new_stage(**LONG_LEASE)
    crew.hire(stage, done)
    stage.forge({"id": "bytes", "payload": b"\xff\x00"})
    stage.forge({"id": "list", "payload": "[1]"})
    await stage.enqueue("good")
    odd, other, good = await ended(stage, "bytes", "list", "good")
    assert (odd.status, other.status, good.status) == ("failed", "failed", "completed")
    assert odd.raw_payload == b"\xff\x00"
    assert "not an object" in other.error


# -- leases


async def test_blocked_event_loop_keeps_its_leases(new_stage, crew):
    """Code that blocks the loop for three leases loses no job: not its own, not its neighbour's."""
    stage = new_stage()
    steps = Steps()

    async def executor(job):
        if job.id == "blocking":
            time.sleep(3 * stage.config.claim_idle_ms / 1000)
            return {}
        return await steps(job)

    async with reaping(stage) as taken:
        crew.hire(stage, executor)
        await stage.enqueue("neighbour")
        await wait_until(lambda: steps.entered)
        await stage.enqueue("blocking")
        await ended(stage, "blocking")
        steps.gate.set()
        await ended(stage, "neighbour")
    assert taken == []
    assert stage.counters().get("crashed", 0) == 0
    for name in ("neighbour", "blocking"):
        job = await stage.queue.get_job(name)
        assert (job.attempts, job.fence, job.crashes) == (1, 1, 0)


async def test_cancel_stops_a_running_job(new_stage, crew):
    """A cancel reaches the running task within a quarter lease or little more."""
    stage, steps = new_stage(claim_idle_ms=2000), Steps()
    worker = crew.hire(stage, steps)
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    cancelled_at = time.monotonic()
    assert await stage.queue.cancel("a")
    await wait_until(lambda: steps.cancelled == ["a"], what="the task to be cancelled")
    assert time.monotonic() - cancelled_at < 1.5
    await wait_until(lambda: worker.get_stats()["active_jobs"] == 0)
    assert worker.metrics.jobs["cancelled"]._value.get() == 1
    await stage.enqueue("b")
    steps.gate.set()
    await ended(stage, "b")


async def test_lost_job_is_given_up(new_stage, crew):
    """An attempt whose job was taken over is stopped; the new holder's result stands."""
    stage, steps = new_stage(claim_idle_ms=2000), Steps()
    worker = crew.hire(stage, steps)
    heir = await stage.worker("heir")
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    await stage.queue.pause()
    stage.age("a")
    assert [each.decision for each in await stage.queue.reclaim()] == ["reclaimed"]
    await wait_until(lambda: steps.cancelled == ["a"], what="the zombie to stop")
    assert worker.metrics.leases_lost._value.get() == 1
    await stage.queue.pause(paused=False)
    steps.gate.set()
    await ended(stage, "a")
    assert (await stage.queue.get_job("a")).fence == 2
    assert heir


async def test_result_of_a_zombie_is_refused(new_stage, crew):
    """A result that arrives after the job was taken over changes nothing and is counted."""
    stage, steps = new_stage(**LONG_LEASE), Steps()
    worker = crew.hire(stage, steps)
    heir = await stage.worker("heir")
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    await stage.queue.pause()
    stage.age("a")
    await stage.queue.reclaim()
    steps.gate.set()  # long before the next renewal: the worker does not know yet
    await wait_until(lambda: stage.counters().get("refused"), what="the refusal")
    await worker.stop()
    await stage.queue.pause(paused=False)
    again = await stage.started(heir)
    assert await stage.end(heir, again, Completed(b'{"by":"heir"}')) == "completed"
    assert (await stage.queue.get_job("a")).result == {"by": "heir"}
    assert worker.get_stats()["jobs_processed"] == 0
    assert worker.metrics.jobs["lost"]._value.get() == 1


async def test_job_that_ends_after_its_cancel_is_no_lost_lease(new_stage, crew):
    """A job that is cancelled, and ends before a renewal tells, counts as cancelled: no alert."""
    stage, steps = new_stage(**LONG_LEASE), Steps()
    worker = crew.hire(stage, steps)
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    await stage.queue.cancel("a")
    steps.gate.set()
    await wait_until(worker.metrics.jobs["cancelled"]._value.get, what="the verdict")
    await worker.stop()
    assert worker.metrics.leases_lost._value.get() == 0
    assert await stage.queue.get_status("a") is JobStatus.CANCELLED


async def test_lost_record_is_written_again_while_all_slots_are_busy(new_stage, crew):
    """A worker that is told it is unregistered signs on again at once, however long its jobs run."""
    stage, steps = new_stage(claim_idle_ms=800), Steps()
    crew.hire(stage, steps, max_concurrent=1)
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    stage.raw.delete(stage.keys.worker("w1"), stage.keys.workers)
    await wait_until(lambda: stage.raw.exists(stage.keys.worker("w1")), what="the record")
    await wait_until(lambda: stage.raw.zscore(stage.keys.workers, "w1"), what="the heartbeat")
    steps.gate.set()
    assert (await ended(stage, "a")).fence == 1


async def test_replaced_worker_goes(new_stage, crew):
    """A worker whose id another boot took over gives up what it lost, hands back the rest, and ends."""
    stage, steps = new_stage(claim_idle_ms=400), Steps()
    worker = crew.hire(stage, steps, max_concurrent=1)
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    rival = stage.queue.session(Identity("w1", "rival"))
    assert await rival.register({"pid": "7"}, dead_boot_id=worker.identity.boot_id) == 0

    async def beat():
        stage.renew(rival)
        return worker.task.done()

    await wait_until(beat, what="the old boot to end")
    with pytest.raises(ConfigError, match="worker id w1 is in use by pid 7"):
        await worker.task
    assert steps.cancelled == ["a"]
    await wait_until(lambda: stage.fields("a").get("status") in ("pending", "retrying"))
    await rival.unregister()


async def test_unheard_start_is_undone(new_stage, crew):
    """A start that was served but whose answer was lost runs anyway, charged once."""
    stage, steps = new_stage(**LONG_LEASE), Steps()
    steps.gate.set()
    worker = crew.hire(stage, steps)
    honest, lost = worker._session.start, []

    async def lossy(limit, **options):
        fetched = await honest(limit, **options)
        if fetched.jobs and not lost:
            lost.extend(fetched.jobs)
            raise RedisUnreachable("the answer was lost")
        return fetched

    worker._session.start = lossy
    await stage.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(3)])
    jobs = await ended(stage, "j0", "j1", "j2")
    assert lost
    assert all(job.attempts == 1 and job.crashes == 0 for job in jobs)
    assert stage.counters()["released"] == len(lost)


async def test_blocked_worker_starts_nothing_unheard(new_stage, crew):
    """While a job blocks the event loop, no other job is started for this worker: others may run it."""
    stage, seen = new_stage(**LONG_LEASE), []

    async def enqueue():
        queue = RedisStreamsQueue(stage.config)
        await queue.enqueue(Job(payload={}, id="other"))
        await queue.close()

    async def executor(job):
        if job.id == "blocking":
            await wait_until(lambda: stage.raw.info("clients")["blocked_clients"], what="the read")
            thread = threading.Thread(target=lambda: asyncio.run(enqueue()))
            thread.start()
            thread.join()
            seen.append(stage.fields("other")["status"])
        return {}

    crew.hire(stage, executor)
    await stage.enqueue("blocking")
    await ended(stage, "blocking", "other")
    assert seen == ["pending"]


async def test_freed_slot_is_filled_at_once(new_stage, crew):
    """A worker that looked for unheard starts while all its slots were busy still knows what waits."""
    stage, steps, looks = new_stage(), Steps(), []
    worker = crew.hire(stage, steps, max_concurrent=1)
    honest = worker._session.recover

    async def recover(*args, **options):
        looks.append(args)
        return await honest(*args, **options)

    worker._session.recover = recover
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    await stage.enqueue("b")
    await wait_until(lambda: looks, what="a look")
    freed_at = time.monotonic()
    steps.gate.set()
    await wait_until(lambda: "b" in steps.entered)
    assert time.monotonic() - freed_at < worker_module.IDLE_SECONDS / 2


# -- stopping


async def test_stop_hands_back_what_it_did_not_hear_of(new_stage, crew):
    """A job that was started for an idle worker just as it stops goes back before the drain, uncharged."""
    stage = new_stage(**LONG_LEASE)
    worker = crew.hire(stage, done)
    honest = worker._session.start_next

    async def unheard(*args):
        if (await honest(*args)).jobs:
            await asyncio.Event().wait()
        return Fetched("ok")

    worker._session.start_next = unheard
    await at_work(stage, worker)
    await stage.enqueue("a")
    await wait_until(lambda: stage.fields("a")["status"] == "processing")
    stopping = asyncio.create_task(worker.stop())
    await wait_until(lambda: stage.fields("a")["status"] == "pending")
    await stopping
    job = await stage.queue.get_job("a")
    assert (job.attempts, job.crashes) == (0, 0)


async def test_stop_drains(new_stage, crew):
    """stop() waits for running jobs, takes no new ones, and signs off."""
    stage, steps = new_stage(**LONG_LEASE), Steps()
    worker = crew.hire(stage, steps, max_concurrent=2)
    await stage.enqueue("running")
    await wait_until(lambda: steps.entered)
    stopping = asyncio.create_task(worker.stop())
    await wait_until(lambda: worker.get_stats()["is_draining"])
    await stage.enqueue("late")
    assert not stopping.done()
    steps.gate.set()
    await stopping
    assert await stage.queue.get_status("running") is JobStatus.COMPLETED
    assert await stage.queue.get_status("late") is JobStatus.PENDING
    assert steps.entered == ["running"]
    assert (await stage.queue.get_queue_stats())["workers"] == []
    assert stage.raw.xinfo_consumers(stage.keys.stream_normal, GROUP) == []


async def test_drain_time_over_jobs_go_back(new_stage, crew):
    """What has not finished within the drain time is released: nothing charged."""
    stage, steps = new_stage(drain_timeout_seconds=0.1, **LONG_LEASE), Steps()
    worker = crew.hire(stage, steps)
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    await worker.stop()
    job = await stage.queue.get_job("a")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)
    assert steps.cancelled == ["a"]


async def test_second_stop_hands_back_at_once(new_stage, crew):
    """While a drain is under way, even with every slot busy, hurry ends it."""
    stage, steps = new_stage(**LONG_LEASE), Steps()
    worker = crew.hire(stage, steps, max_concurrent=2)
    for name in "abc":
        await stage.enqueue(name)
    await wait_until(lambda: len(steps.entered) == 2)
    draining = asyncio.create_task(worker.stop())
    await wait_until(lambda: worker.get_stats()["is_draining"])
    await worker.stop(hurry=True)
    await draining
    assert sorted(steps.cancelled) == ["a", "b"]
    assert [await stage.queue.get_status(name) for name in "abc"] == ["pending"] * 3
    assert stage.fields("a")["attempts"] == "0"


async def test_stop_of_an_idle_worker_is_quick(new_stage, crew):
    """A worker blocked in its read stops at once, and leaves nothing that would start a job for it."""
    stage = new_stage(**LONG_LEASE)
    worker = crew.hire(stage, done)
    await wait_until(lambda: stage.raw.info("clients")["blocked_clients"], what="it to block")
    asked_at = time.monotonic()
    await worker.stop()
    assert time.monotonic() - asked_at < 1
    await stage.enqueue("a")
    assert not stage.raw.info("clients")["blocked_clients"]
    assert await stage.queue.get_status("a") is JobStatus.PENDING


async def test_stop_before_start_and_twice(new_stage, crew):
    """stop() before the start keeps it from taking jobs; stop() after the end returns."""
    stage = new_stage(**LONG_LEASE)
    await stage.enqueue("a")
    worker = crew.hire(stage, done)
    await worker.stop()
    await worker.task
    await worker.stop()
    assert await stage.queue.get_status("a") is JobStatus.PENDING


async def test_cancelled_start_hands_back(new_stage, crew):
    """When the task that runs start() is cancelled, running jobs are released before it ends."""
    stage, steps = new_stage(**LONG_LEASE), Steps()
    worker = crew.hire(stage, steps)
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    worker.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker.task
    assert (await stage.queue.get_job("a")).attempts == 0
    assert await stage.queue.get_status("a") is JobStatus.PENDING


# -- faults


async def enqueue_at_last(stage, job_id):
    """As a client would: once more if the connection was cut."""

    async def enqueued():
        try:
            return await stage.enqueue(job_id)
        except RedisUnreachable:
            return None

    await wait_until(enqueued, what=f"{job_id} to be enqueued")


def _kill_clients(stage):
    stage.raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


FAULTS = {
    "connections cut": _kill_clients,
    "scripts flushed": lambda stage: stage.raw.script_flush(),
    "stream deleted": lambda stage: stage.raw.delete(stage.keys.stream_normal),
    "group deleted": lambda stage: stage.raw.xgroup_destroy(stage.keys.stream_normal, GROUP),
    "everything deleted": lambda stage: stage.raw.flushall(),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_worker_goes_on_after(new_stage, crew, fault):
    """Whatever is cut or deleted under an idle worker, the next jobs run."""
    stage = new_stage(claim_idle_ms=1000)
    worker = crew.hire(stage, done)
    await stage.enqueue("before")
    await ended(stage, "before")
    FAULTS[fault](stage)
    for name in ("after", "later"):
        await enqueue_at_last(stage, name)
        assert (await ended(stage, name)).status is JobStatus.COMPLETED
    assert not worker.task.done()


@pytest.mark.parametrize("kind", ["frozen", "restarted"])
async def test_outage_longer_than_the_lease_charges_nobody(own_server, new_stage, crew, kind):
    """Redis away for longer than a lease: running jobs stay with their workers, results get through."""
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    stage = new_stage(redis_url=server.url, claim_idle_ms=4000)
    steps = {name: Steps() for name in ("w1", "w2")}
    for name, executor in steps.items():
        crew.hire(stage, executor, name, max_concurrent=1)
    for name in ("a", "b"):
        await stage.enqueue(name)
    await wait_until(lambda: all(each.entered for each in steps.values()))
    if kind == "frozen":
        server.process.send_signal(signal.SIGSTOP)
    else:
        server.kill()
    steps["w1"].gate.set()  # one job ends meanwhile: its result waits for the server
    await asyncio.sleep(6)
    if kind == "frozen":
        server.process.send_signal(signal.SIGCONT)
    else:
        server.start()
        stage.raw.connection_pool.disconnect()
    await asyncio.sleep(4.5)  # long enough for a caretaker to take what it should not
    steps["w2"].gate.set()
    for job in await ended(stage, "a", "b"):
        assert (job.status, job.attempts, job.fence, job.crashes) == ("completed", 1, 1, 0)
    assert not {"crashed", "refused"} & set(stage.counters())


async def test_password_set_later_is_waited_out(own_server, new_stage, crew):
    """NOAUTH in mid-life does not end a worker; it says so and goes on when it is let in again."""
    server = own_server()
    stage = new_stage(redis_url=server.url, claim_idle_ms=1000)
    worker = crew.hire(stage, done)
    await stage.enqueue("a")
    await ended(stage, "a")
    stage.raw.config_set("requirepass", "secret")
    _kill_clients(stage)
    await wait_until(
        lambda: "denies access" in (worker.get_stats()["redis_fault"] or ""),
        what="the fault to show",
    )
    assert worker.is_healthy()
    stage.raw.config_set("requirepass", "")
    await enqueue_at_last(stage, "b")
    await ended(stage, "b")
    await wait_until(lambda: worker.get_stats()["redis_fault"] is None, what="the fault to pass")
    assert worker.metrics.redis_errors("AccessDenied")._value.get() >= 1


async def test_full_server_drains(own_server, new_stage, crew):
    """When Redis is out of memory, new jobs are refused and running and waiting ones still end."""
    server = own_server()
    stage = new_stage(redis_url=server.url, **LONG_LEASE)
    await stage.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(20)])
    stage.raw.config_set("maxmemory", 1)
    with pytest.raises(Exception, match="OOM"):
        await stage.enqueue("new")
    await crew.hire(stage, done, burst=True).task
    assert stage.raw.zcard(stage.keys.completed) == 20
    stage.raw.config_set("maxmemory", 0)


async def test_refused_report_fails_the_job(own_server, new_stage, crew):
    """A result that the server will not take is a dead letter that says so, after a single run."""
    server, starts = own_server("--proto-max-bulk-len", "1mb"), []
    stage = new_stage(redis_url=server.url, claim_idle_ms=1000, max_result_bytes=2_000_000)

    async def executor(job):
        starts.append(job.id)
        return {"x": "y" * 1_500_000} if job.id == "big" else {}

    crew.hire(stage, executor)
    await stage.enqueue("big")
    big = await ended(stage, "big")
    await stage.enqueue("small")
    assert (await ended(stage, "small")).status is JobStatus.COMPLETED
    assert big.status is JobStatus.FAILED
    assert "report refused" in big.error
    assert starts.count("big") == 1


async def test_report_refused_for_good_is_a_crash(new_stage, crew):
    """A job whose every report is refused runs as often as crashes allow, not for ever."""
    stage = new_stage(claim_idle_ms=400, max_crashes=2)
    starts = Counter()

    async def executor(job):
        starts[job.id] += 1
        return {}

    worker = crew.hire(stage, executor)
    honest = worker._session.report

    async def refusing(reports):
        if any(report.job.id == "bad" for report in reports):
            raise AragoraQError("no report with this one")
        return await honest(reports)

    worker._session.report = refusing
    for name in ("bad", "good"):
        await stage.enqueue(name)
    bad, good = await ended(stage, "bad", "good")
    assert (good.status, starts["good"]) == (JobStatus.COMPLETED, 1)
    assert (bad.status, bad.crashes, starts["bad"]) == (JobStatus.FAILED, 2, 2)


async def test_busy_worker_is_healthy_through_an_outage(
    own_server, new_stage, crew, monkeypatch, caplog
):
    """With every slot full and nothing to report, an outage is noticed, told, and no stall."""
    monkeypatch.setattr(worker_module, "STALLED_SECONDS", 0.3)
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    stage, steps = new_stage(redis_url=server.url, claim_idle_ms=400), Steps()
    worker = crew.hire(stage, steps, max_concurrent=1)
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
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
    stage.raw.connection_pool.disconnect()
    await wait_until(lambda: worker.get_stats()["redis_fault"] is None, what="the fault to pass")
    assert worker.is_healthy()
    steps.gate.set()
    assert (await ended(stage, "a")).status is JobStatus.COMPLETED


async def test_denied_read_does_not_spin(new_stage, crew):
    """If only the blocking read is refused, the worker still works, at a bounded rate."""
    stage = new_stage(**LONG_LEASE)
    worker = crew.hire(stage, done)

    async def refused(*_):
        raise RedisUnreachable("no XREAD for you")

    worker._session.wait_for_work = worker._session.start_next = refused
    await stage.enqueue("a")
    await ended(stage, "a")
    stage.raw.config_resetstat()
    await asyncio.sleep(1)  # the claim is about a span of time
    assert calls(stage, "evalsha") < 60


# -- what can be seen


async def test_failures_are_logged_among_many_successes(new_stage, crew, caplog):
    """However fast good jobs come and go, the one that failed has its line."""
    caplog.set_level(logging.INFO)
    stage = new_stage(**LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise ValueError("never")
        return {}

    await stage.queue.enqueue_many(
        [*(Job(payload={}, id=f"j{n}") for n in range(400)), Job(payload={}, id="bad")]
    )
    await crew.hire(stage, executor, max_concurrent=50, burst=True).task
    failed = [record for record in caplog.records if record.message == "job failed"]
    assert [(record.job, record.levelno) for record in failed] == [("bad", logging.WARNING)]
    assert sum("job completed" in record.message for record in caplog.records) < 400


def _value(metrics, sample):
    text = generate_latest(metrics.registry).decode()
    return float(re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)[1])


async def test_metrics_count_what_happened(new_stage, crew):
    """Jobs by outcome, run and wait times, slots; clean for promtool."""
    stage = new_stage(retry_base_delay=0.01, **LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise ValueError("never")
        if job.attempts == 1:
            raise RuntimeError("again")
        return {}

    worker = crew.hire(stage, executor, max_concurrent=4)
    for name in ("good", "bad"):
        await stage.enqueue(name)
    await ended(stage, "good", "bad")
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


async def test_health_tells_the_truth(new_stage, crew, monkeypatch):
    """200 while all loops move, 503 while the event loop is blocked, 200 again after it."""
    monkeypatch.setattr(worker_module, "STALLED_SECONDS", 0.3)
    stage, seen = new_stage(claim_idle_ms=400), []
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

        worker = crew.hire(stage, executor)
        await at_work(stage, worker)
        assert await asyncio.to_thread(_get, port, "/healthz") == (200, b"ok\n")
        await stage.enqueue("a")
        await ended(stage, "a")
        assert 503 in seen

        async def healthy():
            return (await asyncio.to_thread(_get, port, "/healthz"))[0] == 200

        await wait_until(healthy, what="health to return")
        assert (await asyncio.to_thread(_get, port, "/metrics"))[0] == 200
        assert (await asyncio.to_thread(_get, port, "/else"))[0] == 404


async def test_dead_lease_keeper_is_unhealthy(new_stage, crew, monkeypatch):
    """If the thread that renews leases is gone, the worker does not call itself healthy."""
    monkeypatch.setattr(worker_module, "STALLED_SECONDS", 0.3)
    stage = new_stage(claim_idle_ms=400)
    worker = crew.hire(stage, done)
    await at_work(stage, worker)
    assert worker.is_healthy()
    await worker.keeper.stop()
    await wait_until(lambda: not worker.is_healthy(), what="the worker to own up")


async def test_lease_keeper_survives_anything(new_stage, crew):
    """An error that nobody foresaw costs one renewal, not the thread."""
    stage, steps = new_stage(claim_idle_ms=800), Steps()
    worker = crew.hire(stage, steps)
    broken, make = [], worker.keeper._open_renewer

    class Broken:
        def renew(self, held):
            broken.append(held)
            raise ZeroDivisionError("a bug")

        def close(self):
            worker.keeper._open_renewer = make

    worker.keeper._open_renewer = Broken
    await wait_until(lambda: broken, what="the bug to strike")
    await stage.enqueue("a")
    await wait_until(lambda: steps.entered)
    before = worker.keeper.last_answer_at
    await wait_until(lambda: worker.keeper.last_answer_at > before, what="the next renewal")
    steps.gate.set()
    assert (await ended(stage, "a")).fence == 1


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
