"""What another program did to labels and groups is found and repaired, on every kind of server."""

import pytest

from aragora_q.base import Job
from aragora_q.contracts import Completed
from aragora_q.doctor import integrity
from aragora_q.errors import AragoraQError


async def test_doctor_repairs_labels_and_groups_in_one_walk(harness):
    """Several faults at once are found, repaired together, and then gone."""
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
