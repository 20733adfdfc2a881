"""What workers and maintenance ask of a queue: sessions, outcomes of attempts, results of calls.

`streams` implements it on Redis; `worker` and `maintenance` know nothing else of the queue, but its calls in
`work_queue`.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from aragora_q.base import HoldCause, Job
from aragora_q.context import Call, Settlement
from aragora_q.errors import InvalidPayload
from aragora_q.history import CallHistory

if TYPE_CHECKING:
    from aragora_q.config import QueueConfig

RENEWALS_PER_LEASE = 4
"""Renewals are this many times more frequent than needed, so that some may fail."""

MAX_STARTS = 100
"""Jobs that one call starts at most."""

MAX_CLOSED_SECONDS = 2.0
"""A gate that opens within this time is waited for."""

HOLD_CLOSED_SECONDS = 6 * 3600.0
"""A job whose provider takes no calls for longer is held, so that an operator sees it."""

MAX_PUT_OFF_SECONDS = 300.0
"""Longest delay of a job because a provider takes no calls: an operator may open it before its time."""

Lease = tuple[str, int]
"""Job id and fence: together they name one attempt of one job."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The executor returned; `result` is its JSON-encoded result."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Retry:
    """The executor raised a retryable error. The queue fails the job when its attempts are used up.

    `charged` False is *retry later*: the attempt is given back, within the bounds of `RetryLater`;
    with `is_gated`, without bounds.
    """

    error: str
    delay_seconds: float
    charged: bool = True
    is_gated: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The executor raised a permanent error: the job becomes a dead letter.

    `result` is its JSON-encoded partial result, if it has one.
    """

    error: str
    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The worker hands the job back unfinished; nothing is charged."""


@dataclass(frozen=True, slots=True)
class Held:
    """The job must not go on before it is freed; nothing is charged.

    `by` names the budget or the provider in the way, `usd` is what the job needs to go on.
    """

    cause: HoldCause
    reason: str
    by: str = ""
    until_seconds: float | None = None
    """The hold ends after this time in any case; None: only when the job is freed."""
    usd: float | None = None


Outcome = Completed | Retry | Failed | Released | Held


@dataclass(slots=True)
class Report:
    """The outcome of a job's attempt, to be recorded by the queue."""

    job: Job
    outcome: Outcome


ReportResult = Literal[
    "completed", "retrying", "failed", "released", "held", "cancelled", "lost", "unreported"
]
"""The answer of the queue to a report.

`held`: the job waits until it is freed; also for a retry or a release, if a hold was asked meanwhile.
`cancelled` and `lost`: refused, the attempt no longer owned the job. `unreported`: the server rejects
the report whatever its contents; the job will be reclaimed.
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who owns a lease: a worker id, and the instance id that tells two processes of that id apart."""

    worker_id: str
    instance_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def lease_owner(self) -> str:
        """The name under which a job's hash records its owner."""
        return f"{self.worker_id}@{self.instance_id}"


@dataclass(frozen=True, slots=True)
class FetchResult:
    """Jobs that were started. `empty`: no job was waiting."""

    state: Literal["ok", "empty", "paused", "unregistered"]
    jobs: list[Job] = field(default_factory=list)
    put_off: int = 0
    """Jobs that were delayed instead, because they need an agent whose provider takes no calls now."""


@dataclass(frozen=True, slots=True)
class RenewalResult:
    """The answer to a heartbeat: the queue's state, and which leases were not renewed and why."""

    state: Literal["ok", "paused", "unregistered"]
    lost: dict[str, Literal["lost", "cancelled"]]


@dataclass(frozen=True, slots=True)
class PromotionResult:
    """One step of promote. `next_due_seconds` is None if no job is delayed."""

    promoted: int
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job that may be freed automatically."""

    id: str
    cause: HoldCause
    by: str
    usd: float | None
    """What the job needs to go on, if that is known."""
    until: float | None
    """When its hold ends in any case, in Unix seconds of the server's clock."""


@dataclass(frozen=True, slots=True)
class HeldPage:
    """Held jobs in the order in which they were held. `after`: where the next page begins; empty: nowhere."""

    jobs: list[HeldJob]
    after: str


ReclaimDecision = Literal["reclaimed", "poisoned", "redelivered", "held", "malformed", "dropped"]


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """One entry taken from a dead worker.

    `decision`: reclaimed (runs again), poisoned (failed: too many crashes), redelivered (runs again,
    uncharged: its worker never started it or does not know of it), held (as either of these, but a hold was
    asked), malformed (not a job: now a dead letter), dropped (a copy of a job that ended or waits elsewhere).
    """

    id: str
    decision: ReclaimDecision
    worker_id: str
    idle_seconds: float
    crashes: int


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """One step of purge. `has_more` True: call again to delete the rest."""

    deleted: int
    has_more: bool


