"""Spans of attempts: whose child each is, what it is linked to, and what it says of its end."""

import asyncio
from collections import Counter
from functools import partial

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider, sampling
from support import executors
from support.queue_harness import LEASE_MS
from support.wait import wait_until
from support.workers import LONG_LEASE

from aragora_q import tracing
from aragora_q.base import Job, JobStatus
from aragora_q.errors import LeaseLost, RedisUnreachable
from aragora_q.executors import debate
from aragora_q.executors.debate import demo
from aragora_q.job import create_debate_job
from aragora_q.observability.otel.sampling import FollowsLinks

CALLER = f"00-{'a' * 32}-{'b' * 16}-01"


def _ids(context):
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def _attempts(spans):
    return [span for span in spans.get_finished_spans() if span.name == "run debates"]


async def _run_when_noted(harness, job):
    """Run the steps of a job when it has the context of its attempt."""
    own, _, _ = tracing.current().partition(" ")
    await wait_until(lambda: harness.fields(job.id).get("trace", "").startswith(own))
    return await executors.run(job)


def _links(span):
    return [_ids(link.context) for link in span.links]


@pytest.fixture
def worker(new_harness, worker_pool):
    """Starts a worker whose jobs run the steps of `support.executors`; returns the harness of its queue.

    `is_noted`: they begin when the job has the context of its attempt.
    """

    def start(*, is_noted=False, **settings):
        harness = new_harness(**{**LONG_LEASE, **settings})
        executor = partial(_run_when_noted, harness) if is_noted else executors.run
        harness.started = worker_pool.start(harness, executor)
        return harness

    return start


async def test_a_job_is_one_tree_and_each_retry_a_trace_linked_to_the_one_before(worker, spans):
    """The first attempt belongs to the caller's trace; each later one is linked to the attempt before."""
    harness = worker(is_noted=True)
    with tracing.span("caller") as caller:
        await harness.enqueue_steps("j", ["fail", 2], group="g", tenant="t")
    await harness.wait_for_end("j")
    await wait_until(lambda: len(_attempts(spans)) == 3)
    first, second, third = _attempts(spans)
    assert _ids(first.context)[0] == caller.ids["trace_id"]
    assert first.parent is not None
    assert (second.parent, third.parent) == (None, None)
    assert len({_ids(span.context)[0] for span in (first, second, third)}) == 3
    assert _links(second) == [_ids(first.context)]
    assert _links(third) == [_ids(second.context)]
    told = dict(second.attributes)
    assert told.pop("aragora_q.waited_seconds") >= 0
    assert told.pop("aragora_q.fence") > first.attributes["aragora_q.fence"]
    assert told == {
        "messaging.system": "aragora_q",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "debates",
        "messaging.message.id": "j",
        "aragora_q.attempt": 2,
        "aragora_q.worker_id": "w1",
        "aragora_q.group": "g",
        "aragora_q.tenant": "t",
        "aragora_q.outcome": "retrying",
        "error.type": "RuntimeError",
    }


@pytest.mark.parametrize(
    ("steps", "outcome", "error"),
    [
        ([], "completed", None),
        ([["fail", 1]], "retrying", "RuntimeError"),
        ([["later", 1]], "retrying", "RetryLater"),
        ([["permanent", None]], "failed", "PermanentError"),
        ([["hold", 1, "executor"]], "held", None),
    ],
)
async def test_the_end_of_an_attempt(worker, spans, steps, outcome, error):
    """The span of a retry or a failure has failed, with the type of the error; that of a held job has not."""
    harness = worker()
    await harness.enqueue_steps("j", *steps)
    await wait_until(lambda: _attempts(spans))
    attempt = _attempts(spans)[0]
    assert attempt.attributes["aragora_q.outcome"] == outcome
    assert attempt.attributes.get("error.type") == error
    assert attempt.status.is_ok or error


