"""The jobs of one worker: slots, stopping, and reports of jobs whose attempts do not stop."""

import asyncio
import logging

import pytest
from support.executors import GatedExecutor, succeed
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Identity, Released
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.retry import RetryPolicy
from aragora_q.worker import runner as runner_module
from aragora_q.worker.fitness import Fitness
from aragora_q.worker.job_log import JobLog
from aragora_q.worker.leases import LeaseKeeper, LostLease
from aragora_q.worker.outages import OutageTracker
from aragora_q.worker.reporter import Reporter
from aragora_q.worker.runner import JobRunner


class _Session:
    """Accepts every report."""

    identity = Identity("w")

    def __init__(self):
        self.reports = []

    async def report(self, reports):
        self.reports += [(report.job.id, report.outcome) for report in reports]
        return ["released" if report.outcome == Released() else "completed" for report in reports]

    async def note_trace(self, job, trace):
        """Store nothing."""


class _Parts:
    """A runner with the parts that it uses, without a queue; `reporter.run` is started by the test."""

    def __init__(self, executor, concurrency=1):
        config, self.metrics, self.session = QueueConfig(), WorkerMetrics("debates"), _Session()
        self.reporter = Reporter(self.session, OutageTracker("w", self.metrics))
        self.keeper = LeaseKeeper(lambda: None, 30)
        self.fitness = Fitness("w")
        self.runner = JobRunner(
            self.session,
            executor,
            self.reporter,
            self.keeper,
            self.fitness,
            JobLog("w", self.metrics),
            self.metrics,
            config,
            concurrency=concurrency,
            policy=RetryPolicy(),
        )

    async def launch(self, *ids, fence=1):
        await self.runner.launch([_job(job_id, fence) for job_id in ids])

    def count(self, outcome):
        return self.metrics.attempts[outcome]._value.get()


@pytest.fixture
async def new_parts():
    """Makes runners; after the test their jobs are released, so that no failed test hangs."""
    made = []

    def make(executor, **options):
        made.append(_Parts(executor, **options))
        return made[-1]

    yield make
    for parts in made:
        await parts.runner.drain(0, asyncio.Event())
        await asyncio.sleep(0)
        await parts.reporter.flush()


def _job(job_id, fence=1):
    return Job({}, id=job_id, raw_payload=b"{}", attempts=1, max_attempts=3, fence=fence)


class _Slow:
    """An executor that needs `finish` after its cancellation; counts the cancellations."""

    def __init__(self):
        self.finish, self.cancellations = asyncio.Event(), 0

    async def __call__(self, job):
        while not self.finish.is_set():
            try:
                await asyncio.wait_for(self.finish.wait(), 10)
            except asyncio.CancelledError:
                self.cancellations += 1
        return {}


async def test_slot_that_becomes_free_before_the_wait_begins_is_noticed(new_parts):
    """A job that ends in the same turn of the event loop in which a wait for a slot starts ends it."""
    gated = GatedExecutor()
    parts = new_parts(gated)
    await parts.launch("a")
    waiting = asyncio.ensure_future(parts.runner.slots_changed())
    parts.runner.wake()
    await asyncio.wait_for(waiting, 30)


async def test_drain_ends_with_the_last_attempt(new_parts):
    """A drain that begins just as the last attempt ends does not wait for its time limit."""
    gated = GatedExecutor()
    parts = new_parts(gated)
    await parts.launch("a")
    draining = asyncio.create_task(parts.runner.drain(60, asyncio.Event()))
    gated.gate.set()
    await asyncio.wait_for(draining, 30)
    await parts.reporter.flush()


async def test_lost_attempt_is_cancelled_and_counted_once(new_parts):
    """A lost attempt that is slow to end gets one CancelledError, whatever happens until it ends."""
    slow = _Slow()
    parts = new_parts(slow, concurrency=2)
    await parts.launch("a")
    for reason in ("lost", "lost", "cancelled"):
        parts.runner.cancel([LostLease("a", 1, reason)])
        await asyncio.sleep(0)
    assert not parts.runner.owns(("a", 1))
    assert parts.runner.free_slots() == 1  # its slot is taken until it ends
    draining = asyncio.create_task(parts.runner.drain(0, asyncio.Event()))
    await asyncio.sleep(0.05)
    slow.finish.set()
    await asyncio.wait_for(draining, 30)
    assert slow.cancellations == 1
    assert (parts.count("lost"), parts.count("cancelled"), parts.count("released")) == (1, 0, 0)
    assert parts.metrics.leases_lost._value.get() == 1
    assert parts.session.reports == []
    assert (len(parts.runner), len(parts.reporter)) == (0, 0)


