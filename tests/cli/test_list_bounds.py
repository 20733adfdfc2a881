"""What `list` transfers is bounded by what it shows, however many jobs there are and however large they are."""

import asyncio
import json

import pytest
from support.jobs import enqueue_in_every_state, numbered_job

from aragora_q.base import Job
from aragora_q.contracts import Failed, Retry
from aragora_q.errors import InvalidPayload

PAYLOAD_BYTES = 200_000
SLACK_BYTES = 50_000
JOBS = 60


def _job(n, **fields):
    return Job({"n": n, "text": "x" * PAYLOAD_BYTES}, id=f"j{n}", **fields)


@pytest.fixture
def sent_bytes(redis_client):
    """Returns how many bytes the server sent since the last call."""
    sent = [0]

    def since_last():
        before, sent[0] = sent[0], redis_client.info("stats")["total_net_output_bytes"]
        return sent[0] - before

    return since_last


async def _fill(harness, status):
    """Enqueue JOBS jobs with large payloads, and bring them all into a status."""
    session = await harness.worker(lease_seconds=600)
    await harness.queue.enqueue_many([_job(n) for n in range(JOBS)])
    if status == "pending":
        return
    jobs = (await session.start(JOBS)).jobs
    assert len(jobs) == JOBS
    for job in jobs:
        if status == "failed":
            await harness.report(session, job, Failed("no"))
        elif status == "retrying":
            await harness.report(session, job, Retry("again", 60))


@pytest.mark.parametrize("status", ["pending", "processing", "failed", "retrying"])
async def test_one_id_costs_no_payload(harness, run_cli, sent_bytes, status):
    """`list -s STATUS -n 1 -q` shows one id; the server sends less than one payload for it."""
    await _fill(harness, status)
    sent_bytes()
    listed = run_cli("list", "-s", status, "-n", 1, "-q")
    assert (listed.code, len(listed.lines)) == (0, 1)
    assert sent_bytes() < SLACK_BYTES


@pytest.mark.parametrize("status", ["pending", "processing", "failed", "retrying", None])
@pytest.mark.parametrize("form", [(), ("--json",)])
async def test_jobs_cost_their_own_payloads(harness, run_cli, sent_bytes, status, form):
    """`list -n 3` reads three jobs, whether it prints a table or JSON."""
    await _fill(harness, status or "pending")
    sent_bytes()
    chosen = ("-s", status) if status else ()
    listed = run_cli("list", *chosen, "-n", 3, *form)
    assert (listed.code, len(listed.lines)) == (0, 3 if form else 4)
    assert sent_bytes() < 3 * (PAYLOAD_BYTES + SLACK_BYTES)


async def test_quiet_without_a_status_costs_no_payloads(harness, run_cli, sent_bytes):
    """`list -q` prints 20 ids without reading one payload."""
    await _fill(harness, "pending")
    sent_bytes()
    assert len(run_cli("list", "-q").lines) == 20
    assert sent_bytes() < SLACK_BYTES


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_no_reply_grows_with_payloads(harness, run_cli, sent_bytes, status):
    """All ids of a lane of large jobs are listed, without one payload on the wire."""
    await _fill(harness, status)
    sent_bytes()
    listed = run_cli("list", "-s", status, "-q", "-n", 1000)
    assert sorted(listed.lines) == sorted(f"j{n}" for n in range(JOBS))
    assert sent_bytes() < SLACK_BYTES


async def test_a_page_of_50_is_one_round_trip(harness):
    """Jobs in every state are read together, as each alone; a corrupted one is an error in its place."""
    await enqueue_in_every_state(harness)
    await harness.queue.enqueue_many([numbered_job(n) for n in range(40)])
    await harness.enqueue("bad")
    harness.redis.hset(harness.keys.job("bad"), "attempts", "abc")
    ids = [
        "completed",
        "missing",
        "failed",
        "retrying",
        "bad",
        "cancelled",
        "processing",
        "delayed",
    ]
    ids += [f"j{n}" for n in range(40)]
    await harness.queue.tracker.get_jobs(["missing"])  # loads the script
    harness.redis.config_resetstat()
    jobs = await harness.queue.tracker.get_jobs(ids)
    stats = harness.redis.info("commandstats")
    assert stats["cmdstat_evalsha_ro"]["calls"] == 1
    for job_id, job in zip(ids, jobs, strict=True):
        if job_id == "bad":
            assert isinstance(job, InvalidPayload)
        else:
            assert job == await harness.queue.get_job(job_id)
    assert jobs[1] is None


