"""Unexpected data in the queue's keys: a dead letter with its bytes kept; no crash, no endless loop."""

import asyncio
import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import invariants
from support.queue_harness import QueueHarness

from aragora_q.base import JOB_ID_PATTERN, Job, JobStatus
from aragora_q.contracts import Completed, Failed, Released, Report, Retry
from aragora_q.errors import InvalidPayload
from aragora_q.worker.debate_worker import DebateWorker

names = st.one_of(st.just(b"id"), st.just(b"payload"), st.binary(min_size=1, max_size=12))


values = st.one_of(st.binary(max_size=60), st.just(b"job-1"), st.just(b'{"a":1}'))


entries = st.lists(st.tuples(names, values), min_size=1, max_size=4)


bounded = settings(
    max_examples=30,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


async def _execute(job):
    return {"ran": job.id}


def _drained(redis_url, prepare, check):
    """Let a worker empty the queue that `prepare` filled; then run `check`."""

    async def go():
        harness = QueueHarness(
            redis_url, claim_idle_ms=60_000, retry_base_delay=0.0, retry_max_delay=0.0
        )
        harness.redis.flushdb()
        try:
            await prepare(harness)
            worker = DebateWorker(
                harness.queue, "w1", executor=_execute, burst=True, config=harness.config
            )
            await asyncio.wait_for(worker.start(), 60)
            assert [harness.entries(priority) for priority in (1, 0, -1)] == [[], [], []]
            invariants.check(harness.redis, harness.keys.queue_prefix)
            await check(harness)
        finally:
            await harness.close()

    asyncio.run(go())


@pytest.mark.parametrize("lane", [1, 0, -1])
@bounded
@given(fields=entries)
@example(fields=[(b"id", b"../x"), (b"payload", b"{}")])
@example(fields=[(b"id", b"a" * 65), (b"payload", b"{}")])
@example(fields=[(b"payload", b"\x00\xff\x1b[2J")])
@example(fields=[(b"id", b"twice"), (b"id", b"job-1"), (b"payload", b"[1]")])
@example(fields=[(b"id", b"job-1"), (b"payload", b"")])
def test_stream_entries(redis_url, lane, fields):
    """Any entry leaves its stream: it runs if it is a job, else it becomes a dead letter with its bytes."""

    async def prepare(harness):
        harness.redis.xadd(harness.keys.stream_of(lane), dict(fields))

    async def check(harness):
        ended = [
            harness.redis.zrange(key, 0, -1)
            for key in (harness.keys.completed, harness.keys.failed, harness.keys.cancelled)
        ]
        assert sum(map(len, ended)) == 1
        completed, failed, _ = ended
        last = dict(fields)
        is_job = (
            JOB_ID_PATTERN.fullmatch(last.get(b"id", b"").decode("latin-1")) and b"payload" in last
        )
        if completed:
            assert is_job
            assert completed == [last[b"id"].decode()]
            return
        [job_id] = failed
        kept = harness.redis.get(harness.keys.payload(job_id))
        if is_job:
            assert job_id == last[b"id"].decode()
            assert kept == last[b"payload"].decode(errors="surrogateescape")
            return
        flat = [text for pair in _as_text(fields).items() for text in pair]
        assert json.loads(kept) == flat
        assert "is not a job" in (await harness.queue.get_job(job_id)).error

    _drained(redis_url, prepare, check)


def _as_text(fields):
    return {
        name.decode(errors="surrogateescape"): value.decode(errors="surrogateescape")
        for name, value in dict(fields).items()
    }


fields_of_jobs = st.sampled_from(
    ["status", "fence", "attempts", "max_attempts", "crashes", "priority", "entry", "lease_owner",
     "created_at", "lease_ms", "started_at", "set_aside", "orphaned", "deferrals", "deferred_at", "trace"]
)  # fmt: skip


odd = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "-1", "1e999", "0x10", "nan", "3", "processing", "completed", "pending"]),
)


