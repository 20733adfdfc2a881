"""Every Redis key of a queue and of the gates, and the constants that Python and the Lua scripts share.

The only module that spells a key; `GateKeys` has those of the gates. Used by the queue, the gates, the
status tracker and the script loader.
On a single Redis the names are literal (`aragora:queue:debates:stream`); on a Redis Cluster the
queue's name is the hash tag (`aragora:queue:{debates}:stream`), so all keys of a queue share a slot.

| key                        | type   | holds                                                         |
|----------------------------|--------|---------------------------------------------------------------|
| `stream`, `stream:high`, `stream:low` | stream | runnable and running jobs of a lane: `id`, `payload` |
| `delayed`                  | zset   | job id by due time, ms                                        |
| `held`                     | zset   | job id by the time it was held, ms                            |
| `completed`, `failed`, `cancelled` | zset | job id by end time, ms                                   |
| `job:<id>`                 | hash   | the small fields of a job, every value at most 64 bytes,      |
|                            |        | except a `trace` with a `tracestate`                          |
| `job:<id>:payload`         | string | the payload, while no stream entry holds it                   |
| `job:<id>:result`          | string | of a completed job: payload JSON, newline, result JSON; of a  |
|                            |        | failed job: its partial result, if it has one                 |
| `job:<id>:history`         | list   | errors, what operators did: a JSON object each, the last 20 |
| `job:<id>:journal`         | hash   | progress and checkpoints of the executor                      |
| `labels`                   | hash   | `group:<g> tenant:<t> tag:<k>=<v> notify:<w> …` of each job with |
|                            |        | labels, by id                                                 |
| `members:<label>`          | zset   | job id by time of enqueue, ms, of the jobs with a label; not   |
|                            |        | of `notify`                                                   |
| `groups`                   | zset   | group name by time of its first job, ms                       |
| `group:<g>`                | hash   | counts of a group's jobs by status, its seal, its end, its `then`, |
|                            |        | its `notify`                                                  |
| `group:<g>:then`           | string | payload of the job to enqueue when the group has ended        |
| `experiment:<g>`           | hash   | by id, which agents each debate of an experiment was enqueued with |
|                            |        | (a digest), also of deleted ones; `agents:<digest>`: JSON of them |
| `schedules`                | hash   | `last:<s>`, `next:<s>`: ms of the last time of a schedule that is |
|                            |        | done with, and of the next; `job:<s>`, `missed:<s>`,          |
|                            |        | `paused:<s>` (JSON), `error:<s>`                              |
| `webhooks`                 | hash   | state of each target: `disabled:<w>` (JSON), `failures:<w>` (in a |
|                            |        | row), `last_ok_at:<w>`, `error:<w>`, `error_at:<w>`,           |
|                            |        | `enabled_at:<w>`, `probe_until:<w>`                           |
| `outbox:<w>`               | zset   | delivery id by due time, ms: messages for a webhook that wait |
| `sent:<w>`                 | zset   | delivery id by end time, ms: the last 1,000 of them           |
| `delivery:<id>`            | hash   | one message: webhook, kind, subject, event, at, queued_at,    |
|                            |        | attempts, settled, answer, result, ended_at                   |
| `changes`                  | stream | what operators did: the last 1,000 calls                      |
| `counters`                 | hash   | lifetime totals by transition and cause, last reap and purge  |
| `durations`                | hash   | completed jobs by the buckets (`DURATION_BOUNDS`) of their last |
|                            |        | attempt's time and of the time since their enqueue: `5 12`;    |
|                            |        | the totals at the last samples: `minute`, `hour`              |
| `samples:minute`, `samples:hour` | stream | samples of 48 h and of 90 days; the id is the time      |
| `control`                  | hash   | paused, schema, maintainer, reclaim_cursor, grace_started_at … |
| `workers`                  | zset   | worker id by last heartbeat, ms                               |
| `worker:<id>`              | hash   | one worker: instance_id, lease_ms, host, pid, running, quarantined … |
| `events`                   | stream | latest transitions, for `wait` and `tail`                     |
| `bell`                     | list   | one token per runnable job, at most 100; wakes idle workers   |
| `guard`                    | none   | never exists; scripts on a cluster declare it (see `QueueKeys.guard`) |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from aragora_q.base import (
    AUTOMATIC_CAUSES,
    GATES,
    JOB_ID_PUNCTUATION,
    LANES,
    MAX_JOB_ID_CHARS,
    lane_of,
)
from aragora_q.money import LITTLE_SHARE
from aragora_q.tracing import MAX_TRACE_BYTES

GROUP = "aragora-workers"
"""The consumer group of every lane."""

SCHEMA = 1
"""Version of the queue's data. A worker refuses a queue whose `control.schema` is newer."""