@dataclass(frozen=True, slots=True)
class MaintenanceClaim:
    """Whether a worker may do the queue's maintenance now, and what it needs to know for it."""

    is_granted: bool
    registered_workers: int
    """Registered workers. A dead one counts until it is removed."""
    seconds_since_purge: float | None
    """None: the queue was never purged."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The call may be sent."""


@dataclass(frozen=True, slots=True)
class WaitTurn:
    """Ask again after `seconds`: the account's limits, or reservations of other calls, leave no room yet."""

    seconds: float
    why: str
    is_closed: bool = False
    """The account took no calls; another call tries whether it takes some again."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The account takes no calls for `seconds`; None: until someone acts."""

    seconds: float | None
    why: str
    is_waited_out: bool = False
    """The flex tier has no capacity: its calls wait, and no fallback is asked."""


@dataclass(frozen=True, slots=True)
class OverBudget:
    """The call does not fit a budget, or the job's own limit."""

    budget: str
    """The name of a budget with the value of its scope, such as `day/tenant:acme`, as a job keeps it; or
    `max_tokens` or `max_cost_usd` of the job."""
    on_full: Literal["hold", "fail", "job"]
    """`job`: one of the job's own limits."""
    why: str
    can_ever_fit: bool = True
    usd: float | None = None
    """What the job needs to go on."""


@dataclass(frozen=True, slots=True)
class BudgetRoom:
    """What is used of a budget in its current window. `limit_usd` None: it holds no job now."""

    limit_usd: float | None
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    turns: bool = False
    """True if spending counts from zero again some time."""


@dataclass(frozen=True, slots=True)
class Paused:
    """Since when something is paused, in Unix seconds of the server's clock, by whom, and why."""

    at: float
    by: str
    reason: str


MAX_NAMES = 100
"""How many schedules, and webhooks, are shown: as many as a configuration may have."""

OVERDUE_SECONDS = 120.0
"""A schedule whose job is not enqueued this long after it was due needs attention."""


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What the queue knows of a schedule. Times are Unix seconds of the server's clock, None for none yet."""

    name: str
    last_at: float | None = None
    """All times up to this one are done with: their jobs were enqueued, or they were missed or skipped. When a
    schedule becomes known, it is done with all times before."""
    next_at: float | None = None
    last_job: str | None = None
    """Id of the job that it enqueued last."""
    missed: int = 0
    """Times that passed without a job, in total."""
    error: str | None = None
    """Why the job of its last time was refused."""
    paused: Paused | None = None

    @property
    def is_planned(self) -> bool:
        """True once a worker or `reap` has read it in its configuration: only then are its times kept."""
        return self.next_at is not None or self.last_at is not None

    def overdue_seconds(self, now: float) -> float:
        """Return the time since it was due; 0 if it is not, or is paused."""
        if self.next_at is None or self.paused is not None:
            return 0.0
        return max(0.0, now - self.next_at)

    def is_ahead(self, now: float) -> bool:
        """Return True if it is done with times to come: the server's clock was ahead and was set back."""
        return self.last_at is not None and self.last_at - now > OVERDUE_SECONDS

    def is_overdue(self, now: float) -> bool:
        """Return True if its job should be in the queue: no process enqueues it."""
        return self.overdue_seconds(now) > OVERDUE_SECONDS


@dataclass(frozen=True, slots=True)
class SchedulesRead:
    """The schedules that a queue knows, by name, at the time `now` of the server's clock in Unix seconds."""

    now: float
    states: dict[str, ScheduleState]


@dataclass(frozen=True, slots=True)
class Tick:
    """A time of a schedule, for which `job` is to be enqueued. Times are Unix ms."""

    schedule: str
    at: int
    next_at: int
    """The time after that, by the same configuration."""
    job: Job
    missed: int = 0
    """How many times before have no job, and count as missed."""
    reason: str = ""
    """For the job's history."""
    last_at: int | None = None
    """The last time that was done with when `missed` was counted; None: there was none."""