async def test_the_last_failure_of_a_job_is_not_a_retry(worker, spans):
    """The attempt that fails the job has the outcome `failed`, so that a search for it finds failed jobs."""
    harness = worker()
    await harness.enqueue_steps("j", ["fail", 9], max_attempts=2)
    await wait_until(lambda: len(_attempts(spans)) == 2)
    outcomes = [span.attributes["aragora_q.outcome"] for span in _attempts(spans)]
    assert outcomes == ["retrying", "failed"]


async def test_an_attempt_that_is_stopped_has_not_failed(worker, worker_pool, spans):
    """An operator cancels it, or its worker releases it; the next attempt is linked to the released one."""
    harness = worker(claim_idle_ms=15_000)  # it learns of a cancellation when it renews its leases
    for job_id in ("cancelled", "released"):
        await harness.enqueue_steps(job_id, ["until", "/nowhere"])
        await harness.wait_for_status(job_id, JobStatus.PROCESSING)
    await harness.queue.cancel("cancelled")
    [first] = await wait_until(lambda: _attempts(spans))
    await harness.started.stop(immediately=True)
    _, released = _attempts(spans)
    assert first.attributes["aragora_q.outcome"] == "cancelled"
    assert released.attributes["aragora_q.outcome"] == "released"
    assert first.status.is_ok
    assert released.status.is_ok
    worker_pool.start(harness, executors.succeed, "w2")
    await harness.wait_for_end("released")
    await wait_until(lambda: len(_attempts(spans)) == 3)
    assert _links(_attempts(spans)[2]) == [_ids(released.context)]


async def test_the_attempt_of_a_requeued_job_is_linked_to_the_one_that_failed(worker, spans):
    """The failed job has kept the context of its attempt."""
    harness = worker(is_noted=True)
    await harness.enqueue_steps("j", ["permanent", None])
    await harness.wait_for_status("j", JobStatus.FAILED)
    await harness.queue.requeue(["j"])
    await wait_until(lambda: len(_attempts(spans)) == 2)
    first, second = _attempts(spans)
    assert _links(second) == [_ids(first.context)]


@pytest.mark.slow
async def test_after_a_crash_the_next_attempt_is_linked_to_the_one_that_sent_nothing(
    new_harness, worker_process, redis_url, receiver, tmp_path
):
    """The job has the context of the killed attempt, whose span no receiver has."""
    harness, gate = new_harness(), tmp_path / "gate"
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    token = tracing.received.set(CALLER)
    await harness.enqueue_steps("j", ["until", str(gate)])
    tracing.received.reset(token)
    killed = worker_process(redis_url, "killed", lease_ms=LEASE_MS, environment=environment)
    await wait_until(lambda: harness.fields("j")["trace"] != CALLER, what="its trace")
    trace = harness.fields("j")["trace"]
    assert tracing.trace_id(trace) == tracing.trace_id(CALLER)
    killed.kill()
    gate.touch()
    await harness.worker("alive")  # so that no grace period begins
    harness.stop_heartbeat("killed", 1000)
    harness.backdate("j")
    other = worker_process(redis_url, "other", lease_ms=LEASE_MS, environment=environment)
    await harness.wait_for_end("j")
    other.stop()
    [attempt] = receiver.named("run debates")
    assert [tuple(trace.split("-")[1:3])] == list(attempt.links)
    assert (attempt.parent_id, attempt.kind) == ("", "consumer")
    assert attempt.attributes["aragora_q.outcome"] == "completed"
    [pass_] = [span for span in receiver.named("maintain debates")
               if "aragora_q.reclaimed" in span.attributes]  # fmt: skip
    assert pass_.attributes["aragora_q.reclaimed"] == 1


