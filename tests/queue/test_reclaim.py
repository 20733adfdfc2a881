"""Contract, on every server: what becomes of jobs that wait, whose workers died, or whose time is over."""

import asyncio

import pytest
from waiting import wait_until

from aragora_q.base import Completed, Failed, Identity, Job, JobStatus, Released, Retry
from aragora_q.keys import GROUP
from aragora_q.maintenance import purge_pass, reap_pass
from aragora_q.streams import REAPER


def _decisions(taken):
    return [(each.id, each.decision) for each in taken]


async def test_promote_moves_what_is_due(stage):
    """Due jobs go to the tail of their lane, earliest first, at most 100 a call."""
    session = await stage.worker()
    jobs = [Job(payload={}, id=f"j{n:03}", delay_seconds=1000 + n) for n in range(150)]
    await stage.queue.enqueue_many([*jobs, Job(payload={}, id="high", delay_seconds=9, priority=1)])
    assert (await stage.queue.promote()).promoted == 0
    for n, job in enumerate(jobs):
        stage.raw.zadd(stage.keys.delayed, {job.id: n})
    stage.raw.zadd(stage.keys.delayed, {"high": 1000})
    first = await stage.queue.promote()
    assert (first.promoted, first.next_due_seconds) == (100, 0)
    second = await stage.queue.promote()
    assert (second.promoted, second.next_due_seconds) == (51, None)
    assert [fields["id"] for _, fields in stage.entries()] == [job.id for job in jobs]
    assert (await stage.started(session)).id == "high"
    assert stage.counters()["promoted"] == 151


async def test_promoted_retry_stays_retrying(stage):
    """Its backoff over, a job waits in its lane as RETRYING until it starts."""
    session = await stage.worker()
    await stage.enqueue("a")
    await stage.end(session, await stage.started(session), Retry("no", 0))
    assert (await stage.queue.promote()).promoted == 1
    known = await stage.queue.get_job("a")
    assert (known.status, known.due_at, known.payload) == (JobStatus.RETRYING, None, {"n": 1})
    assert (await stage.started(session)).attempts == 2


async def test_promote_survives_deleted_keys(stage):
    """A job without payload becomes a dead letter; one without hash goes on; neither stops the others."""
    session = await stage.worker()
    for name in ("bare", "unhashed", "good"):
        await stage.enqueue(name, delay_seconds=60)
        stage.raw.zadd(stage.keys.delayed, {name: 1})
    stage.raw.delete(stage.keys.payload("bare"))
    stage.raw.delete(stage.keys.job("unhashed"))
    await stage.queue.promote()
    known = await stage.queue.get_job("bare")
    assert known.status is JobStatus.FAILED
    assert "deleted by someone else" in known.error
    assert {job.id for job in (await session.start(5)).jobs} == {"unhashed", "good"}


async def test_reclaim_counts_a_crash_not_an_attempt(stage):
    """A dead worker's job is RETRYING at its lane's tail, without backoff; the crash is told."""
    dead, alive = await stage.worker("dead"), await stage.worker("alive")
    await stage.enqueue("a")
    job = await stage.started(dead)
    assert await stage.queue.reclaim("alive") == []
    stage.age("a", 70_000)
    [taken] = await stage.queue.reclaim("alive")
    assert (taken.id, taken.decision, taken.worker_id) == ("a", "reclaimed", "dead")
    assert taken.idle_seconds >= 70
    known = await stage.queue.get_job("a")
    assert (known.status, known.attempts, known.crashes) == (JobStatus.RETRYING, 0, 1)
    assert "worker dead died or lost its lease" in known.error
    again = await stage.started(alive)
    assert (again.fence, again.attempts, again.crashes) == (2, 1, 1)
    for outcome in (Completed(b"{}"), Retry("x", 0), Failed("x"), Released()):
        assert await stage.end(dead, job, outcome) == "lost"
    assert await stage.end(alive, again, Completed(b'{"by":"alive"}')) == "completed"
    assert await stage.end(dead, job, Completed(b'{"by":"dead"}')) == "lost"
    assert (await stage.queue.get_job("a")).result == {"by": "alive"}
    assert stage.counters()["crashed"] == stage.counters()["reclaimed"] == 1


