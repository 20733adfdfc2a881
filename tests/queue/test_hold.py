"""hold.lua, unhold.lua, suspend.lua: a held job does not start until it is freed; then it goes back."""

import asyncio

import pytest

from aragora_q.base import HOLD_CAUSES, LIVE, TERMINAL, JobStatus
from aragora_q.contracts import Completed, Failed, Held, Released, Retry
from aragora_q.errors import JobNotFound
from aragora_q.labels import JobFilter

AUTOMATIC = ("budget", "provider")
HOLD_FIELDS = {
    "held_from", "held_due", "held_at", "hold_asked", "hold_cause", "hold_by", "hold_until", "hold_usd",
}  # fmt: skip


async def _retrying(harness, session, delay=600):
    await harness.enqueue("a")
    await harness.report(session, await harness.start_one(session), Retry("flaky", delay))


async def _hold_by_machine(harness, session, cause="budget", **fields):
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert await harness.report(session, job, Held(cause, "no room", **fields)) == "held"
    return job


def _held(harness):
    return harness.redis.zrange(harness.keys.held, 0, -1)


async def test_a_held_job_waits_outside_of_its_lane(harness):
    """A job of a lane is held: shown with cause, person and reason, counted, in no lane, and never started."""
    session = await harness.worker()
    await harness.enqueue("a", priority=1)
    await harness.enqueue("b", priority=1)
    assert await harness.queue.hold("a", reason="price check", by="ann@desk")
    job = await harness.queue.get_job("a")
    assert (job.status, job.payload, job.attempts) == (JobStatus.HELD, {"n": 1}, 0)
    assert (job.hold.cause, job.hold.by, job.hold.reason) == ("person", "ann@desk", "price check")
    assert (job.hold.until, job.error, job.due_at) == (None, None, None)
    assert job.hold.since >= job.created_at
    stats = await harness.queue.get_queue_stats()
    assert (stats["held"], stats["waiting"]["high"], stats["delayed"]) == (1, 1, 0)
    assert (await harness.start_one(session, limit=5)).id == "b"
    assert await harness.queue.hold_many(["a"]) == ["was-held"]
    assert harness.counters()["held"] == 1
    assert harness.events()[2] == ("held", "a")


