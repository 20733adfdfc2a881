"""Spans of maintenance passes, and of what schedules enqueue."""

import asyncio

import pytest
from support.schedules import daily, minute_before, promise
from support.workers import LONG_LEASE

from aragora_q import tracing
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import RedisUnreachable
from aragora_q.maintenance import MaintenanceLoop, purge_pass, reap_pass
from aragora_q.redis.scripts import BATCH_LIMIT
from aragora_q.streams.queue import RedisStreamsQueue


async def test_a_pass_that_changed_something_is_a_span_in_its_own_trace(harness, spans):
    """It has counts. A pass that changed nothing, one each second, makes no span."""
    await harness.queue.enqueue(Job({}, id="due", delay_seconds=3600))
    loop = MaintenanceLoop(harness.queue, "w1", 60)
    with tracing.span("a deployment"):
        await loop._step()
        harness.redis.zadd(harness.keys.delayed, {"due": 0})
        await loop._step()
        await loop._step()
        await reap_pass(harness.queue, "reaper")
    [span] = [span for span in spans.get_finished_spans() if span.name.startswith("maintain")]
    assert (span.name, span.parent) == ("maintain debates", None)
    assert dict(span.attributes) == {
        "messaging.destination.name": "debates",
        "aragora_q.promoted": 1,
    }
    assert span.start_time <= span.end_time


async def test_a_pass_that_fails_has_a_span_of_what_it_changed_before(harness, spans, monkeypatch):
    """Redis may become unavailable between two steps of `reap`."""
    await harness.enqueue("due", delay_seconds=3600)
    harness.redis.zadd(harness.keys.delayed, {"due": 0})

    async def fail(*_, **__):
        raise RedisUnreachable("away")

    monkeypatch.setattr(harness.queue, "reclaim", fail)
    with pytest.raises(RedisUnreachable):
        await reap_pass(harness.queue, "reaper")
    [span] = [span for span in spans.get_finished_spans() if span.name == "maintain debates"]
    assert span.attributes["aragora_q.promoted"] == 1


@pytest.mark.parametrize(
    ("step", "failing_call", "name"),
    [("promote", 2, "promoted"), ("_reclaim_page", 3, "reclaimed")],  # the first lane is empty
)
async def test_a_step_that_fails_has_a_span_of_its_batches_before(
    harness, spans, monkeypatch, step, failing_call, name
):
    """Redis may become unavailable between two batches of one step."""
    call, calls = getattr(RedisStreamsQueue, step), []

    async def fail_later(*arguments, **options):
        calls.append(1)
        if len(calls) == failing_call:
            raise RedisUnreachable("away")
        return await call(*arguments, **options)

    ids = [f"j{n}" for n in range(BATCH_LIMIT + 1)]
    delay_seconds = 3600 if step == "promote" else 0
    await harness.queue.enqueue_many(Job({}, id=each, delay_seconds=delay_seconds) for each in ids)
    if step == "promote":
        harness.redis.zadd(harness.keys.delayed, dict.fromkeys(ids, 0))
    else:
        await harness.worker("alive")  # so that Redis was not away
        session = await harness.worker("dead")
        while (await session.start(BATCH_LIMIT)).jobs:
            pass
        harness.stop_heartbeat("dead", 1000)
        for each in ids:
            harness.backdate(each)
        await asyncio.sleep(0.01)  # just delivered entries would be looked at
    monkeypatch.setattr(RedisStreamsQueue, step, fail_later)
    with pytest.raises(RedisUnreachable):
        await reap_pass(harness.queue, "reaper")
    [span] = [span for span in spans.get_finished_spans() if span.name == "maintain debates"]
    assert span.attributes[f"aragora_q.{name}"] == BATCH_LIMIT


async def test_the_job_of_a_schedule_belongs_to_the_pass_that_enqueued_it(new_harness, spans):
    """It does not belong to the trace in which the process was started."""
    harness = new_harness(**LONG_LEASE)
    at = minute_before(harness.redis)
    promise(harness, at)
    harness.config = QueueConfig(
        **harness.config.model_dump(exclude_unset=True), schedules={"nightly": daily(at)}
    )
    queue = harness.other_client(schedules={"nightly": daily(at)})
    with tracing.span("a deployment"):
        assert (await reap_pass(queue, "reaper")).ticks == 1
    [span] = [span for span in spans.get_finished_spans() if span.name == "maintain debates"]
    assert span.parent is None
    assert span.attributes["aragora_q.ticks"] == 1
    trace = harness.fields(f"nightly@{at // 1000}")["trace"]
    assert tracing.trace_id(trace) == f"{span.context.trace_id:032x}"


async def test_a_purge_is_a_pass(harness, spans):
    """Its span has the number of deleted jobs, in a worker or in `purge`; a dry run makes no span."""

    async def end(*job_ids):
        for job_id in job_ids:
            await harness.enqueue(job_id)
            await harness.queue.cancel(job_id)
        harness.redis.zadd(harness.keys.cancelled, dict.fromkeys(job_ids, 0))

    await end("a")
    await MaintenanceLoop(harness.queue, "w1", 60)._step()
    await end("b", "c")
    await purge_pass(harness.queue, dry_run=True)
    await purge_pass(harness.queue)
    passes = [span for span in spans.get_finished_spans() if span.name == "maintain debates"]
    assert [dict(span.attributes) for span in passes] == [
        {"messaging.destination.name": "debates", "aragora_q.purged": purged} for purged in (1, 2)
    ]
