"""Contract, on every server: an attempt ends, is told once, and is believed only from its holder."""

import pytest

from aragora_q.base import Completed, Failed, Identity, Job, JobStatus, Released, Report, Retry
from aragora_q.errors import LeaseLost, PermanentError
from aragora_q.session import MAX_DEFERRAL_SECONDS, MAX_DEFERRALS, MAX_ERROR_CHARS
from aragora_q.status import BACKSTOP_MS

DAY_MS = 86_400_000
OUTCOMES = {
    "completed": Completed(b'{"answer":42}'),
    "retrying": Retry("RuntimeError: no", 60),
    "failed": Failed("ValueError: never"),
    "released": Released(),
}


async def test_complete(harness):
    """A completed job keeps payload and result, leaves its lane, and expires after its retention."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert await harness.report(session, job, Completed(b'{"answer":42}')) == "completed"
    known = await harness.queue.get_job("a")
    assert known.status is JobStatus.COMPLETED
    assert (known.payload, known.result, known.error) == ({"n": 1}, {"answer": 42}, None)
    assert known.completed_at >= known.started_at
    assert (known.attempts, known.worker_id) == (1, "w1")
    assert harness.entries() == []
    assert harness.pending() == []
    left_ms = harness.redis.pttl(harness.keys.job("a")) - BACKSTOP_MS
    assert 6.9 * DAY_MS < left_ms <= 7 * DAY_MS
    assert harness.counters() == {"enqueued": 1, "started": 1, "completed": 1}
    assert harness.events()[-1] == ("completed", "a")


async def test_retry_waits_out_its_backoff(harness):
    """A retried job is RETRYING in the delayed index; its error is told, its attempt stays charged."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert await harness.report(session, job, Retry("RuntimeError: later", 60)) == "retrying"
    known = await harness.queue.get_job("a")
    assert known.status is JobStatus.RETRYING
    assert (known.attempts, known.error, known.payload) == (1, "RuntimeError: later", {"n": 1})
    assert 50 < known.due_at - known.started_at < 120
    assert harness.entries() == []
    assert (await session.start(1)).jobs == []
    [line] = await harness.queue.tracker.history("a")
    assert (line["cause"], line["attempt"], line["worker"]) == ("error", 1, session.identity.holder)


async def _next_attempt(harness, session):
    """The delayed job, made due and started."""
    [job_id] = harness.redis.zrange(harness.keys.delayed, 0, 0)
    harness.redis.zadd(harness.keys.delayed, {job_id: 0})
    assert (await harness.queue.promote()).promoted == 1
    return await harness.start_one(session)


@pytest.mark.parametrize("own", [None, 1, 2])
async def test_attempts_are_bounded(harness, own):
    """At the job's own maximum, else the queue's, a retry becomes a dead letter, once, payload kept."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=own)
    maximum = own or 3
    job = await harness.start_one(session)
    for attempt in range(1, maximum):
        assert job.attempts == attempt
        assert await harness.report(session, job, Retry(f"no {attempt}", 0)) == "retrying"
        job = await _next_attempt(harness, session)
    assert job.attempts == job.fence == maximum
    for _ in range(2):
        assert await harness.report(session, job, Retry("the last", 0)) == "failed"
    known = await harness.queue.get_job("a")
    assert (known.status, known.error) == (JobStatus.FAILED, "the last")
    assert (known.attempts, known.payload) == (maximum, {"n": 1})
    assert harness.redis.zcard(harness.keys.failed) == harness.counters()["failed"] == 1
    assert harness.counters().get("retried", 0) == maximum - 1


async def test_retry_later_costs_no_attempt_fifty_times(harness):
    """A provider's "come back later" gives the attempt back; from the 51st time on it is charged."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=2)
    job = await harness.start_one(session)
    for _ in range(MAX_DEFERRALS):
        assert job.attempts == 1
        assert await harness.report(session, job, Retry("busy", 0, charged=False)) == "retrying"
        assert (await harness.queue.get_job("a")).attempts == 0
        job = await _next_attempt(harness, session)
    assert job.fence == MAX_DEFERRALS + 1
    assert harness.counters()["deferred"] == MAX_DEFERRALS
    assert await harness.report(session, job, Retry("busy", 0, charged=False)) == "retrying"
    job = await _next_attempt(harness, session)
    assert job.attempts == 2
    assert await harness.report(session, job, Retry("busy", 0, charged=False)) == "failed"
    assert len(await harness.queue.tracker.history("a")) == 20


