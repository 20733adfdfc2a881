"""reclaim.lua: jobs of dead workers run again, or become dead letters after too many crashes."""

import asyncio

from support.queue_harness import decisions

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Failed, Identity, Released, Retry
from aragora_q.maintenance import reap_pass
from aragora_q.redis.keys import GROUP
from aragora_q.streams.queue import REAPER


async def test_reclaim_counts_a_crash_not_an_attempt(harness):
    """A dead worker's job is RETRYING at the end of its lane, without backoff; its crash is recorded."""
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
    assert again.fence > job.fence
    assert (again.attempts, again.crashes) == (1, 1)
    for outcome in (Completed(b"{}"), Retry("x", 0), Failed("x"), Released()):
        assert await harness.report(dead, job, outcome) == "lost"
    assert await harness.report(alive, again, Completed(b'{"by":"alive"}')) == "completed"
    assert await harness.report(dead, job, Completed(b'{"by":"dead"}')) == "lost"
    assert (await harness.queue.get_job("a")).result == {"by": "alive"}
    assert harness.counters()["crashed"] == harness.counters()["reclaimed"] == 1


async def test_late_report_between_reclaim_and_start_is_refused(harness):
    """A report after the job was reclaimed is not mistaken for a repeated one."""
    dead = await harness.worker("dead")
    await harness.enqueue("a")
    job = await harness.start_one(dead)
    harness.backdate("a")
    await harness.queue.reclaim()
    for outcome in (Completed(b"{}"), Retry("x", 0), Failed("x"), Released()):
        assert await harness.report(dead, job, outcome) == "lost"
    assert await harness.queue.get_status("a") is JobStatus.RETRYING


async def test_poison_pill_fails(harness):
    """A job on which three workers died becomes a dead letter that names them."""
    await harness.worker("pulse")
    await harness.enqueue("a")
    for n, decision in enumerate(("reclaimed", "reclaimed", "poisoned")):
        await harness.start_one(await harness.worker(f"victim{n}"))
        harness.backdate("a")
        assert decisions(await harness.queue.reclaim()) == [("a", decision)]
    known = await harness.queue.get_job("a")
    assert (known.status, known.crashes, known.payload) == (JobStatus.FAILED, 3, {"n": 1})
    told = " ".join(line["error"] for line in await harness.queue.tracker.history("a"))
    assert all(f"victim{n}" in told for n in range(3))
    assert harness.counters()["failed"] == 1


async def test_the_jobs_own_lease_decides(harness):
    """The caller's lease neither shortens nor lengthens the lease of a running job."""
    await harness.enqueue("long")
    await harness.start_one(await harness.worker("w1", lease_seconds=1000))
    await harness.enqueue("short")
    await harness.start_one(await harness.worker("w2", lease_seconds=60))
    harness.backdate("long", 500_000)
    harness.backdate("short", 65_000)
    assert decisions(await harness.other_client(claim_idle_ms=200).reclaim()) == [
        ("short", "reclaimed")
    ]
    harness.backdate("long", 1_000_001)
    slow = harness.other_client(claim_idle_ms=86_400_000)
    assert decisions(await slow.reclaim()) == [("long", "reclaimed")]


async def test_restarted_worker_needs_no_lease(harness):
    """Jobs of an earlier instance are reclaimed as soon as its worker id registers again."""
    old = await harness.worker("w1")
    await harness.enqueue("a")
    job = await harness.start_one(old)
    assert await harness.queue.reclaim() == []
    new = harness.queue.session(Identity("w1", "newboot"))
    assert await new.register({}) > 50
    assert await new.register({}, dead_instance_id=old.identity.instance_id) == 0
    assert decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]
    assert (await harness.start_one(new)).fence > job.fence


async def test_delivered_but_never_started_is_redelivered(harness):
    """An entry that was read but not started returns to its lane; nothing is counted."""
    session = await harness.worker()
    await harness.enqueue("a")
    created_at = (await harness.queue.get_job("a")).created_at
    await harness.enqueue("b")
    [entry] = harness.deliver("broken")
    assert await harness.queue.reclaim() == []
    harness.backdate_entry(harness.keys.stream_normal, entry)
    assert decisions(await harness.queue.reclaim()) == [("a", "redelivered")]
    known = await harness.queue.get_job("a")
    assert (known.status, known.crashes, known.attempts) == (JobStatus.PENDING, 0, 0)
    assert known.created_at == created_at
    assert [job.id for job in (await session.start(5)).jobs] == ["b", "a"]
    assert harness.counters()["redelivered"] == 1
    assert "crashed" not in harness.counters()


