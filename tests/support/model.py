"""The expected behavior of a queue in plain Python, without Redis, time, batches or failures.

Order matters: a lane is a list of its entries, oldest first, running ones included.
"""

from collections import Counter
from dataclasses import dataclass, field

LANES = ("high", "normal", "low")
ORDERS = {"high": LANES, "normal": ("normal", "high", "low"), "low": LANES[::-1]}
MAX_CRASHES = 3
RETRIES = ("retry", "later", "gated")
LIVE = {"pending", "processing", "retrying", "held"}
AUTOMATIC = {"budget", "provider"}


@dataclass
class ModelJob:
    id: str
    lane: str
    max_attempts: int
    status: str = "pending"
    attempts: int = 0
    crashes: int = 0
    fence: int = 0
    """Chosen by the queue: whoever compares takes it over from there."""
    released_fence: int = 0
    retried_fence: int = 0
    failed_fence: int = 0
    suspended_fence: int = 0
    """The last attempts that were released, retried and so on: their reports may be repeated at any time."""
    lease_owner: str | None = None
    is_silent: bool = False
    """Its entry is pending and has been silent for longer than any lease."""
    is_delivered: bool = False
    """Its entry is pending for a worker."""
    result: str | None = None
    """What its outcome left: `whole`, `partial` or nothing."""
    due: int | None = None
    """Place in the order of due times; None when it is not delayed; 0: not due yet."""
    group: str | None = None
    reports: bool = False
    """Each of its ends leaves a message for a webhook."""
    hold: str | None = None
    """What holds the job; of a running one: what will, when its attempt ends."""
    back_to: str = ""
    held_due: int | None = None
    """Status and due time to which a held job returns."""

    @property
    def needs_quarantine(self):
        """Whether the next crash would be its last; a worker runs one of these at a time."""
        return 0 < self.crashes == MAX_CRASHES - 1


@dataclass
class ModelGroup:
    is_sealed: bool = False
    then: "Then | None" = None
    then_status: str | None = None
    purged: int = 0


@dataclass(frozen=True)
class Then:
    """The job that follows a group."""

    id: str
    lane: str
    max_attempts: int
    delayed: bool
    reports: bool = False


