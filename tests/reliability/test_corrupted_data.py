"""What strangers write into the queue's keys: a dead letter with its bytes kept; no crash, no loop."""

import asyncio
import json
from contextlib import suppress

import invariants
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stage import Stage

from aragora_q import wire
from aragora_q.base import JobStatus
from aragora_q.errors import PayloadInvalid
from aragora_q.keys import JOB_ID_PATTERN
from aragora_q.worker import DebateWorker

names = st.one_of(st.just(b"id"), st.just(b"payload"), st.binary(min_size=1, max_size=12))
values = st.one_of(st.binary(max_size=60), st.just(b"job-1"), st.just(b'{"a":1}'))
entries = st.lists(st.tuples(names, values), min_size=1, max_size=4)
bounded = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


async def _execute(job):
    return {"ran": job.id}


def _drained(redis_url, prepare, check):
    """A worker empties the queue that `prepare` filled; `check` then looks at it."""

    async def go():
        stage = Stage(redis_url, claim_idle_ms=60_000, retry_base_delay=0.0, retry_max_delay=0.0)
        stage.raw.flushdb()
        try:
            await prepare(stage)
            worker = DebateWorker(
                stage.queue, "w1", executor=_execute, burst=True, config=stage.config
            )
            await asyncio.wait_for(worker.start(), 20)
            assert [stage.entries(priority) for priority in (1, 0, -1)] == [[], [], []]
            invariants.check(stage.raw, stage.keys.stem)
            await check(stage)
        finally:
            await stage.close()

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
    """Any entry leaves its stream: run if it is a job, else kept as a dead letter, byte for byte."""

    async def prepare(stage):
        stage.raw.xadd(stage.keys.stream_of(lane), dict(fields))

    async def check(stage):
        ended = [
            stage.raw.zrange(key, 0, -1)
            for key in (stage.keys.completed, stage.keys.failed, stage.keys.cancelled)
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
        kept = stage.raw.get(stage.keys.payload(job_id))
        if is_job:
            assert job_id == last[b"id"].decode()
            assert kept == last[b"payload"].decode(errors="surrogateescape")
            return
        flat = [text for pair in _as_text(fields).items() for text in pair]
        assert json.loads(kept) == flat
        assert "is not a job" in (await stage.queue.get_job(job_id)).error

    _drained(redis_url, prepare, check)


def _as_text(fields):
    return {
        name.decode(errors="surrogateescape"): value.decode(errors="surrogateescape")
        for name, value in dict(fields).items()
    }


fields_of_jobs = st.sampled_from(
    ["status", "fence", "attempts", "max_attempts", "crashes", "priority", "entry", "holder",
     "created_at", "lease_ms", "started_at"]
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
    """A hash that a stranger wrote to costs at most its own job; the one beside it runs."""

    async def go():
        stage = Stage(redis_url, claim_idle_ms=60_000)
        stage.raw.flushdb()
        try:
            await stage.enqueue("odd")
            await stage.enqueue("good")
            stage.raw.hset(stage.keys.job("odd"), mapping=changes)
            worker = DebateWorker(
                stage.queue, "w1", executor=_execute, burst=True, config=stage.config
            )
            await asyncio.wait_for(worker.start(), 20)
            assert await stage.queue.get_status("good") == JobStatus.COMPLETED
            for row in stage.pending():
                stage.age_entry(stage.keys.stream_normal, row["message_id"])
            await stage.queue.reclaim()
            again = DebateWorker(
                stage.queue, "w2", executor=_execute, burst=True, config=stage.config
            )
            await asyncio.wait_for(again.start(), 20)
            assert stage.entries() == []
            with suppress(PayloadInvalid):
                await stage.queue.get_job("odd")
        finally:
            await stage.close()

    asyncio.run(go())


@bounded
@given(data=st.binary(max_size=200))
@example(data=b'{"a":NaN}')
@example(data=b"\xff{}")
@example(data=b"[" * 100_000)
@example(data=b'{"a":' * 5_000)
@example(data=b'{"a":1}{"b":2}')
def test_json_from_anywhere(data):
    """Bytes either decode or raise ValueError: no other exception, no recursion limit."""
    try:
        value = wire.decode(data)
    except ValueError:
        return
    assert wire.decode(wire.encode(value)) == value


@pytest.mark.parametrize("key", ["", ":payload", ":history", ":journal"])
async def test_keys_of_another_type(redis_url, key):
    """A key of the wrong type under a job's name costs that job at most, and stops nobody."""
    stage = Stage(redis_url, claim_idle_ms=60_000)
    try:
        await stage.enqueue("odd", **({"delay_seconds": 0.01} if key == ":payload" else {}))
        await stage.enqueue("good")
        stage.raw.delete(f"{stage.keys.job('odd')}{key}")
        stage.raw.setbit(f"{stage.keys.job('odd')}{key}", 1, 1) if key != ":payload" else (
            stage.raw.lpush(f"{stage.keys.job('odd')}{key}", "x")
        )
        worker = DebateWorker(stage.queue, "w1", executor=_execute, burst=True, config=stage.config)
        await asyncio.wait_for(worker.start(), 20)
        assert await stage.queue.get_status("good") == JobStatus.COMPLETED
    finally:
        await stage.close()


async def test_words_where_control_has_numbers(redis_url):
    """Garbled marks of a silence are no marks: heartbeats and reclaim go on as if there were none."""
    stage = Stage(redis_url)
    stage.raw.flushdb()
    dead, alive = await stage.worker("dead"), await stage.worker("alive")
    await stage.enqueue("a")
    job = await stage.started(dead)
    newest = stage.raw.zrevrange(stage.keys.workers, 0, 0, withscores=True)[0][1]
    marks = {"silence": str(int(newest)), "graces": "many", "reclaim_after": "soon"}
    stage.raw.hset(stage.keys.control, mapping=marks)
    stage.raw.zadd(stage.keys.workers, {"dead": 1, "alive": newest - 60_000})
    assert stage.renew(alive).state == "ok"
    stage.raw.hset(stage.keys.control, "reclaim_after", "soon")
    stage.age(job.id)
    assert [taken.decision for taken in await stage.queue.reclaim("alive")] == ["reclaimed"]
    await stage.close()