TickResult = Literal["created", "exists", "past", "paused", "changed", "full"] | InvalidPayload
"""The answer of the queue to a tick.

`exists`: a job has this id already; the schedule is done with the time. `past`: it was before. `changed`:
another time was done with since `missed` was counted; nothing changed. `full`: the queue takes no more jobs
now; nothing changed. An error: why the job is refused; nothing changed.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """When a schedule is due next, and which of its times are done with although they have no job."""

    schedule: ScheduleState
    """As it was read: if it has changed since, nothing is set."""
    next_at: int
    """Unix ms."""
    last_at: int | None = None
    """Unix ms: all times up to this one are done with."""
    missed: int = 0
    """How many of these count as missed."""
    error: str = ""
    """Why the job of the last one is refused."""


class Schedules(ABC):
    """The schedules of a queue: what has become of their times. Methods raise as those of `JobQueue` do."""

    @abstractmethod
    async def read(self) -> SchedulesRead:
        """Return the state of each schedule that the queue knows."""

    @abstractmethod
    async def enqueue(self, ticks: Sequence[Tick]) -> list[TickResult]:
        """Enqueue the jobs of times that are due: each time once, from any number of processes."""

    @abstractmethod
    async def plan(self, plans: Sequence[Plan]) -> list[bool]:
        """Set when schedules are due next, and which times are done with. Returns whether each was set."""

    @abstractmethod
    async def run(self, name: str, job: Job, *, by: str = "", reason: str = "") -> bool:
        """Enqueue a job of a schedule now, whatever its times. Returns False if a job has its id.

        Raises:
            QueueFull: `max_backlog` is reached. Not enqueued.
            InvalidPayload: the job is refused.
        """

    @abstractmethod
    async def pause(self, name: str, *, by: str = "", reason: str = "") -> bool:
        """Let all times of a schedule pass until it is resumed. Returns False if it was paused."""

    @abstractmethod
    async def resume(
        self, name: str, *, next_at: float | None = None, by: str = "", reason: str = ""
    ) -> bool:
        """End a pause: times that passed meanwhile are skipped. Returns False if it was not paused.

        `next_at` is when it is due next, in Unix seconds.
        """

    @abstractmethod
    async def forget(self, name: str, *, by: str = "", reason: str = "") -> bool:
        """Delete the state of a schedule that no configuration has any more. Returns False if there is none."""


GateAnswer = Granted | WaitTurn | Closed | OverBudget


class AskedAgent(NamedTuple):
    """An agent as jobs ask it: the service tier that a job names may give it another account."""

    name: str
    service_tier: str = ""
    """What the payload names; empty: nothing."""


class Gates(Protocol):
    """The gates to providers and budgets that all workers of a prefix share."""

    async def acquire(self, job: Job, call: Call) -> GateAnswer:
        """Ask to send a call, once. Asking again for a call that was granted is answered the same."""

    async def ask(self, job: Job, call: Call) -> GateAnswer:
        """Return what refuses a call now, whatever it costs: Closed or OverBudget. Else Granted: nothing is."""

    async def settle(self, job: Job, call: Call, settlement: Settlement) -> bool:
        """Book a call. Returns False if it had been settled before: then nothing changes."""

    def end(self, job: Job) -> None:
        """Renew the permits of the job's calls no longer: its attempt has ended, they are not under way."""

    async def wait(self, call: Call, seconds: float) -> None:
        """Wait before a call asks again: for `seconds`, or until a call of its account was settled here."""

    def closed_agents(self) -> Mapping[AskedAgent, float]:
        """Return the agents whose accounts are known to take no calls now, and for how many seconds.

        Without those that have an open fallback, and those whose jobs are held: their accounts are closed for
        longer than HOLD_CLOSED_SECONDS, and not waited out.
        """

    async def refresh(self) -> None:
        """Read the state of the accounts that this process has used, and send what it declares."""

    async def budget_rooms(self, budgets: Sequence[str]) -> list[BudgetRoom]:
        """Return what is used of each budget, by its name in `OverBudget` or in the hold of a job."""

    async def call_history(self) -> CallHistory:
        """Return what calls of the queue's finished debates took, as this process last read it."""

    async def learn(self, debate: CallHistory) -> None:
        """Add what one debate took to that."""

    async def free_calls(self, accounts: Sequence[str]) -> list[int | None]:
        """Return how many more calls each account takes now; 0: it is closed, None: no limit is known."""

    def reconfigure(self, config: QueueConfig) -> None:
        """Declare the budgets and limits of `config` from the next `refresh` on."""

    def permit_renewer(self) -> PermitRenewer:
        """Return a renewer for another thread, which must close it."""

    async def close(self) -> None:
        """Close the connections."""


class PermitRenewer(Protocol):
    """The lease keeper's connection to the gates, used in the keeper's thread only."""

    async def renew(self) -> None:
        """Renew the permits of all calls of this process that are under way."""

    async def close(self) -> None:
        """Close the connection."""


