"""Contract, on every server: what becomes of jobs that wait, whose workers died, or whose time is over."""

import asyncio

import pytest
from support.wait import wait_until

from aragora_q.base import Completed, Failed, Identity, Job, JobStatus, Released, Retry
from aragora_q.keys import GROUP
from aragora_q.maintenance import purge_pass, reap_pass
from aragora_q.streams import REAPER


def _decisions(taken):
    return [(each.id, each.decision) for each in taken]


async def test_promote_moves_what_is_due(harness):
    """Due jobs go to the tail of their lane, earliest first, at most 100 a call."""
    session = await harness.worker()
    jobs = [Job(payload={}, id=f"j{n:03}", delay_seconds=1000 + n) for n in range(150)]
    await harness.queue.enqueue_many(
        [*jobs, Job(payload={}, id="high", delay_seconds=9, priority=1)]
    )
    assert (await harness.queue.promote()).promoted == 0
    for n, job in enumerate(jobs):
        harness.redis.zadd(harness.keys.delayed, {job.id: n})
    harness.redis.zadd(harness.keys.delayed, {"high": 1000})
    first = await harness.queue.promote()
    assert (first.promoted, first.next_due_seconds) == (100, 0)
    second = await harness.queue.promote()
    assert (second.promoted, second.next_due_seconds) == (51, None)
    assert [fields["id"] for _, fields in harness.entries()] == [job.id for job in jobs]
    assert (await harness.start_one(session)).id == "high"
    assert harness.counters()["promoted"] == 151


async def test_promoted_retry_stays_retrying(harness):
    """Its backoff over, a job waits in its lane as RETRYING until it starts."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.report(session, await harness.start_one(session), Retry("no", 0))
    assert (await harness.queue.promote()).promoted == 1
    known = await harness.queue.get_job("a")
    assert (known.status, known.due_at, known.payload) == (JobStatus.RETRYING, None, {"n": 1})
    assert (await harness.start_one(session)).attempts == 2


async def test_promote_survives_deleted_keys(harness):
    """A job without payload becomes a dead letter; one without hash goes on; neither stops the others."""
    session = await harness.worker()
    for name in ("bare", "unhashed", "good"):
        await harness.enqueue(name, delay_seconds=60)
        harness.redis.zadd(harness.keys.delayed, {name: 1})
    harness.redis.delete(harness.keys.payload("bare"))
    harness.redis.delete(harness.keys.job("unhashed"))
    await harness.queue.promote()
    known = await harness.queue.get_job("bare")
    assert known.status is JobStatus.FAILED
    assert "deleted by someone else" in known.error
    assert {job.id for job in (await session.start(5)).jobs} == {"unhashed", "good"}


async def test_reclaim_counts_a_crash_not_an_attempt(harness):
    """A dead worker's job is RETRYING at its lane's tail, without backoff; the crash is told."""
    dead, alive = await harness.worker("dead"), await harness.worker("alive")
    await harness.enqueue("a")
    job = await harness.start_one(dead)
    assert await harness.queue.reclaim("alive") == []
    harness.backdate("a", 70_000)
    [taken] = await harness.queue.reclaim("alive")
    assert (taken.id, taken.decision, taken.worker_id) == ("a", "reclaimed", "dead")
    assert taken.idle_seconds >= 70
    known = await harness.queue.get_job("a")
    assert (known.status, known.attempts, known.crashes) == (JobStatus.RETRYING, 0, 1)
    assert "worker dead died or lost its lease" in known.error
    again = await harness.start_one(alive)
    assert (again.fence, again.attempts, again.crashes) == (2, 1, 1)
    for outcome in (Completed(b"{}"), Retry("x", 0), Failed("x"), Released()):
        assert await harness.report(dead, job, outcome) == "lost"
    assert await harness.report(alive, again, Completed(b'{"by":"alive"}')) == "completed"
    assert await harness.report(dead, job, Completed(b'{"by":"dead"}')) == "lost"
    assert (await harness.queue.get_job("a")).result == {"by": "alive"}
    assert harness.counters()["crashed"] == harness.counters()["reclaimed"] == 1


async def test_late_report_between_reclaim_and_start_is_refused(harness):
    """A zombie that reports while its job waits again is not mistaken for a repeated report."""
    dead = await harness.worker("dead")
    await harness.enqueue("a")
    job = await harness.start_one(dead)
    harness.backdate("a")
    await harness.queue.reclaim()
    for outcome in (Completed(b"{}"), Retry("x", 0), Failed("x"), Released()):
        assert await harness.report(dead, job, outcome) == "lost"
    assert await harness.queue.get_status("a") is JobStatus.RETRYING


async def test_poison_pill_fails(harness):
    """The job on which the third worker died is a dead letter that names workers and times."""
    await harness.worker("pulse")
    await harness.enqueue("a")
    for n, decision in enumerate(("reclaimed", "reclaimed", "poisoned")):
        await harness.start_one(await harness.worker(f"victim{n}"))
        harness.backdate("a")
        assert _decisions(await harness.queue.reclaim()) == [("a", decision)]
    known = await harness.queue.get_job("a")
    assert (known.status, known.crashes, known.payload) == (JobStatus.FAILED, 3, {"n": 1})
    told = " ".join(line["error"] for line in await harness.queue.tracker.history("a"))
    assert all(f"victim{n}" in told for n in range(3))
    assert harness.counters()["failed"] == 1


async def test_the_jobs_own_lease_decides(harness):
    """A caretaker configured otherwise takes no live job, and waits no longer for a dead one's."""
    await harness.enqueue("long")
    await harness.start_one(await harness.worker("w1", lease_seconds=1000))
    await harness.enqueue("short")
    await harness.start_one(await harness.worker("w2", lease_seconds=1))
    harness.backdate("long", 500_000)
    harness.backdate("short", 5_000)
    assert _decisions(await harness.other_client(claim_idle_ms=200).reclaim()) == [
        ("short", "reclaimed")
    ]
    harness.backdate("long", 1_000_001)
    slow = harness.other_client(claim_idle_ms=86_400_000)
    assert _decisions(await slow.reclaim()) == [("long", "reclaimed")]