async def test_a_key_of_another_type_is_the_error_of_its_job(harness):
    """One job whose history is not a list is an error in its place; the others are read."""
    await harness.enqueue("bad")
    await harness.enqueue("good")
    harness.redis.set(harness.keys.history("bad"), "x")
    bad, good = await harness.queue.tracker.get_jobs(["bad", "good"])
    harness.redis.delete(harness.keys.history("bad"))
    assert isinstance(bad, InvalidPayload)
    assert "WRONGTYPE" in str(bad)
    assert good.payload == {"n": 1}


async def test_large_jobs_are_read_in_parts(harness):
    """Payloads of 20 MB are read completely, in several replies of bounded size."""
    ids = [f"j{n}" for n in range(100)]
    for job_id in ids:
        await harness.enqueue_payload(job_id, {"id": job_id, "text": "x" * 200_000})
    await harness.queue.tracker.get_jobs(ids[:1])
    harness.redis.config_resetstat()
    jobs = await harness.queue.tracker.get_jobs(ids)
    assert [job.payload["id"] for job in jobs] == ids
    assert harness.redis.info("commandstats")["cmdstat_evalsha_ro"]["calls"] == 3


async def test_running_jobs_are_found_before_a_long_backlog(harness, run_cli):
    """Running jobs, newest first, whether a backlog waits behind them or their lane begins after them."""
    await harness.queue.enqueue_many([numbered_job(n) for n in range(300)])
    session = await harness.worker(lease_seconds=600)
    started = [job.id for job in (await session.start(10)).jobs]
    assert run_cli("list", "-s", "processing", "-n", 3, "-q").lines == started[:-4:-1]
    assert len(run_cli("list", "-s", "processing", "-s", "pending", "-n", 500, "-q").lines) == 300
    await harness.queue.cancel_many(started)
    assert run_cli("list", "-s", "processing", "-q").lines == []
    assert len(run_cli("list", "-s", "pending", "-n", 500, "-q").lines) == 290


async def test_newest_of_all_are_the_newest(harness, run_cli):
    """Without a status, the newest jobs of any status are listed, by the time that is shown."""
    session = await harness.worker(lease_seconds=600)
    await harness.queue.enqueue_many([numbered_job(n) for n in range(5)])
    await asyncio.sleep(0.01)  # times are in milliseconds
    started = (await session.start(2)).jobs
    await harness.report(session, started[0], Failed("no"))
    await harness.enqueue("delayed", delay_seconds=60)
    await harness.enqueue("last", priority=-1)
    shown = [json.loads(line) for line in run_cli("list", "--json", "-n", 4).lines]
    times = [job["completed_at"] or job["started_at"] or job["created_at"] for job in shown]
    assert times == sorted(times, reverse=True)
    assert {job["id"] for job in shown} == {"last", "delayed", "j0", "j1"}


async def test_entries_that_are_no_jobs_are_skipped(harness, run_cli):
    """Malformed entries, one of them with thousands of fields, do not end the list."""
    await harness.enqueue("first")
    harness.write_raw({"other": "thing"})
    harness.write_raw({"id": "not a valid id", "payload": "{}"})
    harness.write_raw({f"field{n}": "x" for n in range(20_000)})
    await harness.enqueue("last")
    listed = run_cli("list", "-s", "pending", "-q")
    assert (listed.code, listed.lines) == (0, ["last", "first"])
    assert run_cli("list", "-q").lines == ["last", "first"]
