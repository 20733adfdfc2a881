"""The types of the JSON that `views` makes: what `--json` prints and the HTTP API answers.

docs/reference/cli-json.md describes the fields. Times are Unix ms, or null. Apart from the functions that make
it, because only the HTTP API reads the types when it runs.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from aragora_q.base import QueueStats


class HoldJson(TypedDict):
    """What holds a job."""

    cause: str
    by: str
    reason: str
    since: int | None
    until: int | None


class JobMetadata(TypedDict):
    """A job without its content: no text that a model or its caller wrote."""

    id: str
    status: str
    attempts: int
    max_attempts: int | None
    crashes: int
    fence: int
    priority: int
    group: str | None
    tenant: str | None
    tags: dict[str, str]
    notify: list[str]
    worker_id: str | None
    trace_id: str | None
    trace_sampled: bool | None
    created_at: int | None
    started_at: int | None
    completed_at: int | None
    due_at: int | None
    hold: HoldJson | None


class DescribedJob(JobMetadata):
    """A job without its result."""

    error: str | None
    progress: dict[str, Any] | None
    payload: dict[str, Any]


class JobJson(DescribedJob):
    """A job: `result` is null until completed; of a failed job, its partial result or null."""

    result: dict[str, Any] | None


class JobStatusJson(JobJson):
    """A job with what its debate was expected to cost when it began, and its incidents, oldest first."""

    quote_usd: float | None
    history: list[dict[str, Any]]


class JobStatusMetadata(JobMetadata):
    """A job without its content; its incidents are without the text of their errors."""

    quote_usd: float | None
    history: list[dict[str, Any]]


class DebateJson(TypedDict):
    """A debate as it is so far: phases with their replies, and calls that brought none."""

    job: DescribedJob
    result: dict[str, Any] | None
    quote_usd: float | None
    rounds: list[dict[str, Any]]
    faults: list[dict[str, Any]]


class Cancelled(TypedDict):
    """What became of a job that was to be cancelled. False: it had already ended, or is unknown."""

    id: str
    cancelled: bool
    status: str | None


class Requeued(TypedDict):
    """What became of a job that was to be requeued. `status` is null if it is unknown."""

    id: str
    requeued: bool
    status: str | None


class Held(TypedDict):
    """What became of a job that was to be held: `held` is also true if it will be when its attempt ends."""

    id: str
    held: bool
    status: str | None


class Unheld(TypedDict):
    """What became of a job that was to be freed. False: it was not held."""

    id: str
    unheld: bool
    status: str | None


class SpentJson(TypedDict):
    """What calls took. `usd` is null if no call has a price."""

    calls: int
    faults: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    usd: float | None
    estimated_usd: float
    unpriced_calls: int


class FollowerJson(TypedDict):
    """The job that follows a group."""

    id: str
    status: str | None


class GroupJson(TypedDict):
    """A group and its jobs by status."""

    name: str
    state: str
    counts: dict[str, int]
    total: int
    live: int
    created_at: int | None
    sealed_at: int | None
    ended_at: int | None
    cancelled_at: int | None
    cancelled_by: str | None
    cancelled_reason: str | None
    then: FollowerJson | None
    notify: list[str]


class GroupSpentJson(GroupJson):
    """A group with what its jobs spent; null if that cannot be read."""

    spent: SpentJson | None


class ServerJson(TypedDict):
    """The Redis server. Null: it does not say."""

    name: str
    address: str
    eviction_policy: str | None
    has_aof: bool | None
    used_bytes: int | None
    max_bytes: int | None


class RunningJob(TypedDict):
    """A job that a worker runs."""

    id: str
    worker_id: str
    started_at: int


class ClosedProvider(TypedDict):
    """An account that takes no calls. `seconds`: until it opens; null: until someone acts."""

    account: str
    provider: str
    closed_by: str
    reason: str
    seconds: float | None


class FailingSchedule(TypedDict):
    """A schedule whose job is not enqueued. `error`: why it was refused, if it was."""

    schedule: str
    overdue_seconds: float
    error: str | None


class FailingWebhook(TypedDict):
    """A webhook whose messages are not delivered. `disabled`: by whom, when and why, if it is."""

    webhook: str
    waiting: int
    oldest_waiting_seconds: float
    failures: int
    last_error: str | None
    disabled: OverrideJson | None


class _QueueJson(TypedDict):
    queue: str
    server: ServerJson


class StatsJson(_QueueJson, QueueStats):
    """The state of a queue. Each worker has also what it registered, as text."""

    running_jobs: list[RunningJob]
    spent_today: SpentJson | None
    closed_providers: list[ClosedProvider] | None
    failing_schedules: list[FailingSchedule] | None
    failing_webhooks: list[FailingWebhook] | None
    warnings: list[str]


class OverrideJson(TypedDict):
    """Who set something, when and why."""

    by: str
    at: int
    reason: str


class ProviderJson(TypedDict):
    """An account, or the pause of a provider that no job has needed yet."""

    account: str | None
    provider: str
    state: str
    why: str | None
    until: int | None
    limit: int | None
    under_way: int
    waiting: int
    faults: int
    agents: list[str]
    pause: OverrideJson | None


class ScopeSpendingJson(TypedDict):
    """What was spent of a budget in its current window, for one value of its scope."""

    scope: str
    spent_usd: float
    reserved_usd: float
    estimated_usd: float
    overrun_usd: float


class BudgetJson(TypedDict):
    """A budget. `override` null: it is what workers declare; `window_ends_at` null: it does not end."""

    name: str
    scope: str
    window: str
    limit_usd: float
    on_full: str
    override: OverrideJson | None
    declared_by: list[str]
    window_ends_at: int | None
    spending: list[ScopeSpendingJson]


class ChangeJson(TypedDict):
    """What an operator changed with one command, from its first call, `since`, to its last one, `at`."""

    id: str
    at: int
    since: int
    verb: str
    subject: str | None
    by: str
    reason: str | None
    detail: str | None
    count: int
    ids: list[str]