async def test_an_unheld_job_joins_the_tail_of_its_lane(harness):
    """It starts as it would have before, its fields of the hold are gone, and the history keeps the reason."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.queue.hold("a", reason="why")
    await harness.enqueue("b")
    assert await harness.queue.unhold("a")
    job = await harness.queue.get_job("a")
    assert (job.status, job.hold) == (JobStatus.PENDING, None)
    assert not HOLD_FIELDS & set(harness.fields("a"))
    assert [each.id for each in (await session.start(5)).jobs] == ["b", "a"]
    assert [line["reason"] for line in await harness.queue.tracker.history("a")] == ["why"]
    assert not await harness.queue.unhold("a")
    assert harness.counters()["unheld"] == 1
    assert ("unheld", "a") in harness.events()


@pytest.mark.parametrize("status", ["pending", "retrying"])
async def test_a_delayed_job_keeps_its_due_time(harness, status):
    """A hold does not shorten a delay or a backoff; a job that became due meanwhile joins its lane."""
    session = await harness.worker()
    if status == "pending":
        await harness.enqueue("a", delay_seconds=600)
    else:
        await _retrying(harness, session)
    due = harness.redis.zscore(harness.keys.delayed, "a")
    for due_meanwhile in (False, True):
        await harness.queue.hold("a")
        assert harness.redis.zcard(harness.keys.delayed) == 0
        assert (await harness.queue.get_job("a")).due_at == due / 1000
        if due_meanwhile:
            harness.redis.hset(harness.keys.job("a"), "held_due", 1)
        await harness.queue.unhold("a")
        assert (await harness.queue.get_job("a")).status == status
        assert harness.redis.zscore(harness.keys.delayed, "a") == (None if due_meanwhile else due)
    assert (await harness.start_one(session)).id == "a"


async def test_the_last_error_is_shown_through_a_hold(harness):
    """The reason of a hold does not hide why the job was retried."""
    session = await harness.worker()
    await _retrying(harness, session)
    await harness.queue.hold("a", reason="look first")
    job = await harness.queue.get_job("a")
    assert (job.error, job.hold.reason) == ("flaky", "look first")


RETURNS = {
    "retry": (Retry("no", 600), JobStatus.RETRYING, 1),
    "later": (Retry("busy", 600, charged=False), JobStatus.RETRYING, 0),
    "gated": (Retry("shut", 600, charged=False, is_gated=True), JobStatus.RETRYING, 0),
    "release": (Released(), JobStatus.PENDING, 0),
    "held": (Held("budget", "no room", "b", 600, 1.5), JobStatus.RETRYING, 0),
}


@pytest.mark.parametrize("name", RETURNS)
async def test_a_hold_asked_of_a_running_job(harness, name):
    """Its attempt goes on; whatever does not end the job ends in a person's hold, also if reported twice."""
    outcome, status, attempts = RETURNS[name]
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    assert await harness.queue.hold_many(["a", "a"], reason="wait", by="ann") == [
        "asked",
        "was-asked",
    ]
    running = await harness.queue.get_job("a")
    assert (running.status, running.hold.reason) == (JobStatus.PROCESSING, "wait")
    assert (await harness.renew(session, job)).lost == {}
    for _ in range(2):
        assert await harness.report(session, job, outcome) == "held"
    held = await harness.queue.get_job("a")
    assert (held.status, held.attempts, held.payload) == (JobStatus.HELD, attempts, {"n": 1})
    assert (held.hold.cause, held.hold.by, held.hold.reason) == ("person", "ann", "wait")
    assert held.hold.until is None
    assert harness.entries() == harness.pending() == []
    assert await harness.queue.unhold_many(["a"], AUTOMATIC) == ["person"]
    assert await harness.queue.unhold_many(["a"]) == ["unheld"]
    back = await harness.queue.get_job("a")
    has_backoff = isinstance(outcome, Retry)
    assert (back.status, back.due_at is not None) == (status, has_backoff)
    assert harness.counters()["held"] == 1


@pytest.mark.parametrize("outcome", [Completed(b"{}"), Failed("no"), Retry("the last", 0)])
async def test_an_end_wins_over_an_asked_hold(harness, outcome):
    """A job that completes or fails is not held, and nothing of the asked hold is left."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=1)
    job = await harness.start_one(session)
    await harness.queue.hold("a")
    assert await harness.report(session, job, outcome) in ("completed", "failed")
    assert not HOLD_FIELDS & set(harness.fields("a"))
    assert (await harness.queue.get_job("a")).hold is None
    assert not await harness.queue.hold("a")
    assert not await harness.queue.unhold("a")


async def test_unhold_withdraws_an_asked_hold(harness):
    """A running job whose hold was withdrawn is released to its lane as ever."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await harness.queue.hold("a")
    assert await harness.queue.unhold_many(["a"], AUTOMATIC) == ["person"]
    assert await harness.queue.unhold("a")
    assert not HOLD_FIELDS & set(harness.fields("a"))
    assert await harness.report(session, job, Released()) == "released"
    assert not await harness.queue.unhold("a")


@pytest.mark.parametrize("is_orphaned", [False, True])
async def test_reclaim_holds_a_job_whose_hold_was_asked(harness, is_orphaned):
    """The crash counts as ever, but the job does not run again before it is freed; an orphan likewise."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.start_one(session)
    await harness.queue.hold("a", reason="look first")
    if is_orphaned:
        assert await session.release_orphans(lambda _: False, min_idle_seconds=0) == ["a"]
    else:
        harness.backdate("a")
        assert [job.decision for job in await harness.queue.reclaim()] == ["held"]
    job = await harness.queue.get_job("a")
    assert (job.status, job.crashes, job.attempts) == (JobStatus.HELD, 1 - is_orphaned, 0)
    assert (job.hold.cause, job.hold.reason, job.payload) == ("person", "look first", {"n": 1})
    counters = harness.counters()
    assert (counters["held"], counters.get("crashed", 0)) == (1, 1 - is_orphaned)
    assert "reclaimed" not in counters
    assert "released" not in counters
    await harness.queue.unhold("a")
    expected = JobStatus.PENDING if is_orphaned else JobStatus.RETRYING
    assert await harness.queue.get_status("a") is expected


async def test_the_last_crash_wins_over_an_asked_hold(harness):
    """A poison pill becomes a dead letter although its hold was asked."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.start_one(session)
    harness.redis.hset(harness.keys.job("a"), "crashes", 2)
    await harness.queue.hold("a")
    harness.backdate("a")
    assert [job.decision for job in await harness.queue.reclaim()] == ["poisoned"]
    assert not HOLD_FIELDS & set(harness.fields("a"))


