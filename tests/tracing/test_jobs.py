"""Jobs and the contexts that they carry: the spans of enqueues, and what others wrote."""

import pytest
from opentelemetry.trace import SpanKind
from support.schedules import now_ms

from aragora_q import tracing
from aragora_q.base import Job
from aragora_q.contracts import Tick
from aragora_q.errors import GroupSealed, QueueFull
from aragora_q.redis.scripts import BATCH_LIMIT

SENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def context_of(span):
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


async def test_an_enqueue_is_a_span_that_its_job_carries(harness, spans):
    """It has the current span as its parent, and names queue and job."""
    with tracing.span("caller") as caller:
        await harness.enqueue("a")
        await harness.enqueue("a")
    created, existing, _ = spans.get_finished_spans()
    assert (created.name, created.kind) == ("enqueue debates", SpanKind.PRODUCER)
    assert f"{created.parent.span_id:016x}" == caller.ids["span_id"]
    assert dict(created.attributes) == {
        "messaging.system": "aragora_q",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
        "messaging.destination.name": "debates",
        "messaging.message.id": "a",
        "aragora_q.jobs_created": 1,
        "aragora_q.jobs_refused": 0,
    }
    assert existing.attributes["aragora_q.jobs_created"] == 0
    assert "error.type" not in existing.attributes
    assert (await harness.queue.get_job("a")).trace == context_of(created)


async def test_each_batch_of_many_jobs_is_one_span(harness, spans):
    """All jobs of a batch carry the context of its span."""
    with tracing.span("caller") as caller:
        await harness.queue.enqueue_many(Job({}, id=f"j{n}") for n in range(BATCH_LIMIT + 2))
    first, second, _ = spans.get_finished_spans()
    assert first.attributes["messaging.batch.message_count"] == BATCH_LIMIT
    assert second.attributes["messaging.batch.message_count"] == 2
    assert "messaging.message.id" not in second.attributes
    assert {f"{each.parent.span_id:016x}" for each in (first, second)} == {caller.ids["span_id"]}
    traces = [
        (await harness.queue.get_job(f"j{n}")).trace for n in (0, BATCH_LIMIT - 1, BATCH_LIMIT)
    ]
    assert traces == [context_of(first), context_of(first), context_of(second)]


@pytest.mark.parametrize("count", [2, BATCH_LIMIT + 1])
async def test_many_jobs_without_a_trace_of_their_caller_carry_none(harness, spans, count):
    """Each begins its own trace, so that a sampler decides about it alone; also if a batch has only one job."""
    await harness.queue.enqueue_many(Job({}, id=f"j{n}") for n in range(count))
    await harness.queue.enqueue_checked([harness.queue.check(Job({}, id=f"j{count}"))])
    assert {span.name for span in spans.get_finished_spans()} == {"enqueue debates"}
    assert [(await harness.queue.get_job(f"j{n}")).trace for n in (0, count - 1, count)] == [""] * 3
    token = tracing.received.set(SENT)
    await harness.queue.enqueue_many(Job({}, id=f"k{n}") for n in range(count))
    tracing.received.reset(token)
    for n in (0, count - 1):
        trace = (await harness.queue.get_job(f"k{n}")).trace
        assert tracing.trace_id(trace) == tracing.trace_id(SENT)


async def test_one_job_of_a_call_for_many_carries_its_context(harness, spans):
    """Its context is that of its span, as with `enqueue`."""
    await harness.queue.enqueue_many(Job({}, id="j") for _ in range(1))
    [span] = spans.get_finished_spans()
    assert (await harness.queue.get_job("j")).trace == context_of(span)


async def test_a_refused_enqueue_is_a_failed_span(new_harness, spans):
    """The span has the number of refused jobs, and the script's answer as type of the error."""
    harness = new_harness(max_backlog=1)
    with pytest.raises(QueueFull):
        await harness.queue.enqueue_many([Job({}), Job({}), Job({})])
    [span] = spans.get_finished_spans()
    assert not span.status.is_ok
    assert span.attributes["error.type"] == "full"
    assert span.attributes["aragora_q.jobs_created"] == 1
    assert span.attributes["aragora_q.jobs_refused"] == 2


async def test_the_job_of_a_schedule_carries_a_context(harness, spans):
    """If another process has enqueued the job of this time already, the span has not failed."""
    at = now_ms(harness.redis) - 1000
    tick = Tick("nightly", at, at + 60_000, Job({}, id="tick"), reason="due")
    assert await harness.queue.schedules.enqueue([tick]) == ["created"]
    assert await harness.queue.schedules.enqueue([tick]) == ["past"]
    sent, past = spans.get_finished_spans()
    assert (await harness.queue.get_job("tick")).trace == context_of(sent)
    assert past.attributes["aragora_q.jobs_refused"] == 0
    assert "error.type" not in past.attributes


async def test_the_job_that_follows_a_group_carries_the_context_of_who_sealed_it(harness, spans):
    """Its trace is not that of the attempt that ends the group. Sealing again changes nothing."""
    await harness.enqueue("a", group="g")
    then = Job({}, id="then")
    assert await harness.queue.seal_group("g", then)
    _, sealing = spans.get_finished_spans()
    assert (sealing.name, sealing.kind) == ("enqueue debates", SpanKind.PRODUCER)
    assert sealing.attributes["messaging.message.id"] == "then"
    assert not await harness.queue.seal_group("g", then)
    await harness.queue.cancel("a")
    assert (await harness.queue.get_job("then")).trace == context_of(sealing)


async def test_a_group_that_cannot_be_sealed_is_a_failed_span(harness, spans):
    """The type of its error is the script's answer. Sealing without a job makes no span."""
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g")
    with pytest.raises(GroupSealed):
        await harness.queue.seal_group("g", Job({}))
    _, refused = spans.get_finished_spans()
    assert refused.attributes["error.type"] == "other-then"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"", ""),
        (b"garbage", ""),
        (b"7 5", ""),
        (b"\xff\xfe\n\x00", ""),
        (b"group:other", ""),
        (f"{SENT}\nTRACEPARENT=1".encode(), ""),
        (f"{SENT} v=\x1b[31m".encode(), SENT),
        (f"{SENT} v=é".encode(), SENT),
        (b"x" * 5_000_000, ""),
    ],
)
async def test_what_another_program_wrote_as_context_is_dropped(harness, written, read):
    """The job starts with its own labels, and readers read it."""
    session = await harness.worker()
    await harness.enqueue("a", group="g", tenant="t")
    await harness.enqueue("b")
    harness.redis.hset(harness.keys.job("a"), "trace", written)
    a, b = (await session.start(5)).jobs
    assert (a.id, a.trace, a.group, a.tenant) == ("a", read, "g", "t")
    assert (b.id, b.trace, b.group) == ("b", "", None)
    known = await harness.queue.get_job("a")
    assert (known.trace, known.group) == (read, "g")
    await session.note_trace(a, SENT)
    assert (await harness.queue.get_job("a")).trace == SENT