async def test_late_report_between_reclaim_and_start_is_refused(stage):
    """A zombie that reports while its job waits again is not mistaken for a repeated report."""
    dead = await stage.worker("dead")
    await stage.enqueue("a")
    job = await stage.started(dead)
    stage.age("a")
    await stage.queue.reclaim()
    for outcome in (Completed(b"{}"), Retry("x", 0), Failed("x"), Released()):
        assert await stage.end(dead, job, outcome) == "lost"
    assert await stage.queue.get_status("a") is JobStatus.RETRYING


async def test_poison_pill_fails(stage):
    """The job on which the third worker died is a dead letter that names workers and times."""
    await stage.worker("pulse")
    await stage.enqueue("a")
    for n, decision in enumerate(("reclaimed", "reclaimed", "poisoned")):
        await stage.started(await stage.worker(f"victim{n}"))
        stage.age("a")
        assert _decisions(await stage.queue.reclaim()) == [("a", decision)]
    known = await stage.queue.get_job("a")
    assert (known.status, known.crashes, known.payload) == (JobStatus.FAILED, 3, {"n": 1})
    told = " ".join(line["error"] for line in await stage.queue.tracker.history("a"))
    assert all(f"victim{n}" in told for n in range(3))
    assert stage.counters()["failed"] == 1


async def test_the_jobs_own_lease_decides(stage):
    """A caretaker configured otherwise takes no live job, and waits no longer for a dead one's."""
    await stage.enqueue("long")
    await stage.started(await stage.worker("w1", lease_seconds=1000))
    await stage.enqueue("short")
    await stage.started(await stage.worker("w2", lease_seconds=1))
    stage.age("long", 500_000)
    stage.age("short", 5_000)
    assert _decisions(await stage.other(claim_idle_ms=200).reclaim()) == [("short", "reclaimed")]
    stage.age("long", 1_000_001)
    slow = stage.other(claim_idle_ms=86_400_000)
    assert _decisions(await slow.reclaim()) == [("long", "reclaimed")]


async def test_restarted_worker_needs_no_lease(stage):
    """Jobs of an earlier boot are taken the moment its worker id signs on again."""
    old = await stage.worker("w1")
    await stage.enqueue("a")
    await stage.started(old)
    assert await stage.queue.reclaim() == []
    new = stage.queue.session(Identity("w1", "newboot"))
    assert await new.register({}) > 50
    assert await new.register({}, dead_boot_id=old.identity.boot_id) == 0
    assert _decisions(await stage.queue.reclaim()) == [("a", "reclaimed")]
    assert (await stage.started(new)).fence == 2


async def test_delivered_but_never_started_is_redelivered(stage):
    """An entry read but not started goes back to its lane, nothing counted, status unchanged."""
    session = await stage.worker()
    await stage.enqueue("a")
    created_at = (await stage.queue.get_job("a")).created_at
    await stage.enqueue("b")
    [entry] = stage.deliver("broken")
    assert await stage.queue.reclaim() == []
    stage.age_entry(stage.keys.stream_normal, entry)
    assert _decisions(await stage.queue.reclaim()) == [("a", "redelivered")]
    known = await stage.queue.get_job("a")
    assert (known.status, known.crashes, known.attempts) == (JobStatus.PENDING, 0, 0)
    assert known.created_at == created_at
    assert [job.id for job in (await session.start(5)).jobs] == ["b", "a"]
    assert stage.counters()["redelivered"] == 1
    assert "crashed" not in stage.counters()


async def test_redelivery_of_what_has_no_hash(stage):
    """Strangers' entries and jobs whose hash was deleted are redelivered as they are, and stay unknown."""
    session = await stage.worker()
    await stage.enqueue("unhashed")
    stage.raw.delete(stage.keys.job("unhashed"))
    stage.forge({"id": "unhashed:payload", "payload": "{}"})
    stage.forge({"foreign": "entry"})
    for entry in stage.deliver("broken", count=3):
        stage.age_entry(stage.keys.stream_normal, entry)
    assert [each.decision for each in await stage.queue.reclaim()] == ["redelivered"] * 3
    assert not stage.raw.exists(stage.keys.job("unhashed"))
    assert [job.id for job in (await session.start(5)).jobs] == ["unhashed"]
    assert stage.counters()["malformed"] == 2