async def test_retry_later_costs_no_attempt_for_six_hours(harness):
    """Six hours after the first "later", the next one is charged."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=1)
    await harness.report(session, await harness.start_one(session), Retry("busy", 0, charged=False))
    job = await _next_attempt(harness, session)
    harness.redis.hincrby(harness.keys.job("a"), "deferred_at", -1000 * MAX_DEFERRAL_SECONDS)
    assert await harness.report(session, job, Retry("busy", 0, charged=False)) == "failed"


@pytest.mark.parametrize("charged", [True, False])
@pytest.mark.parametrize("field", ["attempts", "max_attempts", "deferrals", "deferred_at"])
async def test_a_garbled_number_costs_no_retry(harness, field, charged):
    """Where a stranger put a word in a number's place, the job is tried again as if it were not there."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.redis.hset(harness.keys.job("a"), field, "garbled")
    assert await harness.report(session, job, Retry("busy", 0, charged=charged)) == "retrying"
    assert (await _next_attempt(harness, session)).fence == 2


@pytest.mark.parametrize("recovers", [True, False])
async def test_a_garbled_number_of_attempts_holds_up_no_release(harness, recovers):
    """Told or unheard of, a job whose attempts are a word goes back to its lane."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.redis.hset(harness.keys.job("a"), "attempts", "garbled")
    if recovers:
        assert await session.recover((), min_idle_seconds=0) == ["a"]
    else:
        assert await harness.report(session, job, Released()) == "released"
    assert (await harness.start_one(session)).attempts == 1


async def test_fail(harness):
    """A job whose error will not pass is a dead letter at once: payload and error kept."""
    session = await harness.worker()
    await harness.enqueue("a", priority=1)
    job = await harness.start_one(session)
    assert await harness.report(session, job, Failed("ValueError: " + "x" * 9000)) == "failed"
    known = await harness.queue.get_job("a")
    assert (known.status, known.payload, known.attempts) == (JobStatus.FAILED, {"n": 1}, 1)
    assert len(known.error) == MAX_ERROR_CHARS
    assert harness.entries(1) == []


async def test_release_charges_nothing(harness):
    """A released job is PENDING at its lane's tail, attempt given back; the fence goes on rising."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.enqueue("b")
    job = await harness.start_one(session)
    assert await harness.report(session, job, Released()) == "released"
    known = await harness.queue.get_job("a")
    assert (known.status, known.attempts, known.payload) == (JobStatus.PENDING, 0, {"n": 1})
    assert [each.id for each in (await session.start(5)).jobs] == ["b", "a"]
    assert harness.fields("a")["fence"] == "2"
    assert harness.counters()["released"] == 1


