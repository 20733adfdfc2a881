"""Contract, on every server: a job comes in, waits in its lane or its delay, and is started."""

import asyncio

import pytest

from aragora_q.base import Completed, Identity, Job, JobStatus
from aragora_q.errors import BacklogFull, PayloadInvalid
from aragora_q.status import BACKSTOP_MS


async def test_enqueue_records_one_runnable_job(harness):
    """An enqueued job is pending, one entry of its lane, counted, announced, and never expires."""
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
    """A known id, in whatever state its job is, is accepted and nothing is written."""
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
    """The second job of an id in a batch is one that is known already."""
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
    """A delay keeps a job from every worker until it is due, on the server's clock."""
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
    with pytest.raises(BacklogFull, match="holds its limit of 2 waiting jobs"):
        await limited.enqueue(Job(payload={}, id="c"))
    assert await harness.queue.get_status("c") is None
    assert await limited.enqueue(Job(payload={}, id="a")) == "a"
    await harness.start_one(session)
    assert await limited.enqueue(Job(payload={}, id="c")) == "c"
    with pytest.raises(BacklogFull, match="2 of 3 were not"):
        await limited.enqueue_many([Job(payload={}, id=name) for name in "cde"])


async def test_past_retention_an_id_is_free_again(harness):
    """A job that readers no longer see makes room for a new one of its id."""
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
    with pytest.raises(PayloadInvalid, match=rule) as caught:
        await harness.queue.enqueue_many([job])
    assert len(str(caught.value)) < 500
    assert harness.redis.dbsize() == 0


async def test_many_jobs_take_few_calls(new_harness):
    """A thousand jobs go in by ten scripts."""
    harness = new_harness()
    await harness.enqueue("first")
    harness.redis.config_resetstat()
    jobs = [Job(payload={"n": n}) for n in range(1000)]
    assert all(told.created for told in await harness.queue.enqueue_many(jobs))
    assert harness.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 10
    assert [fields["id"] for _, fields in harness.entries()] == ["first", *(j.id for j in jobs)]


async def test_start_takes_the_lease(harness):
    """A started job is processing, charged one attempt, fenced, held by worker and boot."""
    session = await harness.worker("w1")
    await harness.enqueue("a", max_attempts=7)
    fetched = await session.start(5)
    [job] = fetched.jobs
    assert fetched.state == "ok"
    assert (job.id, job.raw_payload, job.fence, job.attempts) == ("a", b'{"n":1}', 1, 1)
    assert (job.max_attempts, job.crashes, job.worker_id) == (7, 0, "w1")
    assert 0 <= job.waited_seconds < 60
    fields = harness.fields("a")
    assert fields["status"] == "processing"
    assert fields["holder"] == session.identity.holder
    assert fields["lease_ms"] == "60000"
    assert harness.pending()[0]["consumer"] == "w1"
    known = await harness.queue.get_job("a")
    assert known.status is JobStatus.PROCESSING
    assert known.started_at >= known.created_at
    assert harness.counters() == {"enqueued": 1, "started": 1}
    assert harness.events()[-1] == ("started", "a")