@pytest.mark.parametrize("cause", HOLD_CAUSES[1:])
async def test_an_attempt_holds_its_job(harness, cause):
    """Held for its cause, uncharged, with what is in the way; fenced, and the same answer when sent again."""
    session = await harness.worker()
    fields = {"by": "day/tenant:acme", "until_seconds": 600, "usd": 0.5}
    job = await _hold_by_machine(harness, session, cause, **fields)
    assert await harness.report(session, job, Held(cause, "again")) == "held"
    assert await harness.report(session, job, Completed(b"{}")) == "lost"
    held = await harness.queue.get_job("a")
    assert (held.status, held.attempts, held.payload) == (JobStatus.HELD, 0, {"n": 1})
    assert (held.hold.cause, held.hold.by, held.hold.reason) == (
        cause,
        "day/tenant:acme",
        "no room",
    )
    assert 590 < held.hold.until - held.hold.since <= 600.1
    await harness.queue.unhold("a")
    assert await harness.report(session, job, Held(cause, "again")) == "held"
    assert await harness.queue.get_status("a") is JobStatus.RETRYING
    assert (await harness.start_one(session)).attempts == 1
    stale = await harness.report(session, job, Held(cause, "again"))
    assert (stale, await harness.queue.get_status("a")) == ("held", JobStatus.PROCESSING)


async def test_only_a_person_ends_a_persons_hold(harness):
    """A machine frees what a machine holds; a person who holds such a job takes the hold over."""
    session = await harness.worker()
    await _hold_by_machine(harness, session, until_seconds=0.001)
    assert await harness.queue.hold_many(["a"], reason="mine", by="ann") == ["held"]
    job = await harness.queue.get_job("a")
    assert (job.hold.cause, job.hold.by, job.hold.reason) == ("person", "ann", "mine")
    assert job.hold.until is None
    await asyncio.sleep(0.005)
    assert (await harness.queue.list_held(AUTOMATIC)).jobs == []
    assert await harness.queue.unhold_many(["a"], AUTOMATIC) == ["person"]
    assert harness.counters()["held"] == 1
    assert await harness.queue.unhold_many(["a"]) == ["unheld"]


async def test_a_job_refused_again_keeps_its_place(harness):
    """An automatic release keeps the time of the hold for the next one; a person's release does not."""
    session = await harness.worker()
    await _hold_by_machine(harness, session)
    harness.redis.zadd(harness.keys.held, {"a": 1000})
    harness.redis.hset(harness.keys.job("a"), "held_at", 1000)
    for causes, expected in ((AUTOMATIC, True), (HOLD_CAUSES, False)):
        assert await harness.queue.unhold_many(["a"], causes) == ["unheld"]
        job = await harness.start_one(session)
        assert await harness.report(session, job, Held("budget", "full")) == "held"
        assert (harness.redis.zscore(harness.keys.held, "a") == 1000) == expected
    assert (await harness.queue.get_job("a")).hold.since > 1


