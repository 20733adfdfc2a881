"""enqueue.lua: a job becomes pending in its lane or delayed, once per id, within the limits."""

import pytest

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed
from aragora_q.errors import AragoraQError, InvalidPayload, QueueFull
from aragora_q.status import BACKSTOP_MS


async def test_enqueue_records_one_runnable_job(harness):
    """An enqueued job is pending, one entry in its lane, counted, published as an event, and never expires."""
    job = await harness.enqueue("a")
    [(entry, fields)] = harness.entries()
    assert fields == {"id": "a", "payload": '{"n":1}'}
    assert harness.fields("a") == {"status": "pending", "max_attempts": "3", "entry": entry}
    assert harness.counters() == {"enqueued": 1}
    assert harness.events() == [("enqueued", "a")]
    known = await harness.queue.get_job(job.id)
    assert known.status is JobStatus.PENDING
    assert known.payload == {"n": 1}
    assert known.created_at == int(entry.partition("-")[0]) / 1000


async def test_enqueue_again_changes_nothing(harness):
    """A known id is accepted whatever the job's status, and nothing is written."""
    session = await harness.worker()
    await harness.enqueue("a")
    again = Job(payload={"n": 2}, id="a")
    for _ in range(2):
        [told] = await harness.queue.enqueue_many([again])
        assert (told.id, told.created) == ("a", False)
    job = await harness.start_one(session)
    assert job.raw_payload == b'{"n":1}'
    assert await harness.queue.enqueue(again) == "a"
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    assert await harness.queue.enqueue(again) == "a"
    assert (await harness.queue.get_job("a")).status is JobStatus.COMPLETED
    assert harness.entries() == []
    assert harness.counters()["enqueued"] == 1


async def test_one_batch_may_name_an_id_twice(harness):
    """The second job with the same id in a batch counts as known."""
    jobs = [Job(payload={"n": n}, id=name) for n, name in enumerate("aba")]
    assert [e.created for e in await harness.queue.enqueue_many(jobs)] == [True, True, False]
    assert [fields["id"] for _, fields in harness.entries()] == ["a", "b"]


async def test_priority_chooses_the_lane(harness):
    """Above 0 is the high lane, below 0 the low one; the number itself is kept."""
    for priority in (5, 0, -1):
        await harness.enqueue(f"p{priority}", priority=priority)
        [(_, fields)] = harness.entries(priority)
        assert fields["id"] == f"p{priority}"
        assert (await harness.queue.get_job(fields["id"])).priority == priority


async def test_delayed_job_waits_outside_the_lanes(harness):
    """A delayed job cannot start until it is due by the server's clock."""
    session = await harness.worker()
    await harness.enqueue("later", delay_seconds=3600)
    assert harness.entries() == []
    assert (await session.start(5)).jobs == []
    job = await harness.queue.get_job("later")
    assert job.status is JobStatus.PENDING
    assert job.payload == {"n": 1}
    assert 3590 < job.due_at - job.created_at <= 3600
    promotion = await harness.queue.promote()
    assert promotion.promoted == 0
    assert 3590 < promotion.next_due_seconds <= 3600


async def test_backlog_limit_refuses_and_says_so(harness):
    """Beyond max_backlog waiting jobs, delayed ones included, enqueue refuses; running ones do not count."""
    session = await harness.worker()
    limited = harness.other_client(max_backlog=2)
    await limited.enqueue(Job(payload={}, id="a"))
    await limited.enqueue(Job(payload={}, id="b", delay_seconds=60))
    with pytest.raises(QueueFull, match="has reached its limit of 2 waiting jobs"):
        await limited.enqueue(Job(payload={}, id="c"))
    assert await harness.queue.get_status("c") is None
    assert await limited.enqueue(Job(payload={}, id="a")) == "a"
    await harness.start_one(session)
    assert await limited.enqueue(Job(payload={}, id="c")) == "c"
    with pytest.raises(QueueFull, match="2 of 3 were not"):
        await limited.enqueue_many([Job(payload={}, id=name) for name in "cde"])