@bounded
@given(changes=st.dictionaries(fields_of_jobs, odd, min_size=1, max_size=3))
@example(changes={"fence": "x"})
@example(changes={"attempts": ""})
@example(changes={"status": "odd"})
@example(changes={"entry": "nonsense"})
@example(changes={"status": "processing"})
@example(changes={"priority": "nan"})
@example(changes={"max_attempts": "-1"})
def test_job_hashes(redis_url, changes):
    """Unexpected values in one job's hash affect that job only."""

    async def go():
        harness = QueueHarness(redis_url, claim_idle_ms=60_000)
        harness.redis.flushdb()
        try:
            await harness.enqueue("odd")
            await harness.enqueue("good")
            harness.redis.hset(harness.keys.job("odd"), mapping=changes)
            worker = DebateWorker(
                harness.queue, "w1", executor=_execute, burst=True, config=harness.config
            )
            await asyncio.wait_for(worker.start(), 60)
            assert await harness.queue.get_status("good") == JobStatus.COMPLETED
            for row in harness.pending():
                harness.backdate_entry(harness.keys.stream_normal, row["message_id"])
            await harness.queue.reclaim()
            again = DebateWorker(
                harness.queue, "w2", executor=_execute, burst=True, config=harness.config
            )
            await asyncio.wait_for(again.start(), 60)
            assert harness.entries() == []
            with suppress(InvalidPayload):
                await harness.queue.get_job("odd")
        finally:
            await harness.close()

    asyncio.run(go())


@pytest.mark.parametrize("key", ["", ":payload", ":history", ":journal"])
async def test_keys_of_another_type(redis_url, key):
    """A key of the wrong type under a job's name affects that job only."""
    harness = QueueHarness(redis_url, claim_idle_ms=60_000)
    try:
        await harness.enqueue("odd", **({"delay_seconds": 0.01} if key == ":payload" else {}))
        await harness.enqueue("good")
        harness.redis.delete(f"{harness.keys.job('odd')}{key}")
        harness.redis.setbit(f"{harness.keys.job('odd')}{key}", 1, 1) if key != ":payload" else (
            harness.redis.lpush(f"{harness.keys.job('odd')}{key}", "x")
        )
        worker = DebateWorker(
            harness.queue, "w1", executor=_execute, burst=True, config=harness.config
        )
        await asyncio.wait_for(worker.start(), 60)
        assert await harness.queue.get_status("good") == JobStatus.COMPLETED
    finally:
        await harness.close()


@pytest.mark.parametrize("value", ["nonsense", ""])
async def test_a_running_job_with_a_damaged_entry_field(harness, value):
    """The other jobs of its worker keep their leases, and complete in the same batch of reports."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job({}, id=job_id) for job_id in "abc"])
    jobs = (await session.start(3)).jobs
    entry = harness.fields("b")["entry"]
    if value:
        harness.redis.hset(harness.keys.job("b"), "entry", value)
    else:
        harness.redis.hdel(harness.keys.job("b"), "entry")
    for row in harness.pending():
        harness.backdate_entry(harness.keys.stream_normal, row["message_id"])
    assert (await harness.renew(session, *jobs)).lost == {}
    aged = [row["message_id"] for row in harness.pending() if row["time_since_delivered"] > 50_000]
    assert aged == [entry]
    reports = [Report(job, Completed(b"{}")) for job in jobs]
    assert await session.report(reports) == ["completed"] * 3
    assert sorted(harness.redis.zrange(harness.keys.completed, 0, -1)) == ["a", "b", "c"]
    await harness.queue.reclaim()
    assert harness.entries() == harness.pending() == []


@pytest.mark.parametrize(
    ("outcome", "answer", "status"),
    [
        (Retry("x", 60), "retrying", "retrying"),
        (Failed("x"), "failed", "failed"),
        (Released(), "released", "pending"),
    ],
)
async def test_reports_with_one_of_a_job_without_its_entry_field(harness, outcome, answer, status):
    """All of them are recorded, and counted in the group; the entry that is left is dropped."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job({}, id=job_id, group="g") for job_id in "abc"])
    jobs = (await session.start(3)).jobs
    entry = harness.fields("b")["entry"]
    harness.redis.hdel(harness.keys.job("b"), "entry")
    assert await session.report([Report(job, outcome) for job in jobs]) == [answer] * 3
    assert (await harness.queue.tracker.get_group("g")).counts[status] == 3
    harness.backdate_entry(harness.keys.stream_normal, entry)
    await harness.queue.reclaim()
    assert harness.pending() == []