async def test_running_job_whose_hash_was_lost_runs_again(stage):
    """Nobody can say who holds it, so after a lease it is delivered anew; the old attempt is refused."""
    session = await stage.worker()
    await stage.enqueue("a")
    job = await stage.started(session)
    [entry] = [entry for entry, _ in stage.entries()]
    stage.raw.delete(stage.keys.job("a"))
    assert stage.renew(session, job).gone == {"a": "lost"}
    assert await stage.end(session, job, Completed(b"{}")) == "lost"
    stage.age_entry(stage.keys.stream_normal, entry)
    assert _decisions(await stage.queue.reclaim()) == [("a", "redelivered")]
    again = await stage.started(session)
    assert await stage.end(session, again, Completed(b"{}")) == "completed"


async def test_leftovers_are_dropped(stage):
    """Entries deleted under their consumer, and copies of jobs that ended or run, leave the pending list."""
    session = await stage.worker()
    await stage.enqueue("a")
    job = await stage.started(session)
    copy = stage.forge({"id": "a", "payload": "{}"})
    assert (await session.start(1)).jobs == []
    ghost = stage.forge({"id": "ghost", "payload": "{}"})
    assert stage.deliver("broken") == [ghost]
    stage.raw.xdel(stage.keys.stream_normal, ghost)
    for entry in (copy, ghost):
        stage.age_entry(stage.keys.stream_normal, entry)
    left = [row["message_id"] for row in stage.pending()]  # some servers drop a ghost by themselves
    taken = await stage.queue.reclaim()
    assert {each.decision for each in taken} == {"dropped"}
    assert len(taken) == len(left) - 1
    assert [row["message_id"] for row in stage.pending()] == [stage.fields("a")["entry"]]
    assert await stage.end(session, job, Completed(b"{}")) == "completed"


async def test_reclaim_walks_the_whole_list(stage):
    """Live jobs before it do not hide a dead one: not the first 100 entries, all of them."""
    session = await stage.worker("busy")
    await stage.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(250)])
    jobs = [job for _ in range(3) for job in (await session.start(100)).jobs]
    assert len(jobs) == 250
    stage.age("j249")
    stage.age("j120")
    assert _decisions(await stage.queue.reclaim()) == [("j120", "reclaimed"), ("j249", "reclaimed")]


async def test_dry_run_changes_nothing(stage):
    """It tells what would be taken, from whom and why, and leaves everything as it is."""
    await stage.enqueue("a")
    await stage.started(await stage.worker())
    stage.age("a")
    before = stage.fields("a"), stage.entries(), stage.counters(), stage.events()
    report = await reap_pass(stage.queue, REAPER, dry_run=True)
    assert _decisions(report.taken) == [("a", "reclaimed")]
    assert (stage.fields("a"), stage.entries(), stage.counters(), stage.events()) == before
    consumers = stage.raw.xinfo_consumers(stage.keys.stream_normal, GROUP)
    assert [each["name"] for each in consumers] == ["w1"]


async def test_silence_of_all_is_an_outage(stage):
    """When nobody was heard for half a lease, reclaim waits half a lease more, once, then goes on."""
    stage_lease = 800
    queue = stage.other(claim_idle_ms=stage_lease)
    await stage.enqueue("a")
    session = queue.session(Identity("w1"))
    await session.register({})
    job = await stage.started(session)
    stage.silence("w1", 5)
    stage.age("a")
    assert await queue.reclaim() == []
    reclaim_after = stage.raw.hget(stage.keys.control, "reclaim_after")
    assert await queue.reclaim() == []
    assert stage.raw.hget(stage.keys.control, "reclaim_after") == reclaim_after
    assert await stage.queue.get_status("a") is JobStatus.PROCESSING

    async def taken():
        return _decisions(await queue.reclaim())

    assert await wait_until(taken, what="a fleet that never came back") == [("a", "reclaimed")]
    assert await stage.end(session, job, Completed(b"{}")) == "lost"