BACKSTOP_MS = 86_400_000
"""The keys of an ended job outlive its retention by this much, in case no purge runs."""

MAX_EVENTS = 500
"""Events kept, approximately."""

MAX_CHANGES = 1_000
"""Calls of operators kept, approximately."""

MAX_CHANGES_LISTED = 2 * MAX_CHANGES
"""Changes that are listed at most: about as many as are kept, of the queue and of budgets and providers."""

MAX_CHANGE_IDS = 10
"""Ids of jobs that a change names; others are only counted."""

MAX_OUTBOX = 10_000
"""Messages that may wait for one webhook; further ones are dropped and counted."""

MAX_SENT = 1_000
"""Messages kept of one webhook after they were delivered or given up."""

MAX_DELIVERIES_LISTED = MAX_OUTBOX + MAX_SENT
"""Messages that are listed at most: more are not kept of one webhook."""

DELIVERY_DAYS = 7
"""How long a message is kept after its last attempt."""

GIVE_UP_HOURS = 24
"""How long delivery of a message is tried."""

MAX_HISTORY = 20
"""History lines kept of a job."""

MAX_HISTORY_BYTES = 8_000
"""Longest error text in a history line."""

MAX_BELL = 100
"""Tokens kept for idle workers, at most: how many of them one call wakes."""

MAX_SEED_BYTES = 4 * 1024 * 1024
"""What a job may take over of another's journal at most: as much as an attempt may store."""

MAX_DATA_BYTES = 64 * 1024 * 1024
"""Largest payload or result that scripts accept, whatever a client's settings allow."""

MAX_LABELS_BYTES = 2_048
"""Longest text of a job's labels that scripts accept."""

MAX_SPEND_ROWS = 10_000
"""Rows of a day's spending; what would be another one is added to the row `other`."""

SPEND_DAYS = 400
"""How long a day's spending is kept."""

CALL_TTL_MS = 86_400_000
"""How long the record of a call is kept after its last change."""

COUNTER_MS = 172_800_000
"""How long the counter of a budget is kept after its window: calls of the window are settled late."""

EXPERIMENT_DAYS = 400
"""How long what an experiment enqueued is known after its last enqueue."""

HISTORY_DAYS = 90
"""How long what calls took is kept after the last debate of its queue."""

HISTORY_DEBATES = 200
"""Weight of a queue's history: about that of its last debates."""

MAX_HISTORY_ROWS = 1_000
"""Rows of a queue's history: the oldest ones make room for others."""

DURATION_BOUNDS: tuple[float, ...] = tuple(86_400.0 ** (n / 20) for n in range(21))
"""Upper bounds in seconds of the buckets of durations: from a second to a day, each 1.77 times the one before.

The last bucket, which has no bound, follows them."""

SAMPLED_COUNTERS = ("enqueued", "started", "completed", "failed", "cancelled", "retried", "crashed")
"""Counters that samples have, in their order."""

SAMPLES_KEPT_SECONDS = {"minute": 48 * 3600, "hour": 90 * 86_400}
"""How long samples are kept."""

END_OF_TIME_MS = 253_402_300_800_000
"""The year 10000, beyond the range of `datetime`: no time that is kept."""