async def test_start_fills_free_slots_and_no_more(harness):
    """At most `limit` jobs start; where nothing waits, the answer says from where to wait for more."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(5)])
    first = await session.start(2)
    assert [job.id for job in first.jobs] == ["j0", "j1"]
    assert first.resume_from is None
    rest = await session.start(10)
    assert [job.id for job in rest.jobs] == ["j2", "j3", "j4"]
    none = await session.start(10)
    assert (none.jobs, none.resume_from) == ([], ("0-0", harness.fields("j4")["entry"], "0-0"))
    assert len(harness.pending()) == 5


async def test_lanes_are_read_high_to_low_or_low_to_high(harness):
    """High first; with `low_first` low first, so that nothing starves."""
    session = await harness.worker()
    for name, priority in (("n", 0), ("l", -3), ("h", 2), ("n2", 0), ("l2", -1), ("h2", 1)):
        await harness.enqueue(name, priority=priority)
    assert [job.id for job in (await session.start(3)).jobs] == ["h", "h2", "n"]
    assert [job.id for job in (await session.start(2, low_first=True)).jobs] == ["l", "l2"]


@pytest.mark.parametrize("priority", [-1, 0, 1])
async def test_start_next_waits_and_starts(harness, priority):
    """Who waits for the next job hears of it when it is started; of nothing, where to wait on."""
    session = await harness.worker()
    resume_from = (await session.start(5)).resume_from
    waiting = asyncio.create_task(session.start_next(resume_from, 2))
    await harness.enqueue("a", priority=priority)
    await harness.enqueue("b", priority=priority)
    [job] = (await waiting).jobs
    assert (job.id, job.fence, job.raw_payload) == ("a", 1, b'{"n":1}')
    assert harness.fields("a")["status"] == "processing"
    [job] = (await session.start_next(resume_from, 2)).jobs
    assert job.id == "b"
    nothing = await session.start_next((await session.start(5)).resume_from, 0.01)
    assert (nothing.state, nothing.jobs) == ("ok", [])
    assert nothing.resume_from != resume_from


async def test_start_next_outlives_the_script_cache(harness):
    """A server that has forgotten the scripts starts the job all the same."""
    session = await harness.worker()
    resume_from = (await session.start(5)).resume_from
    await harness.enqueue("a")
    harness.redis.script_flush()
    [job] = (await session.start_next(resume_from, 2)).jobs
    assert job.id == "a"


async def test_paused_queue_starts_nothing(harness):
    """Pause lets no job start, until resume; saying it twice changes nothing."""
    session = await harness.worker()
    await harness.enqueue("a")
    assert await harness.queue.pause()
    assert not await harness.queue.pause()
    fetched = await session.start(1)
    assert (fetched.state, fetched.jobs) == ("paused", [])
    assert harness.renew(session).state == "paused"
    assert (await harness.queue.get_queue_stats())["paused"]
    assert harness.pending() == []
    assert await harness.queue.pause(paused=False)
    assert (await harness.start_one(session)).id == "a"
    assert [event for event, _ in harness.events()] == ["enqueued", "paused", "resumed", "started"]


async def test_an_id_is_its_holders_for_the_holders_lease(harness):
    """Who signs on with a shorter lease takes no id from a worker whose own, longer one is not over."""
    await harness.worker("w1", lease_seconds=60)
    harness.stop_heartbeat("w1", 20)
    other_worker = harness.queue.session(Identity("w1"), lease_seconds=5)
    assert 30 < await other_worker.register({}) <= 40
    harness.stop_heartbeat("w1", 45)
    assert await other_worker.register({}) == 0


async def test_unregistered_worker_starts_nothing(harness):
    """Without a record of this very boot, nothing is taken."""
    await harness.worker("w1")
    stranger = harness.queue.session(Identity("w1", "another"))
    await harness.enqueue("a")
    fetched = await stranger.start(1)
    assert (fetched.state, fetched.jobs) == ("unregistered", [])
    assert harness.pending() == []


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
    """An entry that is no job is kept with its bytes, in the place of failed jobs; others go on."""
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
    """A well-formed entry with an odd payload is a job: its attempt answers for it, bytes kept."""
    session = await harness.worker()
    harness.write_raw({"id": "odd", "payload": b"\xff not json"})
    job = await harness.start_one(session)
    assert job.raw_payload == b"\xff not json"
    assert (await harness.queue.get_job("odd")).payload == {"malformed": "\\xff not json"}


async def test_copies_are_dropped(harness):
    """Other entries of a job's id start nothing: not while it waits, not when it has ended."""
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
    """Without a hash the first entry of an id is the job, another one in the same read its copy."""
    session = await harness.worker()
    harness.write_raw({"id": "a", "payload": '{"n":1}'})
    harness.write_raw({"id": "a", "payload": '{"n":2}'})
    job = await harness.start_one(session, 5)
    assert job.raw_payload == b'{"n":1}'


async def test_entry_outlives_its_lost_hash(harness):
    """If someone deletes a job's hash, its entry alone is enough: it runs, in its lane, bounded."""
    session = await harness.worker()
    await harness.enqueue("a", priority=4)
    harness.redis.delete(harness.keys.job("a"))
    job = await harness.start_one(session)
    assert (job.id, job.fence, job.max_attempts, job.raw_payload) == ("a", 1, 3, b'{"n":1}')
    assert (await harness.queue.get_job("a")).priority == 1
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


async def test_group_and_stream_may_vanish(harness):
    """A deleted group or stream is made anew, and what is still there is delivered."""
    session = await harness.worker()
    await harness.enqueue("a")
    harness.redis.xgroup_destroy(harness.keys.stream_normal, "aragora-workers")
    assert (await harness.start_one(session)).id == "a"
    harness.redis.delete(harness.keys.stream_low)
    await harness.enqueue("b", priority=-1)
    assert (await harness.start_one(session)).id == "b"


async def test_running_job_is_not_started_again_when_the_group_was_lost(harness):
    """Redelivered to another worker while its holder runs it: the holder renews, and completes."""
    first, second = await harness.worker("w1"), await harness.worker("w2")
    await harness.enqueue("a")
    job = await harness.start_one(first)
    harness.redis.xgroup_destroy(harness.keys.stream_normal, "aragora-workers")
    assert (await second.start(1)).jobs == []
    assert harness.renew(first, job).gone == {}
    assert harness.pending()[0]["consumer"] == "w1"
    assert await harness.report(first, job, Completed(b"{}")) == "completed"