async def test_back_from_an_outage_a_worker_renews_first(stage):
    """Whoever returns within the grace keeps its jobs, and is charged nothing."""
    session = await stage.worker()
    await stage.enqueue("a")
    job = await stage.started(session)
    stage.silence("w1", 10_000)
    stage.age("a")
    assert await stage.queue.reclaim() == []
    assert stage.renew(session, job).gone == {}
    stage.raw.hdel(stage.keys.control, "reclaim_after")
    assert await stage.queue.reclaim() == []
    assert await stage.end(session, job, Completed(b"{}")) == "completed"
    assert "crashed" not in stage.counters()


async def test_the_first_to_return_gives_grace_to_the_others(stage):
    """A worker's renewal after an outage, too, holds reclaim back until the others have renewed."""
    first, second = await stage.worker("w1"), await stage.worker("w2")
    await stage.enqueue("a")
    job = await stage.started(second)
    for name in ("w1", "w2"):
        stage.silence(name, 10_000)
    stage.age("a")
    assert stage.renew(first).state == "ok"
    assert await stage.queue.reclaim() == []
    assert stage.renew(second, job).gone == {}


async def test_a_new_worker_ends_no_grace(stage):
    """Whoever signs on first after an outage is no sign that the others had their chance to renew."""
    session = await stage.worker("w1")
    await stage.enqueue("a")
    job = await stage.started(session)
    stage.silence("w1", 10_000)
    stage.age("a")
    await stage.worker("newcomer")
    assert await stage.queue.reclaim() == []
    assert stage.renew(session, job).gone == {}


async def test_an_outage_that_follows_a_silence_has_its_grace(stage):
    """Silence was noticed before the server went away: its return is waited out all the same, once."""
    session = await stage.worker("w1")
    await stage.enqueue("a")
    await stage.started(session)
    stage.silence("w1", 40)
    assert await stage.queue.reclaim() == []
    stage.age("a")
    stage.raw.hincrbyfloat(stage.keys.control, "reclaim_after", -600_000)
    assert await stage.queue.reclaim() == []
    stage.raw.hincrbyfloat(stage.keys.control, "reclaim_after", -600_000)
    assert _decisions(await stage.queue.reclaim()) == [("a", "reclaimed")]


async def test_a_clock_set_back_ends_a_grace(stage):
    """A grace noted under a clock that was days ahead does not hold reclaim back for days."""
    dead = await stage.worker("dead")
    await stage.enqueue("a")
    await stage.started(dead)
    stage.silence("dead", 10_000)
    assert await stage.queue.reclaim() == []
    for mark in ("graced_at", "reclaim_after"):
        stage.raw.hincrbyfloat(stage.keys.control, mark, 2 * 86_400_000)
    stage.raw.hset(stage.keys.control, "graces", 2)  # no further one
    stage.age("a")
    assert _decisions(await stage.queue.reclaim()) == [("a", "reclaimed")]
    assert (await stage.queue.get_queue_stats())["reclaim_after"] is None


async def test_a_clock_set_back_hides_no_outage(stage):
    """The heartbeat of a worker that died under a clock days ahead does not pass for a sign of life."""
    await stage.worker("dead")
    stage.silence("dead", -2 * 86_400)
    live = await stage.worker("live")
    await stage.enqueue("a")
    job = await stage.started(live)
    stage.renew(live, job)
    for name in ("dead", "live"):
        stage.silence(name, 10_000)
    stage.age("a")
    assert await stage.queue.reclaim() == []


async def test_grace_does_not_hold_up_a_restarted_worker(stage):
    """That another boot has the worker's id proves the death, outage or not."""
    old, other = await stage.worker("w1"), await stage.worker("w2")
    await stage.enqueue("a")
    await stage.enqueue("b")
    await stage.started(old)
    kept = await stage.started(other)
    for name in ("w1", "w2"):
        stage.silence(name, 10_000)
    for name in ("a", "b"):
        stage.age(name)
    await stage.worker("w1")
    assert _decisions(await stage.queue.reclaim()) == [("a", "reclaimed")]
    assert stage.renew(other, kept).gone == {}