@pytest.mark.parametrize("error", [LeaseLost("lost"), RedisUnreachable("away"), None])
async def test_a_trace_that_cannot_be_noted_costs_nothing(worker, spans, error):
    """The attempt neither waits for it nor fails with it, and no task is left."""
    harness, asked = worker(), []

    async def note_trace(job, trace):
        asked.append((job.id, tuple(trace.split("-")[1:3])))
        if error is None:
            await asyncio.Event().wait()
        raise error

    harness.started._session.note_trace = note_trace
    await harness.queue.enqueue(Job({"do": [["fail", 1]]}, id="j"))
    job = await harness.wait_for_end("j")
    await harness.started.stop()
    assert job.status == JobStatus.COMPLETED
    [_, second] = _attempts(spans)
    assert ("j", _ids(second.context)) in asked
    await wait_until(lambda: "note trace" not in {task.get_name() for task in asyncio.all_tasks()})


@pytest.mark.parametrize("steps", [[], [["permanent"]]])
async def test_the_trace_of_an_attempt_that_ends_at_once_is_noted(worker, spans, steps):
    """This holds even if the note reaches Redis after the report of a completion or a failure."""
    harness = worker()
    ids = [f"j{n}" for n in range(20)]
    await harness.queue.enqueue_many(Job({"do": steps}, id=each) for each in ids)
    for each in ids:
        await harness.wait_for_end(each)
    await harness.started.stop()
    noted = {(await harness.queue.get_job(each)).trace for each in ids}
    assert {tuple(trace.split("-")[1:3]) for trace in noted} == {
        _ids(span.context) for span in _attempts(spans)
    }


async def test_without_a_provider_a_worker_notes_nothing(worker):
    """The context in which the job was enqueued stays with it."""
    harness = worker()
    token = tracing.received.set(CALLER)
    await harness.enqueue_steps("j", ["fail", 1])
    tracing.received.reset(token)
    await harness.wait_for_end("j")
    assert (await harness.queue.get_job("j")).trace == CALLER


async def test_an_attempt_that_is_not_sampled_notes_nothing(worker, spans):
    """No receiver has its span. The context of a sampled attempt is noted."""
    harness, noted = worker(), []

    async def note_trace(job, trace):
        noted.append(trace)

    harness.started._session.note_trace = note_trace
    token = tracing.received.set(f"{CALLER[:-2]}00")
    await harness.enqueue_steps("j", ["sleep", 0.05])
    tracing.received.reset(token)
    await harness.wait_for_end("j")
    assert (noted, spans.get_finished_spans()) == ([], ())
    await harness.enqueue_steps("k", ["sleep", 0.05])
    await harness.wait_for_end("k")
    await harness.started.stop()
    assert len(noted) == 1


async def test_a_retry_of_a_job_that_a_worker_did_not_sample_is_not_sampled(worker, monkeypatch):
    """The job carries that decision. Otherwise a sampler would decide again, and trace parts of many jobs."""
    sampler = FollowsLinks(sampling.ParentBased(sampling.ALWAYS_OFF))
    monkeypatch.setattr(
        trace, "_TRACER_PROVIDER", TracerProvider(sampler=sampler, shutdown_on_exit=False)
    )
    harness = worker()
    job = Job({"do": [["sleep", 0.05]]}, id="j")
    await harness.queue.enqueue_checked([harness.queue.check(job)])  # as a line: without a context
    await harness.wait_for_end("j")
    await harness.started.stop()  # the note may come later than the report
    assert "not sampled" in tracing.described((await harness.queue.get_job("j")).trace)


async def test_a_debate_has_as_many_spans_as_the_documentation_says(
    new_harness, worker_pool, spans, monkeypatch
):
    """A debate of three agents and one round has 30; backends bill by their number."""
    monkeypatch.setattr(demo, "PAUSE_SECONDS", 0)
    harness = new_harness(**LONG_LEASE)
    agents = ["demo:bold", "demo:careful", "demo:bold"]
    job = create_debate_job("Tea?", agents, job_id="j", rounds=1, debate="always")
    await harness.queue.enqueue(job)
    await worker_pool.start(harness, debate.create(harness.config), burst=True).task
    kinds = Counter(span.name.partition(" ")[0] for span in spans.get_finished_spans())
    assert kinds == {"enqueue": 1, "run": 1, "debate": 4, "call": 12, "chat": 12}