async def test_held_jobs_are_listed_in_hold_order(harness):
    """Pages list the jobs of the wanted causes, and those whose hold is over, in the order of their holds."""
    session = await harness.worker()
    causes = {
        "p": None,
        "b2": "budget",
        "b1": "budget",
        "x": "executor",
        "over": "executor",
        "v": "provider",
    }
    for name, cause in causes.items():
        await harness.enqueue(name)
        if cause is None:
            await harness.queue.hold(name)
        else:
            seconds = 0 if name == "over" else None
            job = await harness.start_one(session)
            await harness.report(session, job, Held(cause, "no", "acme", seconds, 0.1))
    for name in causes:  # two of them at the same time: then in the order of their ids
        harness.redis.zadd(harness.keys.held, {name: 5 if name.startswith("b") else 9})
    for limit in (1, 2, 100):
        found, after = [], ""
        while True:
            page = await harness.queue.list_held(AUTOMATIC, after, limit=limit)
            found += page.jobs
            after = page.after
            if not after:
                break
        assert [job.id for job in found] == ["b1", "b2", "over", "v"]
    assert (found[0].cause, found[0].by, found[0].usd, found[0].until) == (
        "budget",
        "acme",
        0.1,
        None,
    )
    assert await harness.queue.unhold_many([*causes], AUTOMATIC) == [
        "person", "unheld", "unheld", "executor", "unheld", "unheld",
    ]  # fmt: skip


async def test_a_gated_retry_counts_toward_no_bound(harness):
    """Put off by a gate: uncharged, however often, and not one of the fifty deferrals."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=1)
    job = await harness.start_one(session)
    harness.redis.hset(harness.keys.job("a"), mapping={"deferrals": 50, "deferred_at": 1})
    for _ in range(2):
        gated = Retry("shut", 0, charged=False, is_gated=True)
        assert await harness.report(session, job, gated) == "retrying"
        job = await harness.start_delayed(session)
    assert (job.attempts, harness.fields("a")["deferrals"]) == (1, "50")
    assert "deferred" not in harness.counters()


async def test_a_held_job_can_be_cancelled_but_not_requeued_or_purged(harness):
    """Cancel ends it, with its data; requeue and purge refuse it."""
    await harness.enqueue("a")
    await harness.queue.hold("a")
    assert await harness.queue.requeue(["a"]) == ["held"]
    assert await harness.queue.purge_many(["a"]) == ["held"]
    assert await harness.queue.cancel("a")
    job = await harness.queue.get_job("a")
    assert (job.status, job.payload, job.hold) == (JobStatus.CANCELLED, {"n": 1}, None)
    assert _held(harness) == []
    assert not HOLD_FIELDS & set(harness.fields("a"))
    assert await harness.queue.requeue(["a"]) == ["requeued"]


async def test_holds_of_what_has_ended_or_never_was(harness):
    """An ended job stays as it is; an unknown one is not found."""
    await harness.enqueue("a")
    await harness.queue.cancel("a")
    assert not await harness.queue.hold("a")
    assert await harness.queue.hold_many(["a", "b"]) == ["cancelled", "unknown"]
    assert await harness.queue.unhold_many(["a", "b"]) == ["cancelled", "unknown"]
    for call in (harness.queue.hold, harness.queue.unhold):
        with pytest.raises(JobNotFound, match="job nothing not found in queue debates"):
            await call("nothing")
    assert harness.redis.exists(harness.keys.held) == 0


async def test_a_held_job_has_no_backlog(new_harness):
    """Held jobs do not count toward max_backlog, and join the lane although it is full."""
    harness = new_harness(max_backlog=1)
    await harness.enqueue("a")
    await harness.queue.hold("a")
    await harness.enqueue("b")
    assert await harness.queue.unhold("a")
    assert [fields["id"] for _, fields in harness.entries()] == ["b", "a"]


async def test_a_group_waits_for_its_held_job(harness):
    """A held job is live: counted as held, and the group does not end before it."""
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g")
    await harness.queue.hold("a")
    group = await harness.queue.tracker.get_group("g")
    assert (group.counts["held"], group.counts["pending"], group.live, group.state) == (
        1,
        0,
        1,
        "sealed",
    )
    assert await harness.queue.cancel_group("g") == 1
    group = await harness.queue.tracker.get_group("g")
    assert (group.counts["held"], group.counts["cancelled"], group.state) == (0, 1, "cancelled")


@pytest.mark.parametrize("labels", [{}, {"tenant": "acme"}])
async def test_filters_find_held_jobs(harness, labels):
    """Held jobs are found by their status, among all live ones, and not as pending ones."""
    session = await harness.worker()
    for name in ("held", "later", "waits", "runs"):
        delay = 600 if name == "later" else 0
        await harness.enqueue(name, delay_seconds=delay, priority=int(name == "runs"), **labels)
    await harness.start_one(session)
    await harness.queue.hold_many(["held"])
    for statuses, expected in (
        ({JobStatus.HELD}, {"held"}),
        ({JobStatus.PENDING}, {"later", "waits"}),
        ({JobStatus.HELD, JobStatus.PROCESSING}, {"held", "runs"}),
        (LIVE, {"held", "later", "waits", "runs"}),
        (LIVE | TERMINAL, {"held", "later", "waits", "runs"}),
        (frozenset(), {"held", "later", "waits", "runs"}),
    ):
        wanted = JobFilter(statuses=frozenset(statuses), **labels)
        found = [job_id async for page in harness.queue.find(wanted) for job_id in page]
        assert sorted(found) == sorted(expected)
        assert set(await harness.queue.find_newest(wanted, 10)) == expected
        assert await harness.queue.count(wanted) == len(expected)


async def test_the_entry_of_a_held_job_is_a_stale_copy(harness):
    """An entry that is left of a held job, after damage, does not start it; its payload is not lost."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.queue.hold("a")
    harness.redis.delete(harness.keys.payload("a"))
    entry = harness.write_raw({"id": "a", "payload": '{"n":1}'})
    harness.redis.hset(harness.keys.job("a"), "entry", entry)
    assert (await session.start(5)).jobs == []
    harness.redis.hdel(harness.keys.job("a"), "entry")
    await harness.queue.unhold("a")
    assert (await harness.start_one(session)).raw_payload == b'{"n":1}'