async def test_redelivery_of_what_has_no_hash(harness):
    """Jobs without a hash are redelivered unchanged; what is not a job becomes a dead letter."""
    session = await harness.worker()
    await harness.enqueue("unhashed")
    harness.redis.delete(harness.keys.job("unhashed"))
    harness.write_raw({"id": "unhashed:payload", "payload": "{}"})
    harness.write_raw({"foreign": "entry"})
    for entry in harness.deliver("broken", count=3):
        harness.backdate_entry(harness.keys.stream_normal, entry)
    taken = await harness.queue.reclaim()
    assert [each.decision for each in taken] == ["redelivered", "malformed", "malformed"]
    assert not harness.redis.exists(harness.keys.job("unhashed"))
    for each in taken[1:]:
        dead_letter = await harness.queue.get_job(each.id)
        assert dead_letter.status is JobStatus.FAILED
        assert "is not a job" in dead_letter.error
    assert [job.id for job in (await session.start(5)).jobs] == ["unhashed"]
    assert harness.counters()["malformed"] == 2


async def test_running_job_whose_hash_was_lost_runs_again(harness):
    """Its lease owner is unknown, so it is redelivered after a lease; the old attempt is refused."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    [entry] = [entry for entry, _ in harness.entries()]
    harness.redis.delete(harness.keys.job("a"))
    assert (await harness.renew(session, job)).lost == {"a": "lost"}
    assert await harness.report(session, job, Completed(b"{}")) == "lost"
    harness.backdate_entry(harness.keys.stream_normal, entry)
    assert decisions(await harness.queue.reclaim()) == [("a", "redelivered")]
    again = await harness.start_one(session)
    assert await harness.report(session, again, Completed(b"{}")) == "completed"


async def test_leftovers_are_dropped(harness):
    """Entries deleted under their consumer, and copies of ended or running jobs, leave the pending list."""
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
    """Many live jobs before it do not hide a dead one."""
    session = await harness.worker("busy")
    await harness.queue.enqueue_many([Job(payload={}, id=f"j{n:03}") for n in range(250)])
    jobs = [job for _ in range(3) for job in (await session.start(100)).jobs]
    assert len(jobs) == 250
    harness.backdate("j249")
    harness.backdate("j120")
    assert decisions(await harness.queue.reclaim()) == [
        ("j120", "reclaimed"),
        ("j249", "reclaimed"),
    ]


async def test_dry_run_changes_nothing(harness):
    """It returns what would be reclaimed, from which worker and why."""
    await harness.enqueue("a")
    await harness.start_one(await harness.worker())
    harness.backdate("a")
    before = harness.fields("a"), harness.entries(), harness.counters(), harness.events()
    report = await reap_pass(harness.queue, REAPER, dry_run=True)
    assert decisions(report.reclaimed) == [("a", "reclaimed")]
    assert (harness.fields("a"), harness.entries(), harness.counters(), harness.events()) == before
    consumers = harness.redis.xinfo_consumers(harness.keys.stream_normal, GROUP)
    assert [each["name"] for each in consumers] == ["w1"]


async def test_live_worker_that_lost_track_of_a_job_is_no_crash(harness):
    """A lease that a live worker does not renew is handed on uncharged, a bounded number of times."""
    session = await harness.worker("w1")
    await harness.enqueue("a", max_attempts=1)
    for taken in ["redelivered"] * 3 + ["reclaimed"]:
        await harness.start_one(session)
        harness.backdate("a")
        await asyncio.sleep(0.002)
        await harness.renew(session)  # the heartbeat of a worker that does not know the job
        assert decisions(await harness.queue.reclaim()) == [("a", taken)]
    job = await harness.queue.get_job("a")
    assert (job.attempts, job.crashes) == (0, 1)