async def test_restarted_worker_needs_no_lease(harness):
    """Jobs of an earlier boot are taken the moment its worker id signs on again."""
    old = await harness.worker("w1")
    await harness.enqueue("a")
    await harness.start_one(old)
    assert await harness.queue.reclaim() == []
    new = harness.queue.session(Identity("w1", "newboot"))
    assert await new.register({}) > 50
    assert await new.register({}, dead_boot_id=old.identity.boot_id) == 0
    assert _decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert (await harness.start_one(new)).fence == 2


async def test_delivered_but_never_started_is_redelivered(harness):
    """An entry read but not started goes back to its lane, nothing counted, status unchanged."""
    session = await harness.worker()
    await harness.enqueue("a")
    created_at = (await harness.queue.get_job("a")).created_at
    await harness.enqueue("b")
    [entry] = harness.deliver("broken")
    assert await harness.queue.reclaim() == []
    harness.backdate_entry(harness.keys.stream_normal, entry)
    assert _decisions(await harness.queue.reclaim()) == [("a", "redelivered")]
    known = await harness.queue.get_job("a")
    assert (known.status, known.crashes, known.attempts) == (JobStatus.PENDING, 0, 0)
    assert known.created_at == created_at
    assert [job.id for job in (await session.start(5)).jobs] == ["b", "a"]
    assert harness.counters()["redelivered"] == 1
    assert "crashed" not in harness.counters()