async def test_a_held_job_without_payload_fails_when_it_is_freed(harness):
    """Whatever another program deleted: the job ends, and says why."""
    await harness.enqueue("a")
    await harness.queue.hold("a")
    harness.redis.delete(harness.keys.payload("a"))
    assert await harness.queue.unhold("a")
    await harness.queue.promote()
    assert "payload is missing" in (await harness.queue.get_job("a")).error


async def test_a_hold_whose_cause_was_deleted_is_a_persons(harness):
    """Whatever another program deleted: lists leave the job out, and others are listed and freed."""
    session = await harness.worker()
    for name in "ab":
        await harness.enqueue(name)
        job = await harness.start_one(session)
        await harness.report(session, job, Held("budget", "full", until_seconds=0))
    harness.redis.hdel(harness.keys.job("a"), "hold_cause")
    page = await harness.queue.list_held(AUTOMATIC)
    assert [job.id for job in page.jobs] == ["b"]
    assert await harness.queue.unhold_many(["a", "b"], AUTOMATIC) == ["person", "unheld"]
    assert await harness.queue.unhold("a")


async def test_small_values_stay_small(harness):
    """Who holds a job is cut at 64 bytes, never inside a character; a reason is kept in the history alone."""
    await harness.enqueue("a")
    await harness.queue.hold("a", reason="é" * 4000 + "\udcff", by="é" * 40)
    job = await harness.queue.get_job("a")
    assert job.hold.by == "é" * 32
    assert job.hold.reason == "é" * 2000
    assert harness.redis.object("encoding", harness.keys.job("a")) == "listpack"


async def test_jobs_without_a_hold_have_no_field_and_no_key_of_it(harness):
    """Without a hold, nothing of it is in Redis: no key, no field, no counter."""
    session = await harness.worker()
    for outcome in (Completed(b"{}"), Failed("no"), Released(), Retry("no", 0)):
        job = await harness.enqueue(group="g")
        await harness.report(session, await harness.start_one(session), outcome)
        await harness.queue.cancel(job.id)
    assert harness.redis.exists(harness.keys.held) == 0
    hashes = [key for key in harness.redis.scan_iter() if harness.redis.type(key) == "hash"]
    names = {name for key in hashes for name in harness.redis.hgetall(key)}
    assert not {name for name in names if "held" in name or "hold" in name or "suspended" in name}
