"""Input is bounded where it is accepted, and so is all output of an executor."""

import asyncio
import signal

import pytest
import uvloop
from support import invariants
from support.queue_harness import QueueHarness
from support.wait import wait_until

from aragora_q.base import MAX_ERROR_CHARS, Job
from aragora_q.config.settings import MAX_DATA_BYTES, QueueConfig
from aragora_q.contracts import Completed, Failed, Report, Retry
from aragora_q.errors import InvalidPayload, PermanentError, RedisUnreachable, UnsupportedServer
from aragora_q.redis.keys import LUA_CONSTANTS
from aragora_q.streams.session import MAX_PROGRESS_BYTES
from aragora_q.worker.debate_worker import DebateWorker


@pytest.fixture
async def harness(redis_url):
    made = QueueHarness(redis_url, max_payload_bytes=1000, max_result_bytes=1000)
    yield made
    await made.close()


@pytest.mark.parametrize(
    "job",
    [
        Job(payload={"x": "y" * 1000}),
        Job(payload={}, id="a:b"),
        Job(payload={}, id="-a"),
        Job(payload={}, id="a" * 65),
        Job(payload={}, id="a\nb"),
        Job(payload={}, id=""),
        Job(payload={}, priority=2**70),
        Job(payload={}, delay_seconds=-1),
        Job(payload={}, delay_seconds=float("nan")),
        Job(payload={"x": float("inf")}),
        Job(payload={}, max_attempts=0),
    ],
)
async def test_jobs(harness, job):
    """A job that breaks a limit is refused with 65, and no key is written."""
    with pytest.raises(InvalidPayload):
        await harness.queue.enqueue(job)
    assert harness.redis.dbsize() == 0


async def test_errors_and_progress(harness):
    """A long error is cut; progress beyond its limit is refused."""
    await harness.enqueue("a")
    session = await harness.worker()
    job = await harness.start_one(session)
    with pytest.raises(ValueError, match="progress"):
        await session.report_progress(job, {"x": "y" * MAX_PROGRESS_BYTES})
    await harness.report(session, job, Failed("x" * 1_000_000))
    [line] = harness.redis.lrange(f"{harness.keys.job('a')}:history", 0, -1)
    assert len(line) < MAX_ERROR_CHARS + 300


async def test_checkpoints(harness, monkeypatch):
    """The script counts the bytes of all checkpoints of a job, and refuses more than the limit."""
    monkeypatch.setattr("aragora_q.streams.session.MAX_JOURNAL_BYTES", 1000)
    await harness.enqueue("a")
    session = await harness.worker()
    job = await harness.start_one(session)
    await session.checkpoint(job, "one", {"x": "y" * 600})
    await session.checkpoint(job, "one", {"x": "z" * 600})
    with pytest.raises(PermanentError, match="exceed"):
        await session.checkpoint(job, "two", {"x": "y" * 600})
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


async def test_results(harness):
    """A result beyond its limit fails the job permanently, because a retry would not make it smaller."""

    async def huge(job):
        return {"x": "y" * 5000}

    await harness.enqueue("a")
    await DebateWorker(
        harness.queue, "w1", executor=huge, burst=True, config=harness.config
    ).start()
    job = await harness.queue.get_job("a")
    assert job.status == "failed"
    assert "max_result_bytes" in job.error


async def _enqueue_unchecked(harness, *fields):
    """The script's reply for a job that no client checked; a valid one in the same call must be accepted."""
    rows = [(*fields, *[""] * (5 - len(fields))), ("sound", b"{}", "0 0 3", "", "")]
    items = [(harness.keys.job(row[0]), row) for row in rows]
    result, sound = await harness.queue.connection.run("enqueue", items, max_backlog=0, trace="")
    assert sound == b"created"
    return result


@pytest.mark.parametrize(
    "fields",
    [
        ("big", b"x" * (MAX_DATA_BYTES + 1), "0 0 3"),
        ("a" * 65, b"{}", "0 0 3"),
        ("a", b"{}", "high 0 3"),
        ("a", b"{}", "0 soon 3"),
        ("a", b"{}", "0 0 many"),
        ("a", b"{}", "0 0"),
        ("a", b"{}", "0 0 3", "", "{"),
        ("a", b"{}", "0 0 3", "", "1"),
    ],
    ids=lambda fields: f"{fields[0][:3]}-{len(fields[1])}-{' '.join(fields[2:])}",
)
async def test_the_script_refuses_what_no_client_checked(harness, fields):
    """Payload, id and numbers are also checked by the server: refused alone, and no key is written."""
    assert await _enqueue_unchecked(harness, *fields) == b"refused"
    assert harness.redis.zcard(harness.keys.delayed) == 0
    assert [entry["id"] for _, entry in harness.entries()] == ["sound"]
    assert harness.redis.keys(f"{harness.keys.job_prefix}*") == [harness.keys.job("sound")]