@dataclass
class Model:
    jobs: dict = field(default_factory=dict)
    groups: dict = field(default_factory=dict)
    """Groups by name, while they have a member."""
    messages: Counter = field(default_factory=Counter)
    """Messages for a webhook, by job and event, those that were delivered included."""
    delivered: int = 0
    has_failed: bool = False
    """The last attempt to deliver one failed."""
    enqueued: int = 0
    """Jobs that were ever enqueued, and how many of them followed a group."""
    thens: int = 0
    lanes: dict = field(default_factory=lambda: {lane: [] for lane in LANES})
    boots: dict = field(default_factory=dict)
    """Owner that is signed on, by worker id."""
    is_paused: bool = False
    completions: int = 0

    def waiting(self):
        return [
            job for lane in LANES for job in map(self.jobs.get, self.lanes[lane])
            if not job.is_delivered
        ]  # fmt: skip

    def leased_by(self, lease_owner):
        return [
            job for lane in LANES for job in map(self.jobs.get, self.lanes[lane])
            if job.status == "processing" and job.lease_owner == lease_owner
        ]  # fmt: skip

    def members(self, group):
        return [job for job in self.jobs.values() if job.group == group]

    def has_ended(self, group):
        is_live = any(job.status in LIVE for job in self.members(group))
        return self.groups[group].is_sealed and not is_live

    def takes_jobs(self, group):
        return group not in self.groups or not self.groups[group].is_sealed

    def enqueue(self, job_id, lane, max_attempts, *, delayed, group=None, reports=False):
        job = ModelJob(job_id, lane, max_attempts, group=group, reports=reports)
        self.jobs[job_id] = job
        self.enqueued += 1
        if group:
            self.groups.setdefault(group, ModelGroup())
        if delayed:
            job.due = 0
        else:
            self.lanes[lane].append(job_id)

    def promote(self):
        for job in sorted((j for j in self.jobs.values() if j.due), key=lambda j: j.due):
            self._append(job)

    def start(self, lease_owner, limit, *, first_lane):
        """The state of the reply, and the jobs that started."""
        if self.is_paused:
            return "paused", []
        found = [j for lane in ORDERS[first_lane] for j in map(self.jobs.get, self.lanes[lane])
                 if not j.is_delivered][:limit]  # fmt: skip
        started = []
        for job in found:
            if job.needs_quarantine and any(
                other.needs_quarantine for other in self.leased_by(lease_owner)
            ):
                self._leave(job)
                job.due = 0
                continue
            job.status, job.lease_owner, job.is_delivered = "processing", lease_owner, True
            job.attempts += 1
            started.append(job)
        return ("ok" if found else "empty"), started

    def report(self, job_id, lease_owner, fence, outcome):
        """The queue's answer, and the change if this is the lease owner's first report."""
        job = self.jobs.get(job_id)
        if job is None:
            return "lost"
        is_owners = job.lease_owner == lease_owner and job.fence == fence
        if is_owners and job.status == "processing":
            answer = getattr(self, f"_{outcome}")(job)
            self._settle()
            return answer
        repeats = {
            "released": outcome == "release" and fence == job.released_fence,
            "retrying": outcome in RETRIES and fence == job.retried_fence,
            "failed": outcome in ("fail", "fail_partly", *RETRIES) and fence == job.failed_fence,
            "held": outcome in ("release", "suspend", *RETRIES) and fence == job.suspended_fence,
            "completed": outcome == "complete" and is_owners and job.status == "completed",
        }
        refusal = "cancelled" if job.status == "cancelled" else "lost"
        return next((answer for answer, is_repeat in repeats.items() if is_repeat), refusal)

    def _complete(self, job):
        self.completions += 1
        job.result = "whole"
        return self._end(job, "completed")

    def _fail(self, job):
        job.failed_fence = job.fence
        return self._end(job, "failed")

    def _fail_partly(self, job):
        job.result = "partial"
        return self._fail(job)

    def _retry(self, job):
        if job.attempts >= job.max_attempts:
            return self._fail(job)
        return self._back_off(job)

    def _later(self, job):
        job.attempts -= 1
        return self._back_off(job)

    def _gated(self, job):
        return self._later(job)

    def _back_off(self, job):
        if job.hold:
            return self._suspend_as(job, "retrying", 0)
        self._leave(job)
        job.status, job.due, job.retried_fence = "retrying", 0, job.fence
        return "retrying"

    def _suspend(self, job):
        job.attempts -= 1
        job.hold = job.hold or "budget"
        return self._suspend_as(job, "retrying", None)

    def _suspend_as(self, job, back_to, due):
        self._enter_hold(job, back_to, due)
        job.suspended_fence = job.fence
        return "held"

    def _enter_hold(self, job, back_to, due):
        self._leave(job)
        job.status, job.back_to, job.held_due = "held", back_to, due

    def hold(self, job_id):
        """The queue's answer to a person."""
        job = self.jobs[job_id]
        if job.status not in LIVE:
            return job.status
        if job.status in ("processing", "held") and job.hold == "person":
            return "was-asked" if job.status == "processing" else "was-held"
        job.hold = "person"
        if job.status == "processing":
            return "asked"
        if job.status != "held":
            self._enter_hold(job, job.status, job.due)
        return "held"

    def unhold(self, job_id, causes):
        job = self.jobs[job_id]
        if job.hold is None:
            return "not-held" if job.status in LIVE else job.status
        if job.hold not in causes:
            return job.hold
        job.hold = None
        if job.status == "held":
            job.status = job.back_to
            if job.held_due == 0:
                job.due = 0
            else:
                self._append(job)
        return "unheld"

    def _release(self, job):
        job.attempts -= 1
        if job.hold:
            return self._suspend_as(job, "pending", None)
        self._requeue(job)
        job.status, job.released_fence = "pending", job.fence
        return "released"

    def recover(self, lease_owner, known):
        returned = [job for job in self.leased_by(lease_owner) if job.id not in known]
        for job in returned:
            job.attempts -= 1
            job.lease_owner = None
            if job.hold:
                self._enter_hold(job, "pending", None)
            else:
                self._requeue(job)
                job.status = "pending"
        return [job.id for job in returned]

    def reclaim(self):
        """Ids and decisions, lane by lane, oldest entry first."""
        taken = []
        for lane in LANES:
            for job in [self.jobs[job_id] for job_id in self.lanes[lane]]:
                if not job.is_delivered:
                    continue
                if job.status != "processing":
                    if job.is_silent:
                        self._requeue(job)
                        taken.append((job.id, "redelivered"))
                    continue
                worker = job.lease_owner.partition("@")[0]
                if not job.is_silent and self.boots.get(worker, job.lease_owner) == job.lease_owner:
                    continue
                job.attempts -= 1
                job.crashes += 1
                job.lease_owner = None
                if job.crashes >= MAX_CRASHES:
                    self._end(job, "failed")
                    taken.append((job.id, "poisoned"))
                elif job.hold:
                    self._enter_hold(job, "retrying", None)
                    taken.append((job.id, "held"))
                else:
                    self._requeue(job)
                    job.status = "retrying"
                    taken.append((job.id, "reclaimed"))
            self._settle()
        return taken

    def cancel(self, job_id):
        job = self.jobs[job_id]
        if job.status not in LIVE:
            return False
        self._end(job, "cancelled")
        self._settle()
        return True

    def seal(self, group, then):
        """The queue's answer: True, False (sealed before), or None (refused)."""
        found = self.groups[group]
        if found.is_sealed:
            return False if then in (None, found.then) else None
        found.is_sealed, found.then = True, then
        found.then_status = "waiting" if then else None
        self._settle()
        return True

    def cancel_group(self, group):
        found = self.groups[group]
        found.is_sealed = True
        if found.then_status == "waiting":
            found.then_status = "cancelled"
        self.cancel_members(group)

    def cancel_members(self, group):
        for job in self.members(group):
            if job.status in LIVE:
                self._end(job, "cancelled")
        self._settle()

    def requeue(self, job_id):
        job = self.jobs[job_id]
        if job.status not in ("failed", "cancelled"):
            return job.status
        self._append(job)
        job.status, job.lease_owner, job.attempts, job.crashes = "pending", None, 0, 0
        job.result = None
        return "requeued"

    def purge(self, status):
        gone = [job.id for job in self.jobs.values() if job.status == status]
        for job_id in gone:
            job = self.jobs.pop(job_id)
            if job.group:
                self.groups[job.group].purged += 1
        self._settle()
        return gone

    def _settle(self):
        """Sealed groups without a live job end: `then` is enqueued. Groups without a member are no more."""
        for name, group in list(self.groups.items()):
            if not self.members(name):
                del self.groups[name]
            elif group.then_status == "waiting" and self.has_ended(name):
                group.then_status = "enqueued"
                self.thens += 1
                then = group.then
                self.enqueue(
                    then.id,
                    then.lane,
                    then.max_attempts,
                    delayed=then.delayed,
                    reports=then.reports,
                )

    def _end(self, job, status):
        self._leave(job)
        job.status, job.hold = status, None
        self.messages[job.id, status] += job.reports
        return status

    def _leave(self, job):
        if job.id in self.lanes[job.lane]:
            self.lanes[job.lane].remove(job.id)
        job.is_delivered = job.is_silent = False
        job.due = None

    def _append(self, job):
        job.due = None
        self.lanes[job.lane].append(job.id)

    def _requeue(self, job):
        self._leave(job)
        self._append(job)