async def test_job_started_again_while_its_lost_attempt_still_runs(new_parts):
    """The lost attempt is stopped and reports nothing; the new one keeps lease and slot."""
    first, second = _Slow(), _Slow()

    async def executor(job):
        return await (first if job.fence == 1 else second)(job)

    parts = new_parts(executor, concurrency=2)
    await parts.launch("a")
    await parts.launch("a", fence=2)
    await wait_until(lambda: first.cancellations)
    parts.runner.cancel([LostLease("a", 1, "lost")])  # of a renewal sent before the second start
    first.finish.set()
    await wait_until(lambda: len(parts.runner) == 1)
    assert parts.runner.owns(("a", 2))
    assert parts.keeper._leases == {"a": 2}
    second.finish.set()
    await wait_until(lambda: len(parts.reporter))
    await parts.reporter.flush()
    assert [job_id for job_id, _ in parts.session.reports] == ["a"]
    assert (first.cancellations, second.cancellations) == (1, 0)
    await wait_until(lambda: parts.count("completed"))
    assert parts.count("lost") == 1


async def test_job_of_an_attempt_that_does_not_stop_is_released(
    new_parts, monkeypatch, caplog, spans
):
    """It is reported as released once, and logged; a result that comes later is dropped. Its span ends."""
    monkeypatch.setattr(runner_module, "CANCEL_TIMEOUT_SECONDS", 0.05)
    slow = _Slow()
    parts = new_parts(slow)
    await parts.launch("a")
    await parts.runner.drain(0, asyncio.Event())
    await asyncio.sleep(0)
    await parts.reporter.flush()
    await asyncio.sleep(0)
    assert parts.session.reports == [("a", Released())]
    assert parts.runner.stuck_jobs == ["a"]
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (line.msg.event, line.job) == ("attempt does not stop, its job is released", "a")
    [span] = spans.get_finished_spans()
    assert line.trace_id == f"{span.context.trace_id:032x}"
    assert span.attributes["aragora_q.outcome"] == "released"
    assert span.attributes["error.type"] == "does_not_stop"
    slow.finish.set()
    await wait_until(lambda: parts.runner.stuck_jobs == [])
    assert (slow.cancellations, parts.count("released"), parts.count("completed")) == (1, 1, 0)
    assert len(parts.session.reports) == 1
    assert len(parts.reporter) == 0
    assert parts.keeper._leases == {}


async def test_the_span_of_a_cancelled_attempt_that_does_not_stop_is_cancelled(
    new_parts, monkeypatch, spans
):
    """Its job is not released: an operator cancelled it."""
    monkeypatch.setattr(runner_module, "CANCEL_TIMEOUT_SECONDS", 0.05)
    slow = _Slow()
    parts = new_parts(slow)
    await parts.launch("a")
    [running] = parts.runner._executing
    parts.runner.cancel([LostLease("a", running.attempt.job.fence, "cancelled")])
    await parts.runner.drain(0, asyncio.Event())
    [span] = spans.get_finished_spans()
    assert span.attributes["aragora_q.outcome"] == "cancelled"
    slow.finish.set()
    await wait_until(lambda: parts.runner.stuck_jobs == [])


async def test_waits_for_reports_that_are_given_up_end(new_parts):
    """No task waits for an answer of the queue that will never come."""
    parts = new_parts(succeed, concurrency=3)
    before = asyncio.all_tasks()
    await parts.launch("a", "b", "c")
    await wait_until(lambda: len(parts.reporter) == 3)
    parts.reporter.give_up()
    await wait_until(lambda: asyncio.all_tasks() == before)
    assert len(parts.reporter) == 3, "they stay counted as unreported"
    assert parts.keeper._leases == {}
