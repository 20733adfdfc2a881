"""start.lua on entries that are not jobs, copies, and keys that someone deleted."""

import pytest

from aragora_q.base import JobStatus
from aragora_q.contracts import Completed

MALFORMED = {
    "no-payload": {"id": "x"},
    "no-id": {"payload": "{}"},
    "foreign": {"job": "send mail", "to": "someone"},
    "bad-id": {"id": "a:payload", "payload": "{}"},
    "long-id": {"id": "a" * 65, "payload": "{}"},
    "bytes": {"id": b"\xff\xfe", "payload": b"\x00\x01"},
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_entry_becomes_a_dead_letter(harness, fields):
    """An entry that is not a job is kept with its bytes among the failed jobs; others start."""
    session = await harness.worker()
    entry = harness.write_raw(fields)
    await harness.enqueue("good")
    assert [job.id for job in (await session.start(5)).jobs] == ["good"]
    job = await harness.queue.get_job(f"malformed-{entry}")
    assert job.status is JobStatus.FAILED
    assert "is not a job" in job.error
    for value in fields.values():
        kept = value if isinstance(value, bytes) else value.encode()
        assert kept in job.raw_payload.replace(rb"\u0000", b"\x00").replace(rb"\u0001", b"\x01")
    assert harness.counters()["malformed"] == 1
    assert [fields["id"] for _, fields in harness.entries()] == ["good"]


async def test_payload_that_is_no_json_starts_and_can_fail(harness):
    """A valid entry with an invalid payload starts, so that its attempt can fail with the bytes kept."""
    session = await harness.worker()
    harness.write_raw({"id": "odd", "payload": b"\xff not json"})
    job = await harness.start_one(session)
    assert job.raw_payload == b"\xff not json"
    assert (await harness.queue.get_job("odd")).payload == {"malformed": "\\xff not json"}


async def test_copies_are_dropped(harness):
    """A second entry of a job starts nothing, neither while the job waits nor after it ended."""
    session = await harness.worker()
    await harness.enqueue("a")
    harness.write_raw({"id": "a", "payload": "{}"})
    job = await harness.start_one(session, 5)
    assert len(harness.entries()) == 1
    await harness.report(session, job, Completed(b"{}"))
    harness.write_raw({"id": "a", "payload": "{}"})
    assert (await session.start(5)).jobs == []
    assert harness.entries() == []


async def test_two_foreign_entries_of_one_id_start_once(harness):
    """Without a hash the first entry of an id is the job, and another one in the same read is its copy."""
    session = await harness.worker()
    harness.write_raw({"id": "a", "payload": '{"n":1}'})
    harness.write_raw({"id": "a", "payload": '{"n":2}'})
    job = await harness.start_one(session, 5)
    assert job.raw_payload == b'{"n":1}'


async def test_entry_outlives_its_lost_hash(harness):
    """If a job's hash is deleted, the entry is enough to run it."""
    session = await harness.worker()
    await harness.enqueue("a", priority=4)
    harness.redis.delete(harness.keys.job("a"))
    job = await harness.start_one(session)
    assert (job.id, job.attempts, job.max_attempts, job.raw_payload) == ("a", 1, 3, b'{"n":1}')
    assert (await harness.queue.get_job("a")).priority == 1
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


async def test_group_and_stream_may_vanish(harness):
    """A deleted group or stream is created again, and existing entries are delivered."""
    session = await harness.worker()
    await harness.enqueue("a")
    harness.redis.xgroup_destroy(harness.keys.stream_normal, "aragora-workers")
    assert (await harness.start_one(session)).id == "a"
    harness.redis.delete(harness.keys.stream_low)
    await harness.enqueue("b", priority=-1)
    assert (await harness.start_one(session)).id == "b"


async def test_running_job_is_not_started_again_when_the_group_was_lost(harness):
    """Redelivered to another worker while it runs: its worker renews the lease, and completes it."""
    first, second = await harness.worker("w1"), await harness.worker("w2")
    await harness.enqueue("a")
    job = await harness.start_one(first)
    harness.redis.xgroup_destroy(harness.keys.stream_normal, "aragora-workers")
    assert (await second.start(1)).jobs == []
    assert (await harness.renew(first, job)).lost == {}
    assert harness.pending()[0]["consumer"] == "w1"
    assert await harness.report(first, job, Completed(b"{}")) == "completed"