async def test_redelivery_of_what_has_no_hash(harness):
    """Strangers' entries and jobs whose hash was deleted are redelivered as they are, and stay unknown."""
    session = await harness.worker()
    await harness.enqueue("unhashed")
    harness.redis.delete(harness.keys.job("unhashed"))
    harness.write_raw({"id": "unhashed:payload", "payload": "{}"})
    harness.write_raw({"foreign": "entry"})
    for entry in harness.deliver("broken", count=3):
        harness.backdate_entry(harness.keys.stream_normal, entry)
    assert [each.decision for each in await harness.queue.reclaim()] == ["redelivered"] * 3
    assert not harness.redis.exists(harness.keys.job("unhashed"))
    assert [job.id for job in (await session.start(5)).jobs] == ["unhashed"]
    assert harness.counters()["malformed"] == 2


async def test_running_job_whose_hash_was_lost_runs_again(harness):
    """Nobody can say who holds it, so after a lease it is delivered anew; the old attempt is refused."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    [entry] = [entry for entry, _ in harness.entries()]
    harness.redis.delete(harness.keys.job("a"))
    assert harness.renew(session, job).gone == {"a": "lost"}
    assert await harness.report(session, job, Completed(b"{}")) == "lost"
    harness.backdate_entry(harness.keys.stream_normal, entry)
    assert _decisions(await harness.queue.reclaim()) == [("a", "redelivered")]
    again = await harness.start_one(session)
    assert await harness.report(session, again, Completed(b"{}")) == "completed"


async def test_leftovers_are_dropped(harness):
    """Entries deleted under their consumer, and copies of jobs that ended or run, leave the pending list."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    copy = harness.write_raw({"id": "a", "payload": "{}"})
    assert (await session.start(1)).jobs == []
    missing = harness.write_raw({"id": "missing", "payload": "{}"})
    assert harness.deliver("broken") == [missing]
    harness.redis.xdel(harness.keys.stream_normal, missing)
    for entry in (copy, missing):
        harness.backdate_entry(harness.keys.stream_normal, entry)
    left = [
        row["message_id"] for row in harness.pending()
    ]  # some servers drop a missing by themselves
    taken = await harness.queue.reclaim()
    assert {each.decision for each in taken} == {"dropped"}
    assert len(taken) == len(left) - 1
    assert [row["message_id"] for row in harness.pending()] == [harness.fields("a")["entry"]]
    assert await harness.report(session, job, Completed(b"{}")) == "completed"


async def test_reclaim_walks_the_whole_list(harness):
    """Live jobs before it do not hide a dead one: not the first 100 entries, all of them."""
    session = await harness.worker("busy")
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(250)])
    jobs = [job for _ in range(3) for job in (await session.start(100)).jobs]
    assert len(jobs) == 250
    harness.backdate("j249")
    harness.backdate("j120")
    assert _decisions(await harness.queue.reclaim()) == [
        ("j120", "reclaimed"),
        ("j249", "reclaimed"),
    ]


async def test_dry_run_changes_nothing(harness):
    """It tells what would be taken, from whom and why, and leaves everything as it is."""
    await harness.enqueue("a")
    await harness.start_one(await harness.worker())
    harness.backdate("a")
    before = harness.fields("a"), harness.entries(), harness.counters(), harness.events()
    report = await reap_pass(harness.queue, REAPER, dry_run=True)
    assert _decisions(report.taken) == [("a", "reclaimed")]
    assert (harness.fields("a"), harness.entries(), harness.counters(), harness.events()) == before
    consumers = harness.redis.xinfo_consumers(harness.keys.stream_normal, GROUP)
    assert [each["name"] for each in consumers] == ["w1"]


async def test_silence_of_all_is_an_outage(harness):
    """When nobody was heard for half a lease, reclaim waits half a lease more, once, then goes on."""
    stage_lease = 800
    queue = harness.other_client(claim_idle_ms=stage_lease)
    await harness.enqueue("a")
    session = queue.session(Identity("w1"))
    await session.register({})
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 5)
    harness.backdate("a")
    assert await queue.reclaim() == []
    reclaim_after = harness.redis.hget(harness.keys.control, "reclaim_after")
    assert await queue.reclaim() == []
    assert harness.redis.hget(harness.keys.control, "reclaim_after") == reclaim_after
    assert await harness.queue.get_status("a") is JobStatus.PROCESSING

    async def taken():
        return _decisions(await queue.reclaim())

    assert await wait_until(taken, what="a fleet that never came back") == [("a", "reclaimed")]
    assert await harness.report(session, job, Completed(b"{}")) == "lost"