@pytest.mark.parametrize("verdict", OUTCOMES)
async def test_repeated_report_gets_the_same_answer(harness, verdict):
    """A report whose answer was lost is told again: same verdict, nothing done or counted twice."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert await harness.report(session, job, OUTCOMES[verdict]) == verdict
    counters, events = harness.counters(), harness.events()
    assert await harness.report(session, job, OUTCOMES[verdict]) == verdict
    assert (harness.counters(), harness.events()) == (counters, events)


@pytest.mark.parametrize("verdict", OUTCOMES)
@pytest.mark.parametrize("who", ["old fence", "other worker", "other boot"])
async def test_only_the_holder_is_heard(harness, verdict, who):
    """Every report is refused but that of the worker, boot and fence that hold the job; D and F."""
    session, other = await harness.worker("w1"), await harness.worker("w2")
    await harness.enqueue("a")
    old = await harness.start_one(session)
    await harness.report(session, old, Released())
    job = await harness.start_one(session)
    sender, told = {
        "old fence": (session, old),
        "other worker": (other, job),
        "other boot": (harness.queue.session(Identity("w1", "another")), job),
    }[who]
    fields = harness.fields("a")
    assert await harness.report(sender, told, OUTCOMES[verdict]) == "lost"
    with pytest.raises(LeaseLost):
        await sender.report_progress(told, {"round": 1})
    with pytest.raises(LeaseLost):
        await sender.checkpoint(told, "round", {"n": 1})
    assert harness.renew(sender, told).gone == {"a": "lost"}
    assert harness.fields("a") == fields
    assert harness.counters().get("refused", 0) == (verdict != "released")
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


@pytest.mark.parametrize("ended", OUTCOMES)
@pytest.mark.parametrize("late", OUTCOMES)
async def test_late_report_changes_nothing(harness, ended, late):
    """Once an attempt has ended, no other word of it counts: COMPLETED never turns RETRYING.

    (A retry may have failed its job, so that repeating it is answered "failed".)
    """
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await harness.report(session, job, OUTCOMES[ended])
    fields = harness.fields("a")
    is_repeat = late == ended or (ended, late) == ("failed", "retrying")
    assert await harness.report(session, job, OUTCOMES[late]) == (ended if is_repeat else "lost")
    assert harness.fields("a") == fields


async def test_mixed_batch_answers_in_order(harness):
    """Reports of all kinds travel together; each verdict is at its report's place."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={"n": 1}, id=f"j{n}") for n in range(8)])
    jobs = (await session.start(8)).jobs
    outcomes = list(OUTCOMES.values()) * 2
    reports = [Report(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
    assert await session.report(reports) == list(OUTCOMES) * 2
    assert [await harness.queue.get_status(f"j{n}") for n in range(4)] == [
        "completed",
        "retrying",
        "failed",
        "pending",
    ]


async def test_large_batches_are_cut(harness):
    """More reports than a script may carry go in several, all answered."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(250)])
    jobs = [job for _ in range(3) for job in (await session.start(1000)).jobs]
    verdicts = await session.report([Report(job, Completed(b"{}")) for job in jobs])
    assert verdicts == ["completed"] * 250
    assert harness.redis.zcard(harness.keys.completed) == 250


async def test_progress_and_checkpoints(harness):
    """A holder's progress shows, its checkpoints reach the next attempt, and both are bounded."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await session.report_progress(job, {"round": 1})
    await session.checkpoint(job, "round-1", {"said": "x"})
    await session.checkpoint(job, "round-1", {"said": "y"})
    assert (await harness.queue.get_job("a")).progress == {"round": 1}
    with pytest.raises(PermanentError, match="round-2"):
        await session.checkpoint(job, "round-2", {"said": "z" * 5_000_000})
    with pytest.raises(ValueError, match="4096"):
        await session.report_progress(job, {"text": "z" * 5000})
    await harness.report(session, job, Retry("no", 0))
    job = await _next_attempt(harness, session)
    assert await session.checkpoints(job) == {"round-1": {"said": "y"}}
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    assert harness.redis.pttl(harness.keys.journal("a")) > 0


async def test_ends_without_its_stream(harness):
    """Even when someone deleted the stream under it, a running job's outcome is recorded."""
    session = await harness.worker()
    for n, outcome in enumerate(OUTCOMES.values()):
        await harness.enqueue(f"j{n}")
        job = await harness.start_one(session)
        harness.redis.delete(harness.keys.stream_normal)
        assert await harness.report(session, job, outcome) == list(OUTCOMES)[n]
    assert (await harness.start_one(session)).id == "j3"


async def test_large_payloads_start_few_at_a_time(new_harness):
    """Where payloads may be huge, a start brings as many as fit into one reply; the next goes on."""
    harness = new_harness(claim_idle_ms=60_000, max_payload_bytes=16 * 1024 * 1024)
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(5)])
    fetched = [await session.start(5) for _ in range(4)]
    assert [len(each.jobs) for each in fetched] == [2, 2, 1, 0]
    assert [each.resume_from is None for each in fetched] == [True, True, True, False]


async def test_large_results_travel_in_small_lots(new_harness):
    """Many megabytes of payloads or results go in several calls, so that a slow link gets each through."""
    harness = new_harness(claim_idle_ms=60_000)
    session = await harness.worker()
    harness.redis.config_resetstat()
    jobs = [Job(payload={"text": "x" * 200_000}, id=f"j{n}") for n in range(50)]
    assert len(await harness.queue.enqueue_many(jobs)) == 50
    assert harness.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
    running = (await session.start(50)).jobs
    harness.redis.config_resetstat()
    result = Completed(b'{"text":"' + b"y" * 1_000_000 + b'"}')
    assert await session.report([Report(job, result) for job in running]) == ["completed"] * 50
    assert harness.redis.info("commandstats")["cmdstat_evalsha"]["calls"] >= 15