async def test_a_refused_job_is_invalid_data(harness, monkeypatch):
    """A job that the script refuses raises the same error as one that the client refuses: 65, with its id."""
    monkeypatch.setattr("aragora_q.streams.queue.check_job", lambda job: None)
    too_long = "a" * 65
    with pytest.raises(InvalidPayload, match=f"job {too_long}: refused"):
        await harness.queue.enqueue_many([Job(payload={}, id="good"), Job(payload={}, id=too_long)])
    assert [entry["id"] for _, entry in harness.entries()] == ["good"]


async def test_a_result_beyond_all_bounds_fails_its_job(harness):
    """A result larger than the script stores: a dead letter with a clear error, also when repeated."""
    for name in ("huge", "small"):
        await harness.enqueue(name)
    session = await harness.worker()
    huge, small = (await session.start(2)).jobs
    reports = [
        Report(huge, Completed(b"x" * (MAX_DATA_BYTES + 1))),
        Report(small, Completed(b"{}")),
    ]
    assert await session.report(reports) == ["failed", "completed"]
    assert await harness.report(session, huge, reports[0].outcome) == "failed"
    dead = await harness.queue.get_job("huge")
    assert (dead.status, dead.attempts) == ("failed", 1)
    assert f"result has {MAX_DATA_BYTES + 1} bytes" in dead.error
    assert harness.redis.get(harness.keys.payload("huge")) == '{"n":1}'
    assert (harness.counters()["completed"], harness.counters()["failed"]) == (1, 1)
    invariants.check(harness.redis, harness.keys.queue_prefix)


@pytest.mark.parametrize("outcome", [Failed, lambda error: Retry(error, 9000.0)])
async def test_the_script_cuts_errors(harness, monkeypatch, outcome):
    """An error that no client has cut is cut by the script, between two characters."""
    monkeypatch.setattr("aragora_q.streams.session.MAX_ERROR_CHARS", 10**9)
    await harness.enqueue("a")
    session = await harness.worker()
    await harness.report(session, await harness.start_one(session), outcome("x" + "ü" * 100_000))
    assert (await harness.queue.get_job("a")).error == "x" + "ü" * 3_999


def test_bounds_are_the_same_everywhere():
    """The settings' maximum is the scripts' maximum; a script cuts no error that a client has cut."""
    for name in ("max_payload_bytes", "max_result_bytes"):
        [maximum] = [
            rule.le for rule in QueueConfig.model_fields[name].metadata if hasattr(rule, "le")
        ]
        assert maximum == MAX_DATA_BYTES
    assert LUA_CONSTANTS["MAX_DATA_BYTES"] == MAX_DATA_BYTES
    assert LUA_CONSTANTS["MAX_HISTORY_BYTES"] == 4 * MAX_ERROR_CHARS


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("size", [1_500_000, 20_000_000])
def test_a_server_whose_limit_is_below_the_settings(own_server, run, size):
    """A value above the server's own limit is refused with its name, not retried as an outage: a payload
    is never written, a result fails its job; other jobs run.
    """
    server = own_server("--proto-max-bulk-len", "1mb")

    async def executor(job):
        return {"x": "y" * size} if job.id == "huge" else {}

    async def go():
        harness = QueueHarness(
            server.url, max_payload_bytes=MAX_DATA_BYTES, max_result_bytes=MAX_DATA_BYTES
        )
        with pytest.raises(UnsupportedServer, match="proto-max-bulk-len") as refused:
            await harness.queue.enqueue(Job(payload={"x": "y" * size}))
        assert "max_payload_bytes" in refused.value.hint
        await harness.enqueue("huge")
        await harness.enqueue("small")
        worker = DebateWorker(
            harness.queue, "w1", executor=executor, burst=True, config=harness.config
        )
        await asyncio.wait_for(worker.start(), 60)
        huge, small = await harness.queue.get_job("huge"), await harness.queue.get_job("small")
        assert (huge.status, small.status, huge.attempts) == ("failed", "completed", 1)
        assert "proto-max-bulk-len" in huge.error
        assert harness.counters()["enqueued"] == 2
        await harness.close()

    run(go())


async def test_a_long_request_that_is_cut_is_not_a_refusal(own_server):
    """If the server dies during a large request, that is an outage, and may be retried."""
    server = own_server()
    harness = QueueHarness(server.url, max_payload_bytes=MAX_DATA_BYTES)
    server.process.send_signal(signal.SIGSTOP)
    sending = asyncio.create_task(
        harness.queue.enqueue(Job(payload={"x": "y" * 50_000_000}, id="a"))
    )
    await wait_until(lambda: harness.queue.connection._client._pool is not None)
    server.kill()
    with pytest.raises(RedisUnreachable):
        await sending
    server.start()
    await harness.queue.enqueue(Job(payload={"x": "y" * 50_000_000}, id="a"))
    await harness.close()