async def test_back_from_an_outage_a_worker_renews_first(harness):
    """Whoever returns within the grace keeps its jobs, and is charged nothing."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 10_000)
    harness.backdate("a")
    assert await harness.queue.reclaim() == []
    assert harness.renew(session, job).gone == {}
    harness.redis.hdel(harness.keys.control, "reclaim_after")
    assert await harness.queue.reclaim() == []
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    assert "crashed" not in harness.counters()


async def test_the_first_to_return_gives_grace_to_the_others(harness):
    """A worker's renewal after an outage, too, holds reclaim back until the others have renewed."""
    first, second = await harness.worker("w1"), await harness.worker("w2")
    await harness.enqueue("a")
    job = await harness.start_one(second)
    for name in ("w1", "w2"):
        harness.stop_heartbeat(name, 10_000)
    harness.backdate("a")
    assert harness.renew(first).state == "ok"
    assert await harness.queue.reclaim() == []
    assert harness.renew(second, job).gone == {}


async def test_a_new_worker_ends_no_grace(harness):
    """Whoever signs on first after an outage is no sign that the others had their chance to renew."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 10_000)
    harness.backdate("a")
    await harness.worker("newcomer")
    assert await harness.queue.reclaim() == []
    assert harness.renew(session, job).gone == {}


async def test_an_outage_that_follows_a_silence_has_its_grace(harness):
    """Silence was noticed before the server went away: its return is waited out all the same, once."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    await harness.start_one(session)
    harness.stop_heartbeat("w1", 40)
    assert await harness.queue.reclaim() == []
    harness.backdate("a")
    harness.redis.hincrbyfloat(harness.keys.control, "reclaim_after", -600_000)
    assert await harness.queue.reclaim() == []
    harness.redis.hincrbyfloat(harness.keys.control, "reclaim_after", -600_000)
    assert _decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]


async def test_a_clock_set_back_ends_a_grace(harness):
    """A grace noted under a clock that was days ahead does not hold reclaim back for days."""
    dead = await harness.worker("dead")
    await harness.enqueue("a")
    await harness.start_one(dead)
    harness.stop_heartbeat("dead", 10_000)
    assert await harness.queue.reclaim() == []
    for mark in ("graced_at", "reclaim_after"):
        harness.redis.hincrbyfloat(harness.keys.control, mark, 2 * 86_400_000)
    harness.redis.hset(harness.keys.control, "graces", 2)  # no further one
    harness.backdate("a")
    assert _decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert (await harness.queue.get_queue_stats())["reclaim_after"] is None


async def test_a_clock_set_back_hides_no_outage(harness):
    """The heartbeat of a worker that died under a clock days ahead does not pass for a sign of life."""
    await harness.worker("dead")
    harness.stop_heartbeat("dead", -2 * 86_400)
    live = await harness.worker("live")
    await harness.enqueue("a")
    job = await harness.start_one(live)
    harness.renew(live, job)
    for name in ("dead", "live"):
        harness.stop_heartbeat(name, 10_000)
    harness.backdate("a")
    assert await harness.queue.reclaim() == []


async def test_grace_does_not_hold_up_a_restarted_worker(harness):
    """That another boot has the worker's id proves the death, outage or not."""
    old, other = await harness.worker("w1"), await harness.worker("w2")
    await harness.enqueue("a")
    await harness.enqueue("b")
    await harness.start_one(old)
    kept = await harness.start_one(other)
    for name in ("w1", "w2"):
        harness.stop_heartbeat(name, 10_000)
    for name in ("a", "b"):
        harness.backdate(name)
    await harness.worker("w1")
    assert _decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert harness.renew(other, kept).gone == {}