LUA_CONSTANTS: dict[str, str | int | float] = {
    "END_OF_TIME_MS": END_OF_TIME_MS,
    "GROUP": GROUP,
    "SCHEMA": SCHEMA,
    "BACKSTOP_MS": BACKSTOP_MS,
    "MAX_EVENTS": str(MAX_EVENTS),  # text, because redis.call would have to format a number
    "MAX_BELL": MAX_BELL,
    "MAX_CHANGES": str(MAX_CHANGES),
    "MAX_CHANGE_IDS": MAX_CHANGE_IDS,
    "MAX_OUTBOX": MAX_OUTBOX,
    "MAX_SENT": MAX_SENT,
    "DELIVERY_MS": DELIVERY_DAYS * 86_400_000,
    "GIVE_UP_MS": GIVE_UP_HOURS * 3_600_000,
    "MAX_HISTORY": MAX_HISTORY,
    "MAX_HISTORY_BYTES": MAX_HISTORY_BYTES,
    "MAX_DATA_BYTES": MAX_DATA_BYTES,
    "MAX_SEED_BYTES": MAX_SEED_BYTES,
    "MAX_LABELS_BYTES": MAX_LABELS_BYTES,
    "MAX_TRACE_BYTES": MAX_TRACE_BYTES,
    "MAX_SPEND_ROWS": MAX_SPEND_ROWS,
    "SPEND_MS": SPEND_DAYS * 86_400_000,
    "CALL_TTL_MS": CALL_TTL_MS,
    "COUNTER_MS": COUNTER_MS,
    "EXPERIMENT_MS": EXPERIMENT_DAYS * 86_400_000,
    "HISTORY_MS": HISTORY_DAYS * 86_400_000,
    "HISTORY_DEBATES": HISTORY_DEBATES,
    "MAX_HISTORY_ROWS": MAX_HISTORY_ROWS,
    "LITTLE_SHARE": LITTLE_SHARE,
    "LAST_BUCKET": len(DURATION_BOUNDS),
    "BUCKETS_PER_LOG": 1 / math.log(DURATION_BOUNDS[1]),
    "SAMPLED_COUNTERS": " ".join(SAMPLED_COUNTERS),
    "MINUTES_KEPT_MS": SAMPLES_KEPT_SECONDS["minute"] * 1000,
    "HOURS_KEPT_MS": SAMPLES_KEPT_SECONDS["hour"] * 1000,
    "MAX_JOB_ID_CHARS": MAX_JOB_ID_CHARS,
    "AUTOMATIC_CAUSES": f" {' '.join(sorted(AUTOMATIC_CAUSES))} ",
    "JOB_ID_PATTERN": f"^%w[%w{JOB_ID_PUNCTUATION}]*$",
}
"""Names that every script may use; `scripts.load` defines those that it does use."""