class LeaseRenewer(Protocol):
    """The lease keeper's connection to the queue, used in the keeper's thread only."""

    async def renew(
        self,
        leases: Sequence[Lease],
        *,
        starting_seconds: float | None = None,
        loop_lag_seconds: float = 0.0,
    ) -> RenewalResult:
        """Send a heartbeat and renew `leases`.

        `starting_seconds`: how long ago a start was sent whose reply has not come yet. Jobs started since
        then are not known to the worker; their leases are renewed, too.
        `loop_lag_seconds`: how long the worker's event loop does not respond, for statistics.
        """

    async def close(self) -> None:
        """Close the connection."""


class CheckpointStore(Protocol):
    """Where a running attempt keeps progress and checkpoints. Writes raise LeaseLost when fenced off."""

    async def report_progress(self, job: Job, progress: Mapping[str, Any]) -> None:
        """As `AttemptContext.report_progress`."""

    async def checkpoint(self, job: Job, name: str, value: Mapping[str, Any]) -> None:
        """As `AttemptContext.checkpoint`."""

    async def checkpoints(self, job: Job) -> dict[str, dict[str, Any]]:
        """As `AttemptContext.checkpoints`."""


class WorkerSession(CheckpointStore, ABC):
    """The queue as one registered worker uses it. Methods raise as those of `JobQueue` do."""

    identity: Identity

    @abstractmethod
    async def note_trace(self, job: Job, trace: str) -> None:
        """Store the trace context of an attempt with its job: the next attempt is linked to it.

        Raises LeaseLost if another attempt has begun, or the job was deleted.
        """

    @abstractmethod
    async def register(self, info: Mapping[str, str], *, dead_instance_id: str = "") -> float:
        """Register the worker. Returns 0, or the seconds until another instance's lease on the id ends.

        `dead_instance_id` names an instance known to be dead: its lease does not count.

        Raises:
            UnsupportedServer: the queue's data was written by a newer version. Not registered.
        """

    @abstractmethod
    async def registered_instance(self) -> dict[str, str]:
        """Return the record of the instance registered under this worker id; empty if there is none."""

    @abstractmethod
    async def start(
        self,
        limit: int,
        *,
        first_lane: str = "high",
        closed_agents: Mapping[AskedAgent, float] = MappingProxyType({}),
    ) -> FetchResult:
        """Start up to `limit` waiting jobs, those of `first_lane` (high, normal or low) first.

        At most MAX_STARTS, whatever the limit.
        Jobs that ask one of `closed_agents` are put off for as many seconds as it has there.
        """

    @abstractmethod
    async def wait_for_work(self, timeout_seconds: float) -> None:
        """Block until a job becomes runnable that no other idle worker was woken for, or the time is up."""

    @abstractmethod
    async def start_next(self, timeout_seconds: float, *, first_lane: str = "high") -> FetchResult:
        """As `wait_for_work` and then `start` of one job, in one round trip: half the latency.

        If this call is cancelled, call `release_orphans` afterwards: a job may have been started.
        """

    @abstractmethod
    async def report(self, reports: Sequence[Report]) -> list[ReportResult]:
        """Record outcomes of attempts; the results are in the order of the reports."""

    @abstractmethod
    async def release_orphans(
        self, is_known: Callable[[Lease], bool], *, min_idle_seconds: float
    ) -> list[str]:
        """Release jobs started for this worker that it does not know of, because a reply was lost.

        Only those not renewed for `min_idle_seconds`. Returns their ids.
        """

    @abstractmethod
    def lease_renewer(self) -> LeaseRenewer:
        """Return a renewer for another thread, which must close it."""

    @abstractmethod
    async def unregister(self) -> None:
        """Delete the worker's record. The worker must have reported every job it owns."""