async def test_past_retention_an_id_is_free_again(harness):
    """After its retention, a job's id can be used for a new job."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.report(session, await harness.start_one(session), Completed(b'{"old":1}'))
    for key in (harness.keys.job("a"), harness.keys.result("a")):
        harness.redis.pexpire(key, BACKSTOP_MS - 1000)
    assert await harness.queue.get_job("a") is None
    assert await harness.queue.get_status("a") is None
    [told] = await harness.queue.enqueue_many([Job(payload={"n": 9}, id="a")])
    assert told.created
    job = await harness.queue.get_job("a")
    assert (job.status, job.payload, job.result) == (JobStatus.PENDING, {"n": 9}, None)


@pytest.mark.parametrize(
    ("job", "rule"),
    [
        (Job(payload={"x": "y" * 300_000}), "max_payload_bytes is 262144"),
        (Job(payload={"x": float("nan")}), "not JSON"),
        (Job(payload={}, id="a:b"), "a:b"),
        (Job(payload={}, id=""), "id"),
        (Job(payload={}, delay_seconds=-1), "delay"),
        (Job(payload={}, max_attempts=0), "max_attempts"),
    ],
    ids=["oversize", "nan", "colon", "empty-id", "negative-delay", "no-attempts"],
)
async def test_bad_jobs_are_refused_before_anything_is_written(new_harness, job, rule):
    """Job data that breaks a rule is refused by one line that names value and rule."""
    harness = new_harness()
    with pytest.raises(InvalidPayload, match=rule) as caught:
        await harness.queue.enqueue_many([job])
    assert len(str(caught.value)) < 500
    assert harness.redis.dbsize() == 0


async def test_many_jobs_take_few_calls(new_harness):
    """A thousand jobs are enqueued by ten script calls."""
    harness = new_harness()
    await harness.enqueue("first")
    harness.redis.config_resetstat()
    jobs = [Job(payload={"n": n}) for n in range(1000)]
    assert all(told.created for told in await harness.queue.enqueue_many(jobs))
    assert harness.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 10
    assert [fields["id"] for _, fields in harness.entries()] == ["first", *(j.id for j in jobs)]


@pytest.mark.parametrize(
    "extras",
    ["x", "5", "null", '{"hold": null}', '{"hold": 5}', '{"agents": {}}', '{"source": true}',
     '{"tick": "x"}', '{"tick": "{}"}', '{"tick": {}}', '{"tick": "[1]"}',
     '{"tick": "{\\"schedule\\": \\"s\\", \\"by\\": \\"\\", \\"reason\\": \\"\\", \\"at\\": \\"1\\"}"}'],
)  # fmt: skip
async def test_malformed_extras_refuse_one_job(harness, extras):
    """What this client does not send changes nothing, and does not keep the other jobs of the call out."""
    key, fields = harness.queue.check(Job({}, id="bad"))
    items = [
        harness.queue.check(Job({}, id="a")),
        (key, fields._replace(extras=extras.encode())),
        harness.queue.check(Job({}, id="b")),
    ]
    statuses = await harness.queue.connection.run("enqueue", items, max_backlog=0, trace="")
    assert statuses == [b"created", b"refused", b"created"]
    assert not list(harness.redis.scan_iter(match=f"{key}*"))
    assert harness.counters()["enqueued"] == 2


async def test_an_error_halfway_leaves_no_job_unannounced(harness):
    """Where a key has another type, the jobs before the one that needs it are counted, announced and run."""
    harness.redis.set(harness.keys.members("tenant:t"), "x")
    with pytest.raises(AragoraQError, match="WRONGTYPE"):
        await harness.queue.enqueue_many([Job({}, id="a"), Job({}, id="b", tenant="t")])
    assert harness.counters()["enqueued"] == 1
    assert harness.redis.llen(harness.keys.bell) == 1
    [(_, event)] = harness.redis.xrange(harness.keys.events)
    assert (event["event"], event["ids"]) == ("enqueued", "a")
    assert await harness.queue.get_job("b") is None
    harness.redis.delete(harness.keys.members("tenant:t"))


async def test_an_error_halfway_leaves_nothing_of_later_jobs(harness):
    """Once the damaged key is gone, the same call enqueues the rest; groups count each job once."""
    harness.redis.set(harness.keys.held, "x")
    jobs = [Job({}, id="a"), Job({}, id="b", group="g")]
    last = Job({}, id="d", group="g")
    items = [*map(harness.queue.check, jobs), harness.queue.check(Job({}, id="c"), hold="ask")]
    items.append(harness.queue.check(last))
    with pytest.raises(AragoraQError, match="WRONGTYPE"):
        await harness.queue.enqueue_checked(items)
    group = await harness.queue.tracker.get_group("g")
    assert {name: count for name, count in group.counts.items() if count} == {"pending": 1}
    harness.redis.delete(harness.keys.held)
    results = await harness.queue.enqueue_checked(items)
    assert [each.created for each in results] == [False, False, True, True]
    group = await harness.queue.tracker.get_group("g")
    assert {name: count for name, count in group.counts.items() if count} == {"pending": 2}
    assert harness.counters()["enqueued"] == 4


@pytest.mark.parametrize("place", [99, 100, 150, 199, 200])
async def test_jobs_before_a_refused_one_go_in_by_batches(harness, place):
    """Every full batch before it is sent, also if the refused job would be the first of the next."""
    jobs = [Job({}, id=f"j{n}") for n in range(place)]
    with pytest.raises(InvalidPayload):
        await harness.queue.enqueue_many([*jobs, Job({}, id="bad", priority=9999)])
    assert harness.counters().get("enqueued", 0) == place // 100 * 100