async def test_grace_is_the_workers_not_the_caretakers(harness):
    """A cron pass with a short lease of its own gives returning workers no shorter grace."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.stop_heartbeat("w1", 10_000)
    harness.backdate("a")
    hasty = harness.other_client(claim_idle_ms=200)
    assert await hasty.reclaim() == []
    await asyncio.sleep(0.15)
    assert await hasty.reclaim() == []
    assert harness.renew(session, job).gone == {}


async def test_renew_keeps_leases_and_the_heartbeat(harness):
    """A renewal makes held entries fresh, in every lane, and shows what runs."""
    session = await harness.worker()
    for name, priority in (("h", 1), ("n", 0), ("l", -1)):
        await harness.enqueue(name, priority=priority)
    jobs = (await session.start(3)).jobs
    for job in jobs:
        harness.backdate(job.id, 59_000)
    renewal = harness.renew(session, *jobs)
    assert (renewal.state, renewal.gone) == ("ok", {})
    for priority in (1, 0, -1):
        [row] = harness.pending(priority)
        assert row["time_since_delivered"] < 50_000
        assert row["times_delivered"] == 1
    [worker] = (await harness.queue.get_queue_stats())["workers"]
    assert sorted(worker["running"]) == ["h", "l", "n"]
    assert await harness.queue.reclaim() == []


async def test_renew_never_steals_a_job_back(harness):
    """A worker that was frozen past its lease learns that its job is another's, which stays so."""
    frozen, successor = await harness.worker("frozen"), await harness.worker("successor")
    await harness.enqueue("a")
    job = await harness.start_one(frozen)
    harness.backdate("a")
    await harness.queue.reclaim("successor")
    again = await harness.start_one(successor)
    assert harness.renew(frozen, job).gone == {"a": "lost"}
    assert harness.pending()[0]["consumer"] == "successor"
    assert harness.renew(successor, again).gone == {}


async def test_renew_tells_of_a_cancel(harness):
    """The worker of a cancelled job is told so, not that it lost it."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await harness.queue.cancel("a")
    assert harness.renew(session, job).gone == {"a": "cancelled"}


async def test_renew_without_a_record_still_keeps_leases(harness):
    """A worker whose record was lost is told to sign on again, but loses no job meanwhile."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.redis.delete(harness.keys.worker("w1"), harness.keys.workers)
    harness.backdate("a", 59_000)
    renewal = harness.renew(session, job)
    assert (renewal.state, renewal.gone) == ("unregistered", {})
    assert harness.pending()[0]["time_since_delivered"] < 50_000


async def test_replaced_boot_learns_what_it_lost(harness):
    """A frozen worker whose id another boot took over is told of every job it no longer holds."""
    frozen = await harness.worker("w1")
    await harness.enqueue("a")
    job = await harness.start_one(frozen)
    successor = harness.queue.session(Identity("w1", "newboot"))
    await successor.register({}, dead_boot_id=frozen.identity.boot_id)
    await harness.queue.reclaim()
    renewal = harness.renew(frozen, job)
    assert (renewal.state, renewal.gone) == ("unregistered", {"a": "lost"})


async def test_jobs_of_a_newer_version_are_not_next(harness):
    """When the next job is due: those that only a newer version can run are left out."""
    for name, seconds in (("newer", 100), ("ours", 200)):
        await harness.enqueue(name, delay_seconds=seconds)
    harness.redis.hset(harness.keys.job("newer"), "schema", 99)
    assert 190 < (await harness.queue.promote()).next_due_seconds <= 200
    await harness.queue.cancel("ours")
    assert (await harness.queue.promote()).next_due_seconds is None