async def test_grace_is_the_workers_not_the_caretakers(stage):
    """A cron pass with a short lease of its own gives returning workers no shorter grace."""
    session = await stage.worker()
    await stage.enqueue("a")
    job = await stage.started(session)
    stage.silence("w1", 10_000)
    stage.age("a")
    hasty = stage.other(claim_idle_ms=200)
    assert await hasty.reclaim() == []
    await asyncio.sleep(0.15)
    assert await hasty.reclaim() == []
    assert stage.renew(session, job).gone == {}


async def test_renew_keeps_leases_and_the_heartbeat(stage):
    """A renewal makes held entries fresh, in every lane, and shows what runs."""
    session = await stage.worker()
    for name, priority in (("h", 1), ("n", 0), ("l", -1)):
        await stage.enqueue(name, priority=priority)
    jobs = (await session.start(3)).jobs
    for job in jobs:
        stage.age(job.id, 59_000)
    renewal = stage.renew(session, *jobs)
    assert (renewal.state, renewal.gone) == ("ok", {})
    for priority in (1, 0, -1):
        [row] = stage.pending(priority)
        assert row["time_since_delivered"] < 50_000
        assert row["times_delivered"] == 1
    [worker] = (await stage.queue.get_queue_stats())["workers"]
    assert sorted(worker["running"]) == ["h", "l", "n"]
    assert await stage.queue.reclaim() == []


async def test_renew_never_steals_a_job_back(stage):
    """A worker that was frozen past its lease learns that its job is another's, which stays so."""
    frozen, heir = await stage.worker("frozen"), await stage.worker("heir")
    await stage.enqueue("a")
    job = await stage.started(frozen)
    stage.age("a")
    await stage.queue.reclaim("heir")
    again = await stage.started(heir)
    assert stage.renew(frozen, job).gone == {"a": "lost"}
    assert stage.pending()[0]["consumer"] == "heir"
    assert stage.renew(heir, again).gone == {}


async def test_renew_tells_of_a_cancel(stage):
    """The worker of a cancelled job is told so, not that it lost it."""
    session = await stage.worker()
    await stage.enqueue("a")
    job = await stage.started(session)
    await stage.queue.cancel("a")
    assert stage.renew(session, job).gone == {"a": "cancelled"}


async def test_renew_without_a_record_still_keeps_leases(stage):
    """A worker whose record was lost is told to sign on again, but loses no job meanwhile."""
    session = await stage.worker()
    await stage.enqueue("a")
    job = await stage.started(session)
    stage.raw.delete(stage.keys.worker("w1"), stage.keys.workers)
    stage.age("a", 59_000)
    renewal = stage.renew(session, job)
    assert (renewal.state, renewal.gone) == ("unregistered", {})
    assert stage.pending()[0]["time_since_delivered"] < 50_000


async def test_replaced_boot_learns_what_it_lost(stage):
    """A frozen worker whose id another boot took over is told of every job it no longer holds."""
    frozen = await stage.worker("w1")
    await stage.enqueue("a")
    job = await stage.started(frozen)
    heir = stage.queue.session(Identity("w1", "newboot"))
    await heir.register({}, dead_boot_id=frozen.identity.boot_id)
    await stage.queue.reclaim()
    renewal = stage.renew(frozen, job)
    assert (renewal.state, renewal.gone) == ("unregistered", {"a": "lost"})


async def test_jobs_of_a_newer_version_are_not_next(stage):
    """When the next job is due: those that only a newer version can run are left out."""
    for name, seconds in (("newer", 100), ("ours", 200)):
        await stage.enqueue(name, delay_seconds=seconds)
    stage.raw.hset(stage.keys.job("newer"), "schema", 99)
    assert 190 < (await stage.queue.promote()).next_due_seconds <= 200
    await stage.queue.cancel("ours")
    assert (await stage.queue.promote()).next_due_seconds is None


async def test_recover_hands_back_unheard_starts(stage):
    """A start whose answer was lost is undone: nothing charged. Known and others' jobs stay."""
    session, other = await stage.worker("w1"), await stage.worker("w2")
    for name in ("known", "unheard", "others"):
        await stage.enqueue(name)
    await session.start(2)
    await stage.started(other)
    assert await session.recover(["known"], min_idle_seconds=60) == []
    assert await session.recover(["known"], min_idle_seconds=0) == ["unheard"]
    job = await stage.queue.get_job("unheard")
    assert (job.status, job.attempts, job.payload) == (JobStatus.PENDING, 0, {"n": 1})
    again = await stage.started(session)
    assert (again.id, again.fence) == ("unheard", 2)