class ClaimRequest(NamedTuple):
    """How many messages of a webhook to take at most, and how long each attempt may take."""

    webhook: str
    limit: int
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for a webhook: an end of a job or a group that is reported to it.

    Times are in Unix seconds of the server's clock.
    """

    id: str
    """`<milliseconds>-<number>`; begins with the time of the message."""
    webhook: str
    kind: Literal["job", "group"]
    subject: str
    """Id of the job, or name of the group."""
    event: Literal["completed", "failed", "cancelled", "ended"]
    at: float
    """When that happened: as `ended_at` of the job or group."""
    attempts: int
    """Attempts to deliver it; one under way counts."""
    due_at: float | None
    """When it is tried next, or the lease of the attempt under way ends; None: it does not wait."""
    ended_at: float | None = None
    """When it was delivered or given up."""
    result: Literal["waiting", "delivered", "failed"] = "waiting"
    answer: str = ""
    """The answer to the last attempt, or why there was none."""


class Claimed(NamedTuple):
    """Messages to deliver now. `next_due_seconds`: how long until others are due; None: none waits."""

    deliveries: list[Delivery]
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class Settled:
    """How an attempt to deliver a message ended.

    `ok`: delivered. `retry`: not; the next attempt follows after `delay_seconds`, unless the message has waited
    for too long. `gone`: the target wants no more messages; the webhook is disabled. `skip`: the configuration
    does not want this event; the message is deleted.
    """

    delivery: Delivery
    result: Literal["ok", "retry", "gone", "skip"]
    answer: str = ""
    delay_seconds: float = 0.0
    pause_seconds: float = 0.0
    """After a failure: how long no message of the webhook is tried. Thousands may wait."""


SettleResult = Literal["delivered", "waiting", "failed", "skipped", "settled"]
"""What became of a message. `failed`: given up. `settled`: this attempt was recorded before, or a later one was
begun; nothing changed."""


DELIVERY_LATE_SECONDS = 900.0
"""A webhook with a message that has waited this long needs attention."""


@dataclass(frozen=True, slots=True)
class WebhookState:
    """The state of one webhook. Times are in Unix seconds of the server's clock; None: never."""

    name: str
    waiting: int = 0
    """Messages that are not delivered yet."""
    oldest_at: float | None = None
    """Since when the one waits that waits the longest."""
    failures: int = 0
    """Failed attempts since the last message was delivered."""
    last_ok_at: float | None = None
    last_error: str = ""
    last_error_at: float | None = None
    disabled: Paused | None = None
    """`by` is `the target` if it answered that it wants no more messages."""

    def oldest_seconds(self, now: float) -> float:
        """Return how long the oldest message waits; 0 if none does."""
        return 0.0 if self.oldest_at is None else max(0.0, now - self.oldest_at)

    def is_late(self, now: float) -> bool:
        """Return True if messages are not delivered, although the webhook is not disabled."""
        return self.disabled is None and self.oldest_seconds(now) > DELIVERY_LATE_SECONDS


class DeliveryTotals(NamedTuple):
    """Lifetime totals of a queue."""

    delivered: int
    failed: int
    """Given up."""
    dropped: int
    """Never tried until the end, because the outbox was full, damaged, or disabled for too long."""


class WebhooksRead(NamedTuple):
    """The state of webhooks at one time, `now`, in Unix seconds of the server's clock."""

    now: float
    states: dict[str, WebhookState]
    totals: DeliveryTotals


class Outbox(ABC):
    """The messages of a queue for webhooks. Scripts that end jobs and groups put them there."""

    @abstractmethod
    async def claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
        """Take messages that are due, for one attempt each.

        A webhook that is disabled gets none; one whose last attempt failed gets one at a time, of all processes
        together. A message that is not settled in time is taken again.
        """

    @abstractmethod
    async def settle(self, settled: Sequence[Settled]) -> list[SettleResult]:
        """Record how attempts ended; may be repeated. The results are in the order of `settled`."""

    @abstractmethod
    async def states(self, names: Sequence[str]) -> WebhooksRead:
        """Return the state of these webhooks, also of those that have had no message yet."""

    async def read(self) -> WebhooksRead:
        """Return the state of the webhooks that the queue knows, MAX_NAMES at most."""
        return await self.states(sorted(await self.known())[:MAX_NAMES])

    @abstractmethod
    async def known(self) -> set[str]:
        """Return the names of all webhooks of which the queue has a state."""

    @abstractmethod
    async def deliveries(self, names: Sequence[str], limit: int) -> list[Delivery]:
        """Return the newest messages of these webhooks, at most `limit`, newest first; also ended ones."""

    @abstractmethod
    async def redeliver(
        self, ids: Sequence[str], *, webhook: str = "", by: str = "", reason: str = ""
    ) -> list[str]:
        """Send messages again that were delivered or given up, or now if they wait; with `webhook`, only its.

        Returns one result per id: `redelivered`, `waiting` (it is due now), `full` (MAX_OUTBOX messages
        wait) or `unknown` (too old, or of another webhook).
        """

    @abstractmethod
    async def enable(self, name: str, *, by: str = "", reason: str = "") -> bool:
        """Deliver a webhook's messages again. Returns False if it was not disabled."""

    @abstractmethod
    async def disable(self, name: str, *, by: str = "", reason: str = "") -> bool:
        """Let a webhook's messages wait. Returns False if it was disabled already: then nothing changes."""

    @abstractmethod
    async def forget(self, name: str, *, by: str = "", reason: str = "") -> bool:
        """Delete the state and the messages of a webhook that no configuration has any more.

        Returns False if there are none.
        """