async def test_recover_hands_back_unheard_starts(harness):
    """A start whose answer was lost is undone: nothing charged. Known and others' jobs stay."""
    session, other = await harness.worker("w1"), await harness.worker("w2")
    for name in ("known", "unheard", "others"):
        await harness.enqueue(name)
    await session.start(2)
    await harness.start_one(other)
    assert await session.recover(["known"], min_idle_seconds=60) == []
    assert await session.recover(["known"], min_idle_seconds=0) == ["unheard"]
    job = await harness.queue.get_job("unheard")
    assert (job.status, job.attempts, job.payload) == (JobStatus.PENDING, 0, {"n": 1})
    again = await harness.start_one(session)
    assert (again.id, again.fence) == ("unheard", 2)


async def test_recover_looks_behind_many_known_jobs(harness):
    """However many jobs a worker runs, the unheard one is found."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(150)])
    await session.start(100)
    await session.start(100)
    known = [f"j{n:03}" for n in range(149)]
    assert await session.recover(known, min_idle_seconds=0) == ["j149"]


async def test_recover_takes_small_steps(harness, monkeypatch):
    """However many jobs a worker runs, or are to be handed back: at most a hundred in any call."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(300)])
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
    assert len(harness.pending()) == 150


async def test_purge_deletes_what_is_past_retention(harness):
    """All keys of jobs that ended long ago go; younger ones and living ones stay."""
    session = await harness.worker()
    for name, outcome in (
        ("old", Completed(b"{}")),
        ("dead", Failed("x")),
        ("new", Completed(b"{}")),
    ):
        await harness.enqueue(name)
        await harness.report(session, await harness.start_one(session), outcome)
    await harness.enqueue("old-cancelled")
    await harness.queue.cancel("old-cancelled")
    await harness.enqueue("alive", delay_seconds=9)
    harness.redis.zadd(harness.keys.completed, {"old": 1})
    harness.redis.zadd(harness.keys.failed, {"dead": 1})
    harness.redis.zadd(harness.keys.cancelled, {"old-cancelled": 1})
    dry = await purge_pass(harness.queue, dry_run=True)
    assert dry == await purge_pass(harness.queue)
    assert dry == {"cancelled": 1, "completed": 1, "failed": 1}
    for name in ("old", "dead", "old-cancelled"):
        assert not list(harness.redis.scan_iter(match=f"{harness.keys.job(name)}*"))
    assert await harness.queue.get_status("new") is JobStatus.COMPLETED
    assert await harness.queue.get_status("alive") is JobStatus.PENDING
    assert harness.counters()["purged"] == 3


async def test_purge_goes_by_batches(harness):
    """A long list is deleted in bounded steps; a younger age can be asked for."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n}") for n in range(230)])
    for job_id in [f"j{n}" for n in range(230)]:
        await harness.queue.cancel(job_id)
    assert await harness.queue.purge(JobStatus.CANCELLED) == (0, False)
    assert await harness.queue.purge(JobStatus.CANCELLED, older_than_seconds=-1) == (100, True)
    done = await purge_pass(harness.queue, older_than_seconds=-1)
    assert done[JobStatus.CANCELLED] == 130
    assert (await session.start(1)).jobs == []


async def test_purge_spares_a_job_that_lives_again(harness):
    """An index entry whose job has changed since is unlisted; the job stays."""
    await harness.enqueue("a")
    harness.redis.zadd(harness.keys.failed, {"a": 1})
    await harness.queue.purge(JobStatus.FAILED)
    assert await harness.queue.get_status("a") is JobStatus.PENDING
    assert harness.redis.zcard(harness.keys.failed) == 0


async def test_worker_ids_are_held_by_one_boot(harness):
    """An id whose other boot is alive is refused, with the time to wait; a silent one is taken over."""
    session = await harness.worker("w1")
    assert await session.register({}) == 0
    other_worker = harness.queue.session(Identity("w1", "other_worker"))
    assert 50 < await other_worker.register({}) <= 60
    assert (await other_worker.current_boot())["boot_id"] == session.identity.boot_id
    harness.stop_heartbeat("w1", 61)
    assert await other_worker.register({"pid": "7"}) == 0
    record = await session.current_boot()
    assert (record["boot_id"], record["pid"], "host" in record) == ("other_worker", "7", False)


async def test_a_clock_set_back_locks_no_worker_out(harness):
    """A heartbeat from the future holds a worker's id for one lease more, not until then."""
    await harness.worker("w1")
    harness.stop_heartbeat("w1", -2 * 86_400)
    other_worker = harness.queue.session(Identity("w1", "other_worker"))
    assert 50 < await other_worker.register({}) <= 60
    harness.stop_heartbeat("w1", 61)
    assert await other_worker.register({}) == 0


