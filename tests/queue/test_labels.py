"""Labels: group, tenant and tags of a job, with an index per label, from the enqueue until the purge."""

import pytest
from support import invariants
from support.schedules import now_ms

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Failed, Retry
from aragora_q.errors import CommandRefused, InvalidPayload
from aragora_q.redis.keys import MAX_LABELS_BYTES

LABELS = {"group": "g.1", "tenant": "acme:eu/1", "tags": {"env": "prod", "model": "a@b=c"}}
ENCODED = ["group:g.1", "tenant:acme:eu/1", "tag:env=prod", "tag:model=a@b=c"]


def _label_keys(harness):
    """The keys that only jobs with labels have."""
    prefix = harness.keys.queue_prefix
    return {
        name
        for key in harness.redis.scan_iter(match=harness.keys.pattern)
        if (name := key.removeprefix(prefix)).startswith(("labels", "members:", "group"))
    }


async def test_a_job_keeps_its_labels_until_it_is_purged(harness):
    """Every reader of a job sees them, in every status; the purge deletes them, and their indexes."""
    await harness.enqueue("a", **LABELS)
    session = await harness.worker()

    async def shown():
        job = await harness.queue.get_job("a")
        return {"group": job.group, "tenant": job.tenant, "tags": job.tags}

    assert await shown() == LABELS
    job = await harness.start_one(session)
    assert {"group": job.group, "tenant": job.tenant, "tags": job.tags} == LABELS
    await harness.report(session, job, Retry("x", 60))
    assert await shown() == LABELS
    await harness.report(session, await harness.start_delayed(session), Failed("x"))
    await harness.queue.requeue(["a"])
    await harness.report(session, await harness.start_one(session), Completed(b"{}"))
    assert await shown() == LABELS
    assert await harness.queue.tracker.labels(["a", "unknown"]) == {"a": LABELS, "unknown": {}}
    assert _label_keys(harness) == {
        "labels",
        "groups",
        "group:g.1",
        *(f"members:{label}" for label in ENCODED),
    }
    await harness.queue.purge(JobStatus.COMPLETED, older_than_seconds=-1000)
    assert _label_keys(harness) == set()


async def test_members_are_listed_by_time_of_enqueue(harness):
    """The index of a label has its jobs with the time of their enqueue, whatever happens to them since."""
    before = now_ms(harness.redis)
    for job_id in "ab":
        await harness.enqueue(job_id, tenant="t")
    after = now_ms(harness.redis)
    listed = harness.redis.zrange(harness.keys.members("tenant:t"), 0, -1, withscores=True)
    await harness.queue.enqueue_many([Job({}, id=f"j{n}", tenant=f"t{n % 2}") for n in range(230)])
    session = await harness.worker()
    await harness.report(session, await harness.start_one(session), Completed(b"{}"))
    for job_id, score in listed:
        created_at = (await harness.queue.get_job(job_id)).created_at
        assert before <= score <= round(created_at * 1000) <= after, "within one call of the script"
    assert harness.redis.zrange(harness.keys.members("tenant:t"), 0, -1, withscores=True) == listed
    assert [job_id for job_id, _ in listed] == ["a", "b"]
    assert [harness.redis.zcard(harness.keys.members(f"tenant:t{n}")) for n in range(2)] == [
        115,
        115,
    ]


async def test_jobs_with_and_without_labels_keep_their_order(harness):
    """One call's jobs are in the lane in the order of the call, whichever of them have labels."""
    kinds = [{}, {"group": "g"}, {}, {"tenant": "t"}, {"tags": {"a": "1"}}, {}]
    jobs = [Job({}, id=f"job-{n}", **labels) for n, labels in enumerate(kinds)]
    await harness.queue.enqueue_many(jobs)
    assert [fields["id"] for _, fields in harness.entries()] == [job.id for job in jobs]


async def test_enqueue_again_changes_no_label(harness):
    """A job that exists keeps its labels, or that it has none; a copy in the same call counts once."""
    job = Job({}, id="a", group="g", tags={"k": "v"})
    results = await harness.queue.enqueue_many([job, job, Job({}, id="a")])
    assert [result.created for result in results] == [True, False, False]
    assert (await harness.queue.tracker.get_group("g")).counts["pending"] == 1
    await harness.enqueue("bare")
    await harness.enqueue("a", group="other", tenant="t")
    await harness.enqueue("bare", group="other")
    assert await harness.queue.tracker.labels(["a", "bare"]) == {
        "a": {"group": "g", "tags": {"k": "v"}},
        "bare": {},
    }
    assert await harness.queue.tracker.get_group("other") is None


async def test_jobs_without_labels_write_nothing_more(harness):
    """Through every transition, such jobs have the keys and fields that they had before there were labels."""
    session = await harness.worker()
    for job_id in ("done", "failed", "again"):
        await harness.enqueue(job_id)
        job = await harness.start_one(session)
        outcome = {"done": Completed(b"{}"), "failed": Failed("x"), "again": Retry("x", 60)}[job_id]
        await harness.report(session, job, outcome)
    await harness.enqueue("waits")
    await harness.enqueue("delayed", delay_seconds=60)
    await harness.queue.cancel("delayed")
    prefix = harness.keys.queue_prefix
    keys = {key.removeprefix(prefix) for key in harness.redis.scan_iter(match=harness.keys.pattern)}
    single = {"stream", "delayed", "completed", "failed", "cancelled"}
    assert keys == {
        *single, "stream:high", "stream:low", "control", "counters", "durations", "workers", "worker:w1",
        "events", "bell",
        "job:done", "job:done:result", "job:failed", "job:failed:payload", "job:failed:history",
        "job:again", "job:again:payload", "job:again:history", "job:waits",
        "job:delayed", "job:delayed:payload",
    }  # fmt: skip
    assert set(harness.fields("waits")) == {"status", "max_attempts", "entry"}
    for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED):
        await harness.queue.purge(status, older_than_seconds=-1000)
    await harness.queue.requeue(["failed"])
    assert _label_keys(harness) == set()


@pytest.mark.parametrize(
    "name",
    ["labels", "group:g", "members:group:g", "members:tenant:t", "members:tag:k=v"],
)
async def test_enqueue_fails_whole_where_a_key_has_another_type(harness, name):
    """Nothing of a job with labels is written then; a job without them is enqueued; later both are."""
    key = harness.keys.queue_prefix + name
    harness.redis.set(key, "of another program")
    before = {*harness.redis.scan_iter(match=harness.keys.pattern)}
    labeled = [Job({}, id=f"j{n}", group="g", tenant="t", tags={"k": "v"}) for n in range(3)]
    with pytest.raises(CommandRefused, match="WRONGTYPE"):
        await harness.queue.enqueue_many(labeled)
    assert {*harness.redis.scan_iter(match=harness.keys.pattern)} == before
    assert harness.redis.get(key) == "of another program"
    await harness.enqueue("bare")
    assert (await harness.start_one(await harness.worker())).id == "bare"
    harness.redis.delete(key)
    assert all(result.created for result in await harness.queue.enqueue_many(labeled))
    invariants.check(harness.redis, harness.keys.queue_prefix)


async def test_labels_that_are_too_long_are_refused(harness):
    """The script takes no more than MAX_LABELS_BYTES, whatever a client sends."""
    key, fields = harness.queue.check(Job({}, id="a", tenant="t"))
    long = fields._replace(labels=f"tenant:{'t' * MAX_LABELS_BYTES}")
    [outcome] = await harness.queue.enqueue_checked([(key, long)])
    assert isinstance(outcome, InvalidPayload)
    assert _label_keys(harness) == set()
