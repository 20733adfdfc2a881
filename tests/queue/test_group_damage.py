"""Groups whose keys another program changed, or that expired: their jobs still run, end and are purged."""

import pytest

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed
from aragora_q.doctor import integrity
from aragora_q.errors import AragoraQError


async def _run(harness):
    session = await harness.worker()
    for job in (await session.start(10)).jobs:
        assert await harness.report(session, job, Completed(b"{}")) == "completed"


@pytest.mark.parametrize("damage", ["no id", "no number", "no payload", "other type"])
async def test_a_job_that_cannot_follow_a_group_does_not_hold_up_its_end(harness, damage):
    """The last job completes and the group ends, whatever was done to the stored job: it is lost."""
    await harness.enqueue("job", group="g")
    await harness.queue.seal_group("g", Job(payload={}, id="after"))
    group = harness.keys.group("g")
    if damage == "no id":
        harness.redis.hdel(group, "then_id")
    elif damage == "no number":
        harness.redis.hset(group, "then_delay_ms", "soon")
    else:
        harness.redis.delete(f"{group}:then")
    if damage == "other type":
        harness.redis.rpush(f"{group}:then", "x")
    await _run(harness)
    fields = harness.redis.hgetall(group)
    assert (fields["then"], "ended_at" in fields, fields["completed"]) == ("lost", True, "1")
    assert not harness.redis.exists(f"{group}:then", harness.keys.job("after"))


async def test_then_is_kept_until_it_is_enqueued(harness):
    """If its lane is a key of another type when the group ends, `doctor --repair` enqueues it later."""
    await harness.enqueue("job", group="g")
    await harness.queue.seal_group("g", Job({"n": 2}, id="after", priority=1))
    session = await harness.worker()
    job = await harness.start_one(session)
    harness.redis.delete(harness.keys.stream_high)
    harness.redis.set(harness.keys.stream_high, "of another program")
    with pytest.raises(AragoraQError, match="WRONGTYPE"):
        await harness.report(session, job, Completed(b"{}"))
    harness.redis.delete(harness.keys.stream_high)
    repaired = await integrity.examine(harness.queue.connection, repair=True)
    assert repaired.problems["then-waits"] == {"g"}
    started = await harness.start_one(session)
    assert (started.id, started.raw_payload) == ("after", b'{"n":2}')


async def test_a_group_that_expired_goes_with_its_last_job(harness):
    """A group that expired before its jobs were purged does not stay in the list of groups."""
    for job_id in ("a", "b"):
        await harness.enqueue(job_id, group="g")
    await harness.queue.seal_group("g")
    await _run(harness)
    harness.redis.delete(harness.keys.group("g"))
    await harness.queue.purge(JobStatus.COMPLETED, older_than_seconds=-1)
    assert harness.redis.zcard(harness.keys.groups) == 0


async def test_doctor_repairs_labels_and_groups_in_one_walk(harness):
    """On every kind of server: several faults at once are found, repaired together, and then gone."""
    for job_id in ("a", "b"):
        await harness.enqueue(job_id, group="g", tenant="t", tags={"k": "v"})
    await harness.enqueue("c", group="other")
    keys, redis = harness.keys, harness.redis
    redis.delete(keys.group("other"), keys.job("a"))
    redis.zrem(keys.members("tag:k=v"), "b")
    redis.hset(keys.labels, "missing", "tenant:t")
    redis.zadd(keys.members("tenant:t"), {"stray": 1})
    redis.hset(keys.group("g"), "pending", 9)

    repaired = await integrity.examine(harness.queue.connection, repair=True)
    assert dict(repaired.problems) == {
        "entry-without-hash": {"a"},
        "unlisted-label": {"b"},
        "stray-member": {"stray"},
        "labels-without-job": {"missing"},
        "group-counts": {"g"},
        "group-lost": {"other"},
    }
    checked = await integrity.examine(harness.queue.connection)
    assert (dict(checked.problems), checked.foreign_keys) == ({}, [])