async def test_sign_off_leaves_nothing(harness):
    """A worker that has handed everything back leaves neither record, heartbeat nor consumer."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    await harness.report(session, await harness.start_one(session), Completed(b"{}"))
    await session.unregister()
    assert (await harness.queue.get_queue_stats())["workers"] == []
    assert harness.redis.xinfo_consumers(harness.keys.stream_normal, GROUP) == []
    assert not harness.redis.exists(harness.keys.worker("w1"))


async def test_sign_off_with_jobs_keeps_the_consumer(harness):
    """A worker that goes with jobs in hand leaves its consumer; its next boot need not wait for them."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    await harness.start_one(session)
    await session.unregister()
    assert harness.pending()[0]["consumer"] == "w1"
    successor = await harness.worker("w1")
    assert _decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert (await harness.start_one(successor)).id == "a"


async def test_consumers_of_the_dead_are_forgotten(harness):
    """Empty consumers of workers long silent, and the reaper's own, are deleted; others never."""
    for name in ("alive", "dead", "busy"):
        session = await harness.worker(name)
        await harness.enqueue(f"for-{name}")
        job = await harness.start_one(session)
        if name != "busy":
            await harness.report(session, job, Completed(b"{}"))
    harness.stop_heartbeat("dead", 200)
    harness.stop_heartbeat("busy", 200)
    await harness.queue.forget_dead_workers()

    def names():
        return {c["name"] for c in harness.redis.xinfo_consumers(harness.keys.stream_normal, GROUP)}

    assert names() == {"alive", "busy"}
    harness.backdate("for-busy")
    report = await reap_pass(harness.queue, REAPER)
    assert _decisions(report.taken) == [("for-busy", "reclaimed")]
    assert names() == {"alive"}
    workers = (await harness.queue.get_queue_stats())["workers"]
    assert [worker["worker_id"] for worker in workers] == ["alive"]


async def test_a_hasty_caretaker_forgets_no_live_worker(harness):
    """How long a worker may be silent depends on its own lease, not on a cron pass's setting."""
    await harness.worker("alive")
    harness.stop_heartbeat("alive", 15)
    await harness.other_client(claim_idle_ms=200).forget_dead_workers()
    assert harness.redis.exists(harness.keys.worker("alive"))
    assert harness.redis.zcard(harness.keys.workers) == 1


async def test_one_cron_pass_at_a_time(harness):
    """A second pass finds the lock; it is given back at the end, and after a failure."""
    async with harness.queue.single_flight(60) as first, harness.queue.single_flight(60) as second:
        assert (first, second) == (True, False)
    with pytest.raises(RuntimeError):
        async with harness.queue.single_flight(60):
            raise RuntimeError("the pass broke")
    counted = harness.counters()["last_reap_at"]
    async with harness.queue.single_flight(60) as third:
        assert third
    assert harness.counters()["last_reap_at"] >= counted


async def test_lock_of_a_killed_pass_expires(harness):
    """A pass that was killed blocks the next one no longer than its lock lives."""
    killed = harness.queue.single_flight(0.05)
    assert await killed.__aenter__()

    async def free():
        async with harness.queue.single_flight(60) as ours:
            return ours

    await wait_until(free, what="the lock to expire")
    await killed.__aexit__(None, None, None)
