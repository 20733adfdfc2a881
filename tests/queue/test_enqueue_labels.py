"""Enqueue of jobs with labels, in one call with others: order, repeated ids, a failure in between."""

import pytest

from aragora_q.base import Job
from aragora_q.errors import AragoraQError


async def test_jobs_with_and_without_labels_keep_their_order(harness):
    """One call's jobs are in the lane in the order of the call, whichever of them have labels."""
    kinds = [{}, {"group": "g"}, {}, {"tenant": "t"}, {"tags": {"a": "1"}}, {}]
    jobs = [Job({}, id=f"job-{n}", **labels) for n, labels in enumerate(kinds)]
    await harness.queue.enqueue_many(jobs)
    assert [fields["id"] for _, fields in harness.entries()] == [job.id for job in jobs]


async def test_an_id_twice_in_a_call_is_one_job(harness):
    """The second job with an id is known already, with labels or without."""
    jobs = [Job({}, id="same", group="g"), Job({}, id="same", group="g"), Job({}, id="same")]
    results = await harness.queue.enqueue_many(jobs)
    assert [result.created for result in results] == [True, False, False]
    assert (await harness.queue.tracker.get_group("g")).counts["pending"] == 1


async def test_a_job_whose_labels_cannot_be_written_is_not_created(harness):
    """An index that is a key of another type refuses the job; when it is deleted, the job goes in."""
    await harness.enqueue()  # the next call fails for its labels only
    key = harness.keys.members("tenant:t")
    harness.redis.set(key, "not an index")
    with pytest.raises(AragoraQError, match="WRONGTYPE"):
        await harness.enqueue("job-1", tenant="t")
    assert not harness.fields("job-1")
    harness.redis.delete(key)
    await harness.enqueue("job-1", tenant="t")
    assert harness.redis.zrange(key, 0, -1) == ["job-1"]