async def test_recover_looks_behind_many_known_jobs(stage):
    """However many jobs a worker runs, the unheard one is found."""
    session = await stage.worker()
    await stage.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(150)])
    await session.start(100)
    await session.start(100)
    known = [f"j{n:03}" for n in range(149)]
    assert await session.recover(known, min_idle_seconds=0) == ["j149"]


async def test_recover_takes_small_steps(stage, monkeypatch):
    """However many jobs a worker runs, or are to be handed back: at most a hundred in any call."""
    session = await stage.worker()
    await stage.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(300)])
    for _ in range(3):
        await session.start(100)
    honest, sizes = session._connection.run, []

    async def measured(name, items=(), **options):
        listed = list(items)
        reply = await honest(name, listed, **options)
        sizes.extend([len(listed), len(reply)])
        return reply

    monkeypatch.setattr(session._connection, "run", measured)
    known = [f"j{n:03}" for n in range(0, 300, 2)]
    unknown = [f"j{n:03}" for n in range(1, 300, 2)]
    assert await session.recover(known, min_idle_seconds=0) == unknown
    assert max(sizes) <= 101  # the reply may tell where to go on
    assert len(stage.pending()) == 150


async def test_purge_deletes_what_is_past_retention(stage):
    """All keys of jobs that ended long ago go; younger ones and living ones stay."""
    session = await stage.worker()
    for name, outcome in (
        ("old", Completed(b"{}")),
        ("dead", Failed("x")),
        ("new", Completed(b"{}")),
    ):
        await stage.enqueue(name)
        await stage.end(session, await stage.started(session), outcome)
    await stage.enqueue("old-cancelled")
    await stage.queue.cancel("old-cancelled")
    await stage.enqueue("alive", delay_seconds=9)
    stage.raw.zadd(stage.keys.completed, {"old": 1})
    stage.raw.zadd(stage.keys.failed, {"dead": 1})
    stage.raw.zadd(stage.keys.cancelled, {"old-cancelled": 1})
    dry = await purge_pass(stage.queue, dry_run=True)
    assert dry == await purge_pass(stage.queue)
    assert dry == {"cancelled": 1, "completed": 1, "failed": 1}
    for name in ("old", "dead", "old-cancelled"):
        assert not list(stage.raw.scan_iter(match=f"{stage.keys.job(name)}*"))
    assert await stage.queue.get_status("new") is JobStatus.COMPLETED
    assert await stage.queue.get_status("alive") is JobStatus.PENDING
    assert stage.counters()["purged"] == 3


async def test_purge_goes_by_batches(stage):
    """A long list is deleted in bounded steps; a younger age can be asked for."""
    session = await stage.worker()
    await stage.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(230)])
    for job_id in [f"j{n}" for n in range(230)]:
        await stage.queue.cancel(job_id)
    assert await stage.queue.purge(JobStatus.CANCELLED) == (0, False)
    assert await stage.queue.purge(JobStatus.CANCELLED, older_than_seconds=-1) == (100, True)
    done = await purge_pass(stage.queue, older_than_seconds=-1)
    assert done[JobStatus.CANCELLED] == 130
    assert (await session.start(1)).jobs == []


async def test_purge_spares_a_job_that_lives_again(stage):
    """An index entry whose job has changed since is unlisted; the job stays."""
    await stage.enqueue("a")
    stage.raw.zadd(stage.keys.failed, {"a": 1})
    await stage.queue.purge(JobStatus.FAILED)
    assert await stage.queue.get_status("a") is JobStatus.PENDING
    assert stage.raw.zcard(stage.keys.failed) == 0


