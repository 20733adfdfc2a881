"""The queue against the model: both agree after every step, whatever the order of operations.

Hypothesis chooses the order, the same in every run (derandomize). Operations are the queue's own
methods; idle times and due times are set in Redis as if hours had passed.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import invariants
from support.model import AUTOMATIC, LANES, LIVE, Model, Then
from support.queue_harness import QueueHarness

from aragora_q.base import HOLD_CAUSES, Job, JobStatus
from aragora_q.contracts import (
    ClaimRequest,
    Completed,
    Failed,
    Held,
    Identity,
    PurgeResult,
    Released,
    Report,
    Retry,
    Settled,
)
from aragora_q.errors import GroupSealed, JobNotFound
from aragora_q.redis.keys import MAX_SENT

pytestmark = pytest.mark.slow

WORKERS = ("w1", "w2")
PRIORITIES = {"high": 3, "normal": 0, "low": -3}
GROUPS = ("g0", "g1", "g2")
LANE_OF_THEN = dict(zip(GROUPS, LANES, strict=True))
"""One lane each: of two groups that end in one call, the queue may enqueue either `then` first."""

LEASE_MS = 60_000
HOOKS = {"hook": {"url": "https://hooks.example.com", "secret_file": "hook"}}
OUTCOMES = {
    "complete": Completed(b'{"done":true}'),
    "retry": Retry("told to", 9000.0),
    "later": Retry("told to", 9000.0, charged=False),
    "gated": Retry("told to", 9000.0, charged=False, is_gated=True),
    "suspend": Held("budget", "told to"),
    "fail": Failed("told to"),
    "fail_partly": Failed("told to", b'{"partial":true}'),
    "release": Released(),
}

RESULTS = {"whole": '"done":true}', "partial": '{"partial":true}'}
"""How the key of a result ends."""

outcomes = st.sampled_from(sorted(OUTCOMES))
workers = st.sampled_from(WORKERS)
groups = st.sampled_from(GROUPS)
anyone = st.integers(0, 1000)

seen = Counter()
"""What is rare, and how often it came up in all runs together."""


@dataclass(frozen=True)
class Handle:
    """An attempt as its worker knows it."""

    job: Job
    lease_owner: str
    worker: str


class QueueMachine(RuleBasedStateMachine):
    """One queue, two worker ids, and everything that can happen to a job."""

    redis_url = ""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.harness = QueueHarness(self.redis_url, claim_idle_ms=LEASE_MS, webhooks=HOOKS)
        self.harness.redis.flushdb()
        self.model = Model()
        self.sessions = {}
        self.handles = []
        self.fences = {}
        self.purged = []
        self.next_id = self.next_due = self.next_then = 0

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self):
        self.run(self.harness.close())
        self.loop.close()
        seen["then enqueued"] += self.model.thens

    @initialize(worker=workers, is_doomed=st.booleans(), group=groups)
    def sign_on(self, worker, is_doomed, group):
        for each in WORKERS:
            self._sign_on(each)
        for lane in LANES:
            self.enqueue(lane=lane, max_attempts=3, delayed=False, group=group)
        for each in WORKERS:
            self.start(worker=each, limit=2, first_lane="high")
        if is_doomed:  # else what is rare would be left to luck
            self.seal(group=group, has_then=True, delayed=False)
            self.a_job_kills_every_worker_that_starts_it(number=0, worker=worker)
        else:
            self._report(self._leased()[0], "suspend")
            self.what_may_be_freed_is_freed()
            self.hold(number=0)
            self.hold(number=1)
            self.unhold(number=0)

    def _sign_on(self, worker):
        session = self.harness.queue.session(Identity(worker))
        before = self.sessions.get(worker)
        dead = before.identity.instance_id if before else ""
        assert self.run(session.register({"host": "h"}, dead_instance_id=dead)) == 0
        self.sessions[worker] = session
        self.model.boots[worker] = session.identity.lease_owner

    def _pick(self, jobs, number):
        return jobs[number % len(jobs)]

    @rule(
        lane=st.sampled_from(LANES),
        max_attempts=st.integers(1, 3),
        delayed=st.booleans(),
        reuses_id=st.booleans(),
        group=st.sampled_from((None, *GROUPS)),
        reports=st.booleans(),
    )
    def enqueue(self, lane, max_attempts, delayed, reuses_id=False, group=None, reports=True):
        """A new job; perhaps in a group; perhaps with the id of a purged job, whose attempts may still run."""
        if reuses_id and self.purged:
            job_id = self.purged.pop()
            seen["id reused"] += 1
        else:
            job_id, self.next_id = f"j{self.next_id}", self.next_id + 1
        job = Job(
            payload={"id": job_id},
            id=job_id,
            priority=PRIORITIES[lane],
            max_attempts=max_attempts,
            delay_seconds=9000.0 if delayed else 0.0,
            group=group,
            tenant="t" if group else None,
            tags={"lane": lane} if delayed else {},
            notify=tuple(HOOKS) if reports else (),
        )
        if not self.model.takes_jobs(group):
            with pytest.raises(GroupSealed):
                self.run(self.harness.queue.enqueue(job))
            self.purged.append(job_id)
            return
        [answer] = self.run(self.harness.queue.enqueue_many([job]))
        assert answer.created
        self.model.enqueue(
            job_id, lane, max_attempts, delayed=delayed, group=group, reports=reports
        )

    def _seal(self, group, then):
        job = then and Job(
            payload={"then": group},
            id=then.id,
            priority=PRIORITIES[then.lane],
            max_attempts=then.max_attempts,
            delay_seconds=9000.0 if then.delayed else 0.0,
            tenant="t",
            notify=tuple(HOOKS) if then.reports else (),
        )
        before = self.model.thens
        answer = self.model.seal(group, then)
        if answer is None:
            with pytest.raises(GroupSealed):
                self.run(self.harness.queue.seal_group(group, job))
        else:
            assert self.run(self.harness.queue.seal_group(group, job)) == answer
        seen["then enqueued by seal"] += self.model.thens - before

    @precondition(lambda self: self.model.groups)
    @rule(group=groups, has_then=st.booleans(), delayed=st.booleans())
    def seal(self, group, has_then, delayed):
        """Once, and again: with what it was sealed with, and with another `then`."""
        if group not in self.model.groups:
            return
        self.next_then += 1
        then = None
        if has_then:
            lane, number = LANE_OF_THEN[group], self.next_then
            then = Then(f"then{number}", lane, 2, delayed, reports=number % 2 == 0)
        self._seal(group, then)
        self._seal(group, self.model.groups[group].then)

    @precondition(lambda self: self.model.groups)
    @rule(group=groups, is_whole=st.booleans())
    def cancel_a_group(self, group, is_whole):
        """As a whole, with `then`; or its jobs, after which `then` is enqueued."""
        if group not in self.model.groups:
            return
        if is_whole:
            retention_ms = self.harness.config.retention_ms
            marking = self.harness.queue.connection.run(
                "cancel_group", group=group, retention_ms=retention_ms, by="", reason=""
            )
            assert self.run(marking) == b"marked" or self.model.has_ended(group)
            self.model.cancel_group(group)
            seen["then cancelled"] += self.model.groups[group].then_status == "cancelled"
        else:
            self.model.cancel_members(group)
        members = self.harness.redis.zrange(self.harness.keys.members(f"group:{group}"), 0, -1)
        self.run(self.harness.queue.cancel_many(members))

    @precondition(lambda self: self.model.groups)
    @rule(group=groups, is_sealed_first=st.booleans())
    def a_group_ends_reopens_and_ends_again(self, group, is_sealed_first):
        """Its jobs are cancelled, requeued and cancelled: `then` is enqueued by the first end only."""
        if group not in self.model.groups:
            return
        if is_sealed_first:
            self.seal(group=group, has_then=True, delayed=False)
        self.cancel_a_group(group=group, is_whole=False)
        self.seal(group=group, has_then=True, delayed=False)
        thens = self.model.thens
        for job in self.model.members(group):
            assert self.run(self.harness.queue.requeue([job.id])) == [self.model.requeue(job.id)]
        self.groups_agree()
        seen["group reopened"] += not self.model.has_ended(group)
        self.cancel_a_group(group=group, is_whole=False)
        assert self.model.thens == thens

    @precondition(lambda self: self.model.jobs)
    @rule(number=anyone)
    def enqueue_again(self, number):
        job_id = self._pick(sorted(self.model.jobs), number)
        [answer] = self.run(
            self.harness.queue.enqueue_many([Job(payload={"again": 1}, id=job_id, priority=9)])
        )
        assert not answer.created

    @precondition(lambda self: any(job.due == 0 for job in self.model.jobs.values()))
    @rule(number=anyone)
    def time_passes_until_due(self, number):
        job = self._pick([job for job in self.model.jobs.values() if job.due == 0], number)
        self.next_due += 1
        job.due = self.next_due
        self.harness.redis.zadd(self.harness.keys.delayed, {job.id: job.due})

    @precondition(lambda self: any(job.due == 0 for job in self.model.jobs.values()))
    @rule()
    def all_that_wait_fall_due(self):
        for _ in range(sum(job.due == 0 for job in self.model.jobs.values())):
            self.time_passes_until_due(number=0)
        self.promote()

    @rule()
    def promote(self):
        due = sum(bool(job.due) for job in self.model.jobs.values())
        assert self.run(self.harness.queue.promote()).promoted == due
        self.model.promote()

    @rule(worker=workers, limit=st.integers(1, 4), first_lane=st.sampled_from(LANES))
    def start(self, worker, limit, first_lane):
        session = self.sessions[worker]
        fetched = self.run(session.start(limit, first_lane=first_lane))
        waited = {job.id for job in self.model.jobs.values() if job.due == 0}
        lease_owner = session.identity.lease_owner
        state, expected = self.model.start(lease_owner, limit, first_lane=first_lane)
        assert fetched.state == state
        for job in self.model.jobs.values():
            if job.due == 0 and job.id not in waited:  # it stands aside, in truth for a second
                self.harness.redis.zadd(self.harness.keys.delayed, {job.id: 9e13})
                seen["aside"] += 1
        got = [(job.id, job.attempts, job.crashes, job.group) for job in fetched.jobs]
        assert got == [(job.id, job.attempts, job.crashes, job.group) for job in expected]
        for job, known in zip(fetched.jobs, expected, strict=True):
            known.fence = job.fence
            assert job.fence > self.fences.get(job.id, 0), "fences only rise"
            self.fences[job.id] = job.fence
            self.handles.append(Handle(job, session.identity.lease_owner, worker))

    def _leased(self):
        return [
            handle for handle in self.handles
            if (job := self.model.jobs.get(handle.job.id)) and job.status == "processing"
            and (job.lease_owner, job.fence) == (handle.lease_owner, handle.job.fence)
        ]  # fmt: skip

    @precondition(lambda self: self._leased())
    @rule(number=anyone, outcome=outcomes)
    def report_of_the_owner(self, number, outcome):
        self._report(self._pick(self._leased(), number), outcome)

    @precondition(lambda self: self.handles)
    @rule(number=anyone, outcome=outcomes)
    def report_of_anyone(self, number, outcome):
        """A report from any earlier attempt: current, lost, or already reported."""
        self._report(self._pick(self.handles, number), outcome)

    @precondition(lambda self: self._leased())
    @rule(number=anyone, outcome=outcomes)
    def report_whose_answer_is_lost(self, number, outcome):
        """Reported twice: the second result equals the first, and nothing happens twice."""
        handle = self._pick(self._leased(), number)
        assert self._report(handle, outcome) == self._report(handle, outcome)

    def _report(self, handle, outcome):
        session = self.harness.queue.session(Identity(*handle.lease_owner.split("@")))
        [verdict] = self.run(session.report([Report(handle.job, OUTCOMES[outcome])]))
        job = handle.job
        assert verdict == self.model.report(job.id, handle.lease_owner, job.fence, outcome)
        return verdict

    @precondition(lambda self: self.model.waiting())
    @rule(worker=workers, lane=st.sampled_from(LANES))
    def delivery_breaks_off(self, worker, lane):
        """An entry is read, but not started."""
        waiting = [job for job in self.model.waiting() if job.lane == lane]
        read = self.harness.deliver(worker, PRIORITIES[lane])
        assert len(read) == min(1, len(waiting))
        for job in waiting[:1]:
            job.is_delivered = True

    @precondition(lambda self: any(job.is_delivered for job in self.model.jobs.values()))
    @rule(number=anyone)
    def a_lease_runs_out(self, number):
        job = self._pick([job for job in self.model.jobs.values() if job.is_delivered], number)
        self.harness.backdate(job.id)
        job.is_silent = True

    @precondition(lambda self: self._leased())
    @rule(number=anyone)
    def a_worker_dies_over_a_job(self, number):
        job_id = self._pick(self._leased(), number).job.id
        self.harness.backdate(job_id)
        self.model.jobs[job_id].is_silent = True
        self.reclaim()

    @precondition(lambda self: self._leased())
    @rule(number=anyone, worker=workers)
    def a_job_kills_every_worker_that_starts_it(self, number, worker):
        """Until it is a dead letter or delayed; all jobs that run beside it crash with it."""
        job = self.model.jobs[self._pick(self._leased(), number).job.id]
        while job.status == "processing":
            for each in self.model.leased_by(job.lease_owner):
                self.harness.backdate(each.id)
                each.is_silent = True
            self.reclaim()
            while job.status == "retrying" and self.model.waiting():
                self.start(worker=worker, limit=4, first_lane="high")

    @rule(worker=workers)
    def a_worker_dies_and_comes_back(self, worker):
        self._sign_on(worker)

    @rule(worker=workers)
    def a_worker_stops_politely_and_comes_back(self, worker):
        """It releases all that it runs, whatever the jobs do: no crash is counted, then or later."""
        session = self.sessions[worker]
        lease_owner = session.identity.lease_owner
        leased = [handle.job for handle in self._leased() if handle.lease_owner == lease_owner]
        results = self.run(session.report([Report(job, Released()) for job in leased]))
        assert results == [
            self.model.report(job.id, lease_owner, job.fence, "release") for job in leased
        ]
        assert set(results) <= {"released", "held"}
        self.recover(worker=worker, keep=False)
        self.run(session.unregister())
        self._sign_on(worker)
        seen["released at stop"] += len(leased)

    @rule()
    def reclaim(self):
        taken = self.run(self.harness.queue.reclaim())
        decided = [(each.id, each.decision) for each in taken]
        assert decided == self.model.reclaim()
        seen.update(decision for _, decision in decided)

    @rule(worker=workers, keep=st.booleans())
    def recover(self, worker, keep):
        session = self.sessions[worker]
        leased = self.model.leased_by(session.identity.lease_owner)
        known = [job.id for job in leased[::2]] if keep else []
        returned = self.run(
            session.release_orphans(lambda lease: lease[0] in known, min_idle_seconds=0)
        )
        assert returned == self.model.recover(session.identity.lease_owner, known)

    @rule(worker=workers)
    def renew(self, worker):
        session = self.sessions[worker]
        lease_owner = session.identity.lease_owner
        handles = {h.job.id: h for h in self.handles if h.lease_owner == lease_owner}
        renewal = self.run(
            self.harness.renew(session, *(handle.job for handle in handles.values()))
        )
        assert renewal.state == ("paused" if self.model.is_paused else "ok")
        gone = {}
        for job_id, handle in handles.items():
            job = self.model.jobs.get(job_id)
            if job and (job.status, job.lease_owner, job.fence) == (
                "processing",
                lease_owner,
                handle.job.fence,
            ):
                job.is_silent = False
            else:
                gone[job_id] = "cancelled" if job and job.status == "cancelled" else "lost"
        assert renewal.lost == gone

    @rule(worker=workers)
    def renew_while_a_reply_is_under_way(self, worker):
        """The keeper of a worker that is starting jobs renews also leases that it does not know of."""
        session = self.sessions[worker]
        lease_owner = session.identity.lease_owner

        async def renew():
            renewer = session.lease_renewer()
            try:
                return await renewer.renew([], starting_seconds=3600)
            finally:
                await renewer.close()

        leased = self.model.leased_by(lease_owner)
        for job in leased[:1]:
            self.harness.backdate(job.id)
        assert self.run(renew()).lost == {}
        seen["renewed unknown"] += len(leased)
        for job in leased:
            job.is_silent = False

    @precondition(lambda self: self.model.jobs)
    @rule(number=anyone)
    def cancel(self, number):
        job_id = self._pick(sorted(self.model.jobs), number)
        assert self.run(self.harness.queue.cancel(job_id)) == self.model.cancel(job_id)

    @precondition(lambda self: self.model.jobs)
    @rule(number=anyone)
    def hold(self, number):
        """A person holds a job, in any state; a running one is held when its attempt ends."""
        job_id = self._pick(sorted(self.model.jobs), number)
        answer = self.model.hold(job_id)
        assert self.run(self.harness.queue.hold_many([job_id])) == [answer]
        seen[answer] += 1

    @precondition(lambda self: self.model.jobs)
    @rule(number=anyone)
    def unhold(self, number):
        job_id = self._pick(sorted(self.model.jobs), number)
        answer = self.model.unhold(job_id, HOLD_CAUSES)
        assert self.run(self.harness.queue.unhold_many([job_id])) == [answer]
        seen[answer] += 1

    @precondition(lambda self: self._leased())
    @rule(number=anyone, outcome=outcomes)
    def an_attempt_ends_after_a_hold_was_asked(self, number, outcome):
        handle = self._pick(self._leased(), number)
        self.hold(number=sorted(self.model.jobs).index(handle.job.id))
        self._report(handle, outcome)

    @precondition(lambda self: self._leased())
    @rule(number=anyone)
    def a_worker_dies_after_a_hold_was_asked(self, number):
        job_id = self._pick(self._leased(), number).job.id
        self.hold(number=sorted(self.model.jobs).index(job_id))
        self.a_worker_dies_over_a_job(number=number)

    @rule()
    def what_may_be_freed_is_freed(self):
        """All jobs that only a machine holds, and no others, are listed and freed."""
        causes = tuple(AUTOMATIC)
        page = self.run(self.harness.queue.list_held(causes))
        found = [job.id for job in page.jobs]
        assert (set(found), page.after) == (
            {
                job.id
                for job in self.model.jobs.values()
                if job.status == "held" and job.hold in AUTOMATIC
            },
            "",
        )
        answers = [self.model.unhold(job_id, AUTOMATIC) for job_id in found]
        assert self.run(self.harness.queue.unhold_many(found, causes)) == answers
        assert set(answers) <= {"unheld"}
        seen["freed"] += len(found)

    @precondition(lambda self: self._leased())
    @rule(number=anyone, worker=workers, outcome=outcomes)
    def a_running_job_is_replaced_by_another_of_its_id(self, number, worker, outcome):
        """Cancelled, purged, enqueued again and started: the old attempt can neither renew nor report."""
        old = self._pick(self._leased(), number)
        self.run(self.harness.queue.cancel(old.job.id))
        self.model.cancel(old.job.id)
        self.purge(status="cancelled")
        self.purged.sort(key=lambda job_id: job_id == old.job.id)
        self.enqueue(lane="high", max_attempts=3, delayed=False, reuses_id=True)
        self.start(worker=worker, limit=4, first_lane="high")
        assert self._report(old, outcome) == "lost"
        for each in WORKERS:
            self.renew(worker=each)

    @precondition(lambda self: self.model.jobs)
    @rule(number=anyone)
    def requeue(self, number):
        job_id = self._pick(sorted(self.model.jobs), number)
        seen["requeued with a partial result"] += self.model.jobs[job_id].result == "partial"
        assert self.run(self.harness.queue.requeue([job_id])) == [self.model.requeue(job_id)]

    @precondition(lambda self: self._leased())
    @rule(number=anyone)
    def partial_results_end_with_their_jobs(self, number):
        """A job fails with one and is requeued; another one, if there is any, is purged."""
        first = self._pick(self._leased(), number)
        assert self._report(first, "fail_partly") == "failed"
        self.requeue(number=sorted(self.model.jobs).index(first.job.id))
        for other in self._leased()[:1]:
            assert self._report(other, "fail_partly") == "failed"
            self.purge(status="failed")

    @rule(status=st.sampled_from(["completed", "failed", "cancelled"]))
    def purge(self, status):
        purged = self.run(self.harness.queue.purge(JobStatus(status), older_than_seconds=-1000))
        seen["purged with a partial result"] += sum(
            job.result == "partial" for job in self.model.jobs.values() if job.status == status
        )
        gone = self.model.purge(status)
        assert purged == PurgeResult(len(gone), has_more=False)
        self.purged += gone

    @rule()
    def caretakers_find_nothing_to_do(self):
        self.run(self.harness.queue.remove_dead_workers())
        assert self.run(self.harness.queue.tracker.worker_ids()) == set(WORKERS)
        with pytest.raises(JobNotFound):
            self.run(self.harness.queue.cancel("nobody"))

    @precondition(lambda self: self.model.messages.total() > self.model.delivered)
    @rule(limit=st.integers(1, 10), answer=st.sampled_from(["ok", "ok", "retry"]))
    def messages_are_delivered(self, limit, answer):
        """Some that wait, in one attempt; after a failed one, a single one at a time."""
        outbox = self.harness.queue.outbox
        claimed = self.run(outbox.claim([ClaimRequest("hook", limit, 60.0)])).deliveries
        waiting = self.model.messages.total() - self.model.delivered
        assert len(claimed) == min(1 if self.model.has_failed else limit, waiting)
        settled = [Settled(each, answer, "from the target") for each in claimed]
        results = self.run(outbox.settle(settled))
        assert set(results) == {"delivered" if answer == "ok" else "waiting"}
        assert self.run(outbox.settle(settled)) == ["settled"] * len(claimed)
        self.model.has_failed = answer == "retry"
        self.model.delivered += len(claimed) if answer == "ok" else 0
        seen[f"message {results[0]}"] += len(claimed)

    @rule(worker=workers)
    def pause(self, worker):
        """Nothing starts while the queue is paused; running jobs go on."""
        assert self.run(self.harness.queue.pause())
        self.model.is_paused = True
        self.start(worker=worker, limit=4, first_lane="high")
        self.renew(worker=worker)
        assert self.run(self.harness.queue.pause(paused=False))
        self.model.is_paused = False

    @invariant()
    def what_lies_in_redis_agrees_with_itself(self):
        invariants.check(self.harness.redis, self.harness.keys.queue_prefix)

    @invariant()
    def the_model_agrees(self):
        for job in self.model.jobs.values():
            found = self.harness.fields(job.id)
            if found.get("status") == "completed":
                found.setdefault("attempts", "1")  # a first attempt is not said to be one
            shown = tuple(int(found.get(name, 0)) for name in ("attempts", "crashes", "fence"))
            assert (found.get("status"), *shown) == (
                job.status, job.attempts, job.crashes, job.fence,
            ), job  # fmt: skip
            assert job.attempts <= job.max_attempts
            assert found.get("hold_cause") == job.hold, job
        for lane in LANES:
            entries = [fields["id"] for _, fields in self.harness.entries(PRIORITIES[lane])]
            assert entries == self.model.lanes[lane]
        assert self.harness.counters().get("completed", 0) == self.model.completions

    @invariant()
    def groups_agree(self):
        """Also: `then` is enqueued as often as the model says, for it counts among the jobs enqueued."""
        names = self.harness.redis.zrange(self.harness.keys.groups, 0, -1)
        assert set(names) == set(self.model.groups)
        for name, group in self.model.groups.items():
            found = self.harness.redis.hgetall(self.harness.keys.group(name))
            shown = ("sealed_at" in found, "ended_at" in found, found.get("then"))
            assert shown == (group.is_sealed, self.model.has_ended(name), group.then_status)
            assert int(found.get("purged", 0)) == group.purged
        assert self.harness.counters().get("enqueued", 0) == self.model.enqueued

    @invariant()
    def results_agree(self):
        jobs = list(self.model.jobs.values())
        stored = self.harness.redis.mget([self.harness.keys.result(job.id) for job in jobs] or "-")
        for job, result in zip(jobs, stored, strict=bool(jobs)):
            assert (result or "").endswith(RESULTS.get(job.result, "")), (job, result)
            assert (result is None) == (job.result is None), (job, result)

    @invariant()
    def messages_agree(self):
        """Each end of a job that reports it has a message, and nothing else has one."""
        outbox = self.harness.queue.outbox
        found = self.run(outbox.deliveries(["hook"], MAX_SENT))
        assert Counter((each.subject, each.event) for each in found) == +self.model.messages
        waiting = sum(each.result == "waiting" for each in found)
        assert waiting == self.model.messages.total() - self.model.delivered

    @invariant()
    def statistics_agree(self):
        stats = self.run(self.harness.queue.get_queue_stats())
        live = [job for job in self.model.jobs.values() if job.status in LIVE]
        assert stats["stream_length"] == sum(len(lane) for lane in self.model.lanes.values())
        assert stats["pending_count"] == sum(job.is_delivered for job in live)
        assert stats["delayed"] == sum(job.due is not None for job in live)
        assert stats["held"] == sum(job.status == "held" for job in live)


RARE_EVENTS = (
    "id reused", "released at stop", "renewed unknown", "requeued with a partial result",
    "purged with a partial result", "then enqueued by seal", "then cancelled", "group reopened",
    "message delivered", "message waiting",
)  # fmt: skip


MAX_RUNS = 4
"""Runs with different seeds, at most, until all common events were seen."""


def test_the_queue_behaves_as_the_model_says(redis_url):
    """Invariants L, D, F, A, R and Z hold after every step of any history, poison pills included."""
    QueueMachine.redis_url = redis_url
    seen.clear()
    # Hypothesis leaves rules out of a history, and draws from the constants of all loaded code: how often
    # events occur changes with the code, and with the tests that ran before in this process.
    for run in range(MAX_RUNS):
        run_state_machine_as_test(
            seed(run)(QueueMachine),
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        if has_seen_common_events():
            break
    assert has_seen_common_events(), seen
    # Each of these has its own test in tests/queue.
    assert sum(seen[event] > 0 for event in RARE_EVENTS) >= 2, seen


def has_seen_common_events():
    held = min(seen["held"], seen["asked"], seen["unheld"], seen["freed"])
    return (
        seen["poisoned"] >= 10 and seen["aside"] >= 5 and seen["then enqueued"] >= 10 and held >= 5
    )