@dataclass(frozen=True)
class QueueKeys:
    """The keys of one queue. With `cluster`, the queue's name is a hash tag."""

    prefix: str
    queue: str
    cluster: bool = False

    @cached_property
    def queue_prefix(self) -> str:
        """Prefix of all keys of the queue, colon included."""
        name = f"{{{self.queue}}}" if self.cluster else self.queue
        return f"{self.prefix}{name}:"

    @cached_property
    def pattern(self) -> str:
        """Glob pattern that matches the keys of this queue and no others."""
        return f"{_literal(self.queue_prefix)}*"

    @cached_property
    def stream_high(self) -> str:
        return f"{self.queue_prefix}stream:high"

    @cached_property
    def stream_normal(self) -> str:
        return f"{self.queue_prefix}stream"

    @cached_property
    def stream_low(self) -> str:
        return f"{self.queue_prefix}stream:low"

    @property
    def streams(self) -> tuple[str, str, str]:
        """The lanes' streams, in the order of `LANES`."""
        return (self.stream_high, self.stream_normal, self.stream_low)

    def stream_of(self, priority: int) -> str:
        """The stream of a priority's lane."""
        return self.streams[LANES.index(lane_of(priority))]

    @cached_property
    def delayed(self) -> str:
        return f"{self.queue_prefix}delayed"

    @cached_property
    def held(self) -> str:
        return f"{self.queue_prefix}held"

    @cached_property
    def completed(self) -> str:
        return f"{self.queue_prefix}completed"

    @cached_property
    def failed(self) -> str:
        return f"{self.queue_prefix}failed"

    @cached_property
    def cancelled(self) -> str:
        return f"{self.queue_prefix}cancelled"

    @cached_property
    def counters(self) -> str:
        return f"{self.queue_prefix}counters"

    @cached_property
    def durations(self) -> str:
        return f"{self.queue_prefix}durations"

    @cached_property
    def samples_minute(self) -> str:
        return f"{self.queue_prefix}samples:minute"

    @cached_property
    def samples_hour(self) -> str:
        return f"{self.queue_prefix}samples:hour"

    @cached_property
    def control(self) -> str:
        return f"{self.queue_prefix}control"

    @cached_property
    def workers(self) -> str:
        return f"{self.queue_prefix}workers"

    @cached_property
    def events(self) -> str:
        return f"{self.queue_prefix}events"

    @cached_property
    def bell(self) -> str:
        return f"{self.queue_prefix}bell"

    @cached_property
    def labels(self) -> str:
        return f"{self.queue_prefix}labels"

    @cached_property
    def groups(self) -> str:
        return f"{self.queue_prefix}groups"

    @cached_property
    def schedules(self) -> str:
        return f"{self.queue_prefix}schedules"

    @cached_property
    def webhooks(self) -> str:
        return f"{self.queue_prefix}webhooks"

    @cached_property
    def changes(self) -> str:
        return f"{self.queue_prefix}changes"

    @property
    def types(self) -> dict[str, str]:
        """Redis' type of each key that a queue has once, by key."""
        sets = (
            self.delayed,
            self.held,
            self.completed,
            self.failed,
            self.cancelled,
            self.workers,
            self.groups,
        )
        hashes = (
            self.counters, self.durations, self.control, self.labels, self.schedules, self.webhooks,
        )  # fmt: skip
        streams = (*self.streams, self.events, self.changes, self.samples_minute, self.samples_hour)
        return {
            **dict.fromkeys(streams, "stream"),
            **dict.fromkeys(sets, "zset"),
            **dict.fromkeys(hashes, "hash"),
            self.bell: "list",
        }

    @cached_property
    def guard(self) -> tuple[str, ...]:
        """On a cluster, a key that never exists and that every script declares; otherwise empty.

        While a slot migrates, a script that touches a missing, undeclared key fails halfway. With one
        declared key missing it does not begin: the node answers TRYAGAIN.
        """
        return (f"{self.queue_prefix}guard",) if self.cluster else ()

    @cached_property
    def job_prefix(self) -> str:
        """Prefix of job hash keys; scripts append the id that they find in a stream entry."""
        return f"{self.queue_prefix}job:"

    def job(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}"

    def payload(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}:payload"

    def result(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}:result"

    def history(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}:history"

    def journal(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}:journal"

    def group(self, name: str) -> str:
        return f"{self.queue_prefix}group:{name}"

    def experiment(self, group: str) -> str:
        return f"{self.queue_prefix}experiment:{group}"

    def members(self, label: str) -> str:
        return f"{self.queue_prefix}members:{label}"

    def outbox(self, webhook: str) -> str:
        return f"{self.queue_prefix}outbox:{webhook}"

    def sent(self, webhook: str) -> str:
        return f"{self.queue_prefix}sent:{webhook}"

    def delivery(self, delivery_id: str) -> str:
        return f"{self.queue_prefix}delivery:{delivery_id}"

    def worker(self, worker_id: str) -> str:
        return f"{self.queue_prefix}worker:{worker_id}"

    @property
    def anchor(self) -> str:
        """The key whose slot all keys share."""
        return self.control

    @cached_property
    def named(self) -> dict[str, str]:
        """The keys that every script of a queue may use, by name."""
        names = (
            "stream_high", "stream_normal", "stream_low", "delayed", "held", "completed", "failed",
            "cancelled", "counters", "durations", "control", "workers", "events", "bell", "labels", "groups",
            "samples_minute", "samples_hour", "schedules", "webhooks", "changes",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class GateKeys:
    """The keys of the gates to providers and budgets, which all queues of a prefix share.

    All share a slot (`aragora:queue:{gates}:policy`).

    | key                        | type   | holds                                                         |
    |----------------------------|--------|---------------------------------------------------------------|
    | `policy`                   | string | JSON: the budgets, provider limits and pauses that apply now  |
    | `declared`                 | hash   | JSON: what each worker's configuration says of them           |
    | `declarers`                | zset   | `queue/worker` by the time until which it declares that, ms    |
    | `overrides`                | hash   | JSON: budgets and pauses that operators set                   |
    | `changes`                  | stream | what operators did with budgets and providers, as of a queue  |
    | `accounts`                 | zset   | accounts of providers by last use, ms                         |
    | `account:<a>`              | hash   | state of an account's gate: until, why, limit, faults, probe … |
    | `permits:<a>`              | zset   | calls under way by the end of their lease, ms                 |
    | `waiters:<a>`, `waiters:<a>:seen` | zset | waiting calls by arrival; by when their turn ends |
    | `reservations`             | zset   | calls that are not settled by the end of their time limit, ms |
    | `call:<id>`                | string | JSON: record of a call, until a day after it was booked       |
    | `spent:<budget>/<scope>:<window>` | hash | `spent`, `reserved`, `estimated`, `overrun` in micro-dollars |
    | `job:<queue>/<id>/<created>` | hash | the same for one job's own limits, and tokens                 |
    | `window:<window>`          | zset   | which budgets and values have a counter in a window           |
    | `spend:<day>`              | hash   | what was spent in a day, by queue, tenant, group, agent … |
    | `spend:<day>:<queue>`      | string | the sum of these rows of a queue                              |
    | `group:<queue>/<group>`    | string | the same of a group, until 400 days after its last call       |
    | `history:<queue>`          | hash   | what calls of finished debates took, by model and phase |
    """

    prefix: str
    cluster: bool = False

    @cached_property
    def gates_prefix(self) -> str:
        """Prefix of all keys of the gates, colon included."""
        return f"{self.prefix}{{{GATES}}}:"

    @cached_property
    def pattern(self) -> str:
        """Glob pattern that matches the keys of the gates and no others."""
        return f"{_literal(self.gates_prefix)}*"

    def patterns_of_sums(self, queue: str) -> tuple[str, ...]:
        """Glob patterns that match what a queue spent in a day, what its groups spent, and its history."""
        prefix = _literal(self.gates_prefix)
        return f"{prefix}spend:*:{queue}", f"{prefix}group:{queue}/*", f"{prefix}history:{queue}"

    KINDS = frozenset(
        (
            "account",
            "permits",
            "waiters",
            "call",
            "spent",
            "job",
            "window",
            "spend",
            "group",
            "history",
        )
    )
    """First parts of the keys of which there are many."""

    @property
    def types(self) -> dict[str, str]:
        """Redis' type of each key that there is once, by key."""
        zsets = ("declarers", "accounts", "reservations")
        kinds = {
            "policy": "string",
            "declared": "hash",
            "overrides": "hash",
            "changes": "stream",
            **dict.fromkeys(zsets, "zset"),
        }
        return {self.named[name]: kind for name, kind in kinds.items()}

    @property
    def anchor(self) -> str:
        """The key whose slot all keys share."""
        return self.named["policy"]

    @cached_property
    def named(self) -> dict[str, str]:
        """The keys that every script of the gates may use, by name."""
        names = (
            "policy",
            "declared",
            "declarers",
            "overrides",
            "accounts",
            "reservations",
            "changes",
        )
        return {name: f"{self.gates_prefix}{name}" for name in names}

    @cached_property
    def guard(self) -> tuple[str, ...]:
        """As `QueueKeys.guard`."""
        return (f"{self.gates_prefix}guard",) if self.cluster else ()

    def account(self, account: str) -> str:
        return f"{self.gates_prefix}account:{account}"

    def spend(self, day: str) -> str:
        """The spending of a day, `YYYY-MM-DD` in UTC."""
        return f"{self.gates_prefix}spend:{day}"

    def spend_of_queue(self, day: str, queue: str) -> str:
        return f"{self.spend(day)}:{queue}"

    def spend_of_group(self, queue: str, group: str) -> str:
        return f"{self.gates_prefix}group:{queue}/{group}"

    def history(self, queue: str) -> str:
        return f"{self.gates_prefix}history:{queue}"


def _literal(prefix: str) -> str:
    """Return a glob pattern that matches this text only."""
    return "".join(f"\\{c}" if c in "*?[]\\^" else c for c in prefix)
