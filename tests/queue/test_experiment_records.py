"""enqueue.lua records which debates an experiment enqueued, with which agents; the record outlives them."""

import pytest

from aragora_q.base import Job
from aragora_q.contracts import Completed
from aragora_q.doctor import integrity
from aragora_q.errors import AragoraQError
from aragora_q.redis.keys import EXPERIMENT_DAYS

AGENTS = 'd1 {"names": ["x"]}'


def items(harness, *job_ids, group="g", agents=AGENTS, hold=""):
    jobs = [Job({"n": 1}, id=job_id, group=group) for job_id in job_ids]
    return [harness.queue.check(job, hold=hold, agents=agents) for job in jobs]


async def recorded(harness, *job_ids, group="g"):
    return await harness.queue.recorded_agents(group, job_ids)


async def test_new_jobs_of_an_experiment_are_recorded(harness):
    """Each with what its agents were; jobs without, jobs that exist and other groups are not."""
    await harness.queue.enqueue_checked(items(harness, "a", "b"))
    await harness.queue.enqueue_checked(
        items(harness, "c", hold="costs much", agents='d2 {"y": 1}')
    )
    await harness.queue.enqueue_checked(items(harness, "a", agents='d3 {"z": 1}'))
    await harness.queue.enqueue_checked(items(harness, "d", agents=""))
    await harness.queue.enqueue_checked(items(harness, "e", group="other"))
    x = {"names": ["x"]}
    assert await recorded(harness, *"abcdef") == {"a": x, "b": x, "c": {"y": 1}}
    assert await recorded(harness, "e", group="other") == {"e": x}
    assert await recorded(harness) == {}
    key = harness.keys.experiment("g")
    assert 0 <= EXPERIMENT_DAYS * 86_400_000 - harness.redis.pttl(key) < 60_000


async def test_the_record_outlives_jobs_and_group(harness):
    """A purge deletes the group with its last job; the record stays, and doctor finds nothing wrong."""
    session = await harness.worker()
    await harness.queue.enqueue_checked(items(harness, "a"))
    job = await harness.start_one(session)
    await harness.report(session, job, Completed(b"{}"))
    assert await harness.queue.purge_many(["a"]) == ["purged"]
    assert await harness.queue.tracker.get_group("g") is None
    assert set(await recorded(harness, "a")) == {"a"}
    report = await integrity.examine(harness.queue.connection)
    assert (report.foreign_keys, report.problems) == ([], {})


async def test_where_the_record_cannot_be_written_no_job_is_enqueued(harness):
    """A key of another type there is an error, not a debate bought twice; `doctor` names it without a group."""
    harness.redis.set(harness.keys.experiment("g"), "x")
    with pytest.raises(AragoraQError):
        await harness.queue.enqueue_checked(items(harness, "a", "b"))
    assert await harness.queue.get_statuses(["a", "b"]) == {"a": None, "b": None}
    assert [*harness.redis.scan_iter(match=harness.keys.pattern)] == [harness.keys.experiment("g")]
    report = await integrity.examine(harness.queue.connection)
    assert (report.foreign_keys, report.problems) == ([], {"experiment-wrong-type": {"g"}})
