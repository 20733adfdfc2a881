"""What another program did to labels and groups is found and repaired, on every kind of server."""

from aragora_q.doctor import integrity


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