@pytest.mark.parametrize("value", ["nonsense", "", "1-x"])
async def test_jobs_are_cancelled_with_one_whose_entry_field_is_damaged(harness, value):
    """All of them are, and their group counts them; a worker that reads the left entry drops it."""
    job_ids = ["a", "b", "c"]
    await harness.queue.enqueue_many([Job({}, id=job_id, group="g") for job_id in job_ids])
    harness.redis.hset(harness.keys.job("b"), "entry", value)
    assert await harness.queue.cancel_many(job_ids) == ["cancelled"] * 3
    assert (await harness.queue.tracker.get_group("g")).counts["cancelled"] == 3
    session = await harness.worker()
    await session.start(3)
    assert harness.entries() == []


async def test_a_key_of_another_type_costs_no_other_job_of_a_batch(harness):
    """Requeue, completion and purge of the others take effect whole, and their group counts them."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job({}, id=job_id, group="g") for job_id in "abc"])
    await harness.queue.cancel_many(["a", "b", "c"])
    payload = harness.keys.payload("b")
    harness.redis.delete(payload)
    harness.redis.rpush(payload, "x")
    assert await harness.queue.requeue(["a", "b", "c"]) == ["requeued", "malformed", "requeued"]
    await harness.enqueue("d", group="g")
    jobs = (await session.start(3)).jobs
    harness.redis.delete(harness.keys.job("c"))
    harness.redis.set(harness.keys.job("c"), "x")
    reports = [Report(job, Completed(b"{}")) for job in jobs]
    assert await session.report(reports) == ["completed", "lost", "completed"]
    group = await harness.queue.tracker.get_group("g")
    assert group.counts["completed"] == 2
    harness.redis.delete(harness.keys.job("a"))
    harness.redis.set(harness.keys.job("a"), "x")
    purged = await harness.queue.purge(JobStatus.COMPLETED, older_than_seconds=-1)
    assert (purged.deleted, harness.redis.zcard(harness.keys.completed)) == (2, 0)
    assert not harness.redis.exists(harness.keys.job("a"), harness.keys.job("d"))
    harness.redis.flushdb()


@pytest.mark.parametrize("damage", ["bytes", "type"])
async def test_damaged_journals(harness, damage):
    """A byte count that is not a number counts as 0; a journal of another type does not stop a requeue."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await session.checkpoint(job, "life/started", {"at": 1})
    journal = harness.keys.journal("a")
    if damage == "bytes":
        harness.redis.hset(journal, "bytes", "many")
        await session.checkpoint(job, "life/other", {"at": 2})
    else:
        harness.redis.set(journal, "x")
    assert await harness.report(session, job, Failed("no use")) == "failed"
    assert await harness.queue.requeue(["a"]) == ["requeued"]
    if damage == "bytes":
        assert harness.redis.hgetall(journal) == {"bytes": "0"}


async def test_control_fields_that_are_not_numbers(redis_url):
    """Invalid marks of a grace are ignored: heartbeats and reclaim go on."""
    harness = QueueHarness(redis_url)
    harness.redis.flushdb()
    dead, alive = await harness.worker("dead"), await harness.worker("alive")
    await harness.enqueue("a")
    job = await harness.start_one(dead)
    newest = harness.redis.zrevrange(harness.keys.workers, 0, 0, withscores=True)[0][1]
    marks = {"last_heartbeat_seen": str(int(newest)), "grace_count": "many", "grace_until": "soon"}
    harness.redis.hset(harness.keys.control, mapping=marks)
    harness.redis.zadd(harness.keys.workers, {"dead": 1, "alive": newest - 60_000})
    assert (await harness.renew(alive)).state == "ok"
    harness.redis.hset(harness.keys.control, "grace_until", "soon")
    harness.backdate(job.id)
    assert [taken.decision for taken in await harness.queue.reclaim("alive")] == ["reclaimed"]
    await harness.close()