async def test_worker_ids_are_held_by_one_boot(stage):
    """An id whose other boot is alive is refused, with the time to wait; a silent one is taken over."""
    session = await stage.worker("w1")
    assert await session.register({}) == 0
    rival = stage.queue.session(Identity("w1", "rival"))
    assert 50 < await rival.register({}) <= 60
    assert (await rival.current_boot())["boot_id"] == session.identity.boot_id
    stage.silence("w1", 61)
    assert await rival.register({"pid": "7"}) == 0
    record = await session.current_boot()
    assert (record["boot_id"], record["pid"], "host" in record) == ("rival", "7", False)


async def test_a_clock_set_back_locks_no_worker_out(stage):
    """A heartbeat from the future holds a worker's id for one lease more, not until then."""
    await stage.worker("w1")
    stage.silence("w1", -2 * 86_400)
    rival = stage.queue.session(Identity("w1", "rival"))
    assert 50 < await rival.register({}) <= 60
    stage.silence("w1", 61)
    assert await rival.register({}) == 0


async def test_sign_off_leaves_nothing(stage):
    """A worker that has handed everything back leaves neither record, heartbeat nor consumer."""
    session = await stage.worker("w1")
    await stage.enqueue("a")
    await stage.end(session, await stage.started(session), Completed(b"{}"))
    await session.unregister()
    assert (await stage.queue.get_queue_stats())["workers"] == []
    assert stage.raw.xinfo_consumers(stage.keys.stream_normal, GROUP) == []
    assert not stage.raw.exists(stage.keys.worker("w1"))


async def test_sign_off_with_jobs_keeps_the_consumer(stage):
    """A worker that goes with jobs in hand leaves its consumer; its next boot need not wait for them."""
    session = await stage.worker("w1")
    await stage.enqueue("a")
    await stage.started(session)
    await session.unregister()
    assert stage.pending()[0]["consumer"] == "w1"
    heir = await stage.worker("w1")
    assert _decisions(await stage.queue.reclaim()) == [("a", "reclaimed")]
    assert (await stage.started(heir)).id == "a"


async def test_consumers_of_the_dead_are_forgotten(stage):
    """Empty consumers of workers long silent, and the reaper's own, are deleted; others never."""
    for name in ("alive", "dead", "busy"):
        session = await stage.worker(name)
        await stage.enqueue(f"for-{name}")
        job = await stage.started(session)
        if name != "busy":
            await stage.end(session, job, Completed(b"{}"))
    stage.silence("dead", 200)
    stage.silence("busy", 200)
    await stage.queue.forget_dead_workers()

    def names():
        return {c["name"] for c in stage.raw.xinfo_consumers(stage.keys.stream_normal, GROUP)}

    assert names() == {"alive", "busy"}
    stage.age("for-busy")
    report = await reap_pass(stage.queue, REAPER)
    assert _decisions(report.taken) == [("for-busy", "reclaimed")]
    assert names() == {"alive"}
    workers = (await stage.queue.get_queue_stats())["workers"]
    assert [worker["worker_id"] for worker in workers] == ["alive"]


async def test_a_hasty_caretaker_forgets_no_live_worker(stage):
    """How long a worker may be silent depends on its own lease, not on a cron pass's setting."""
    await stage.worker("alive")
    stage.silence("alive", 15)
    await stage.other(claim_idle_ms=200).forget_dead_workers()
    assert stage.raw.exists(stage.keys.worker("alive"))
    assert stage.raw.zcard(stage.keys.workers) == 1


async def test_one_cron_pass_at_a_time(stage):
    """A second pass finds the lock; it is given back at the end, and after a failure."""
    async with stage.queue.single_flight(60) as first, stage.queue.single_flight(60) as second:
        assert (first, second) == (True, False)
    with pytest.raises(RuntimeError):
        async with stage.queue.single_flight(60):
            raise RuntimeError("the pass broke")
    counted = stage.counters()["last_reap_at"]
    async with stage.queue.single_flight(60) as third:
        assert third
    assert stage.counters()["last_reap_at"] >= counted


async def test_lock_of_a_killed_pass_expires(stage):
    """A pass that was killed blocks the next one no longer than its lock lives."""
    killed = stage.queue.single_flight(0.05)
    assert await killed.__aenter__()

    async def free():
        async with stage.queue.single_flight(60) as ours:
            return ours

    await wait_until(free, what="the lock to expire")
    await killed.__aexit__(None, None, None)
