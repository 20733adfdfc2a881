"""The JSON of jobs, groups, statistics and money: what `--json` prints and the HTTP API answers.

`shapes` has the types. Used by the command line and by the console. Text for people is made elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from aragora_q import tracing
from aragora_q.base import Group, Hold, Job, JobStatus
from aragora_q.errors import AragoraQError, JobNotEnded, JobNotFound, TryAgain
from aragora_q.formats import count, duration
from aragora_q.job_rules import BEGUN, is_debate, quoted_usd
from aragora_q.money import MICROS

if TYPE_CHECKING:
    from aragora_q.changes import Change
    from aragora_q.contracts import Paused, SchedulesRead, WebhooksRead
    from aragora_q.gates.accounts import Account, Accounts
    from aragora_q.gates.book import Book, Budget
    from aragora_q.gates.overrides import Override
    from aragora_q.gates.spending import Key, Report, Spent
    from aragora_q.redis.connection import Connection
    from aragora_q.report.calls import Calls
    from aragora_q.shapes import (
        BudgetJson,
        Cancelled,
        ChangeJson,
        ClosedProvider,
        DebateJson,
        DescribedJob,
        FailingSchedule,
        FailingWebhook,
        GroupJson,
        GroupSpentJson,
        Held,
        HoldJson,
        JobJson,
        JobStatusJson,
        OverrideJson,
        ProviderJson,
        Requeued,
        SpentJson,
        StatsJson,
        Unheld,
    )
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_CLOSED = 5
"""Closed providers among the warnings; schedules, and webhooks, likewise."""


def paused_json(paused: Paused | None) -> OverrideJson | None:
    """Return who paused or disabled something."""
    if paused is None:
        return None
    return {"by": paused.by, "at": round(paused.at * 1000), "reason": paused.reason}


def change_json(change: Change) -> ChangeJson:
    """Return what an operator changed."""
    return {
        "id": change.id,
        "at": change.at,
        "since": change.since,
        "verb": change.verb,
        "subject": change.subject or None,
        "by": change.by,
        "reason": change.reason or None,
        "detail": change.detail or None,
        "count": change.count,
        "ids": list(change.ids),
    }


def job_json(job: Job) -> JobJson:
    """Return a job."""
    return {
        "id": job.id,
        "status": job.status.value,
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "crashes": job.crashes,
        "fence": job.fence,
        "priority": job.priority,
        "group": job.group,
        "tenant": job.tenant,
        "tags": dict(job.tags),
        "notify": list(job.notify),
        "worker_id": job.worker_id,
        "trace_id": tracing.trace_id(job.trace) or None,
        "trace_sampled": tracing.is_sampled(job.trace) if job.trace else None,
        "created_at": _ms(job.created_at),
        "started_at": _ms(job.started_at),
        "completed_at": _ms(job.completed_at),
        "due_at": _ms(job.due_at),
        "hold": _hold_json(job.hold),
        "error": job.error,
        "progress": job.progress,
        "payload": job.payload,
        "result": job.result,
    }


def _hold_json(hold: Hold | None) -> HoldJson | None:
    if hold is None:
        return None
    return {
        "cause": hold.cause,
        "by": hold.by,
        "reason": hold.reason,
        "since": _ms(hold.since),
        "until": _ms(hold.until),
    }


async def job_status_json(queue: RedisStreamsQueue, job: Job) -> JobStatusJson:
    """Return a job with its quote and its history.

    Raises:
        InvalidPayload: its history or its journal is corrupted.
    """
    history = await queue.tracker.history(job.id)
    return {**job_json(job), "quote_usd": await _quote_usd(queue, job), "history": history}


async def _quote_usd(queue: RedisStreamsQueue, job: Job) -> float | None:
    """Return what a debate was expected to cost when it began; None if that is not known."""
    if not is_debate(job):
        return None
    return quoted_usd(job.result or await queue.tracker.checkpoint(job.id, BEGUN))


def without_content(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job without texts of models and clients, which could lead a program that reads them."""
    from aragora_q.shapes import JobStatusMetadata  # noqa: PLC0415 - commands need no types

    kept = {name: found[name] for name in JobStatusMetadata.__annotations__ if name in found}
    if "history" in kept:
        kept["history"] = [
            {name: value for name, value in line.items() if name != "error"}
            for line in kept["history"]
        ]
    return kept


async def read_receipt(queue: RedisStreamsQueue, job_id: str) -> bytes:
    """Return the receipt of an ended job, without a newline; signed if the configuration has a key.

    Raises:
        JobNotFound: the job is unknown or past retention.
        JobNotEnded: it has not ended.
        TryAgain: it changed meanwhile.
        InvalidPayload: its data is corrupted, or cannot be in a receipt.
    """
    from aragora_q.report.calls import read_calls  # noqa: PLC0415 - most commands need none
    from aragora_q.report.receipt import make_receipt  # noqa: PLC0415 - likewise

    job = await queue.get_job(job_id)
    if job is None:
        raise JobNotFound(job_id, queue.config.queue)
    if not job.status.is_terminal:
        raise JobNotEnded(job_id, job.status.value)
    journal = await queue.tracker.checkpoints(job_id)
    history = await queue.tracker.history(job_id) if job.status is JobStatus.CANCELLED else []
    if await queue.get_job(job_id) != job:  # a requeue, or the retention time
        raise TryAgain(f"job {job_id} changed while it was read", hint="try again")
    calls = read_calls(journal, (job.result or {}).get("transcript"))
    key = queue.config.receipt_key
    secret = key.get_secret_value() if key else None
    # In a thread: a job may have many megabytes.
    return await asyncio.to_thread(make_receipt, queue.config.queue, job, calls, secret, history)


def debate_json(job: Job, calls: Calls) -> DebateJson:
    """Return a debate with its phases."""
    from aragora_q.report.debate import Debate  # noqa: PLC0415 - most commands need none

    described = cast("dict[str, Any]", job_json(job))
    result = described.pop("result")
    return {
        "job": cast("DescribedJob", described),
        "result": result,
        "quote_usd": Debate(job, calls).quote(),
        "rounds": [phase.to_dict() for phase in calls.phases],
        "faults": [
            {"phase": call.phase, "round": call.round, **call.to_dict()} for call in calls.faults
        ],
    }


def cancelled_json(job_id: str, result: str) -> Cancelled:
    """Return what `cancel_many` did to a job."""
    status = None if result == "unknown" else result.removeprefix("was-")
    return {"id": job_id, "cancelled": result == "cancelled", "status": status}


def requeued_json(job_id: str, result: str) -> Requeued:
    """Return what `requeue` did to a job; `result` may be `invalid`, too: it is not a job id."""
    is_known = result not in ("unknown", "invalid", "malformed", "not-reached")
    status = "pending" if result == "requeued" else result
    return {
        "id": job_id,
        "requeued": result == "requeued",
        "status": status if is_known else None,
    }


def held_json(job_id: str, result: str) -> Held:
    """Return what `hold_many` did to a job."""
    is_running = result.endswith("asked")
    is_held = is_running or result in ("held", "was-held")
    status = None if result == "unknown" else result.removeprefix("was-")
    return {"id": job_id, "held": is_held, "status": "processing" if is_running else status}


def unheld_json(job_id: str, result: str, status: str | None) -> Unheld:
    """Return what `unhold_many` did to a job, and its status after that."""
    return {"id": job_id, "unheld": result == "unheld", "status": status}


def group_json(group: Group) -> GroupJson:
    """Return a group."""
    status = group.then_status
    return {
        "name": group.name,
        "state": group.state,
        "counts": dict(group.counts),
        "total": group.total,
        "live": group.live,
        "created_at": _ms(group.created_at),
        "sealed_at": _ms(group.sealed_at),
        "ended_at": _ms(group.ended_at),
        "cancelled_at": _ms(group.cancelled_at),
        "cancelled_by": group.cancelled_by,
        "cancelled_reason": group.cancelled_reason,
        "then": {"id": group.then_id, "status": status} if group.then_id else None,
        "notify": list(group.notify),
    }


async def group_spent_json(gates: Connection, group: Group) -> GroupSpentJson:
    """Return a group with what it spent."""
    from aragora_q.gates.spending import Spending  # noqa: PLC0415 - most commands need none

    spent = None
    with suppress(AragoraQError, ValueError):  # all else is shown
        spent = spent_json(await Spending(gates).of_group(gates.config.queue, group.name))
    return {**group_json(group), "spent": spent}


def spent_json(spent: Spent) -> SpentJson:
    """Return what calls took."""
    return {
        "calls": spent.calls,
        "faults": spent.faults,
        "input_tokens": spent.input_tokens,
        "output_tokens": spent.output_tokens,
        "cached_tokens": spent.cached_tokens,
        "usd": spent.usd,
        "estimated_usd": spent.estimated_micro_usd / MICROS,
        "unpriced_calls": spent.unpriced_calls,
    }


def spend_rows(by: Sequence[str], report: Report) -> Iterator[tuple[Key, Spent]]:
    """Yield the rows of a report by day, if they have one, then the most expensive first."""
    place = by.index("day") if "day" in by else None

    def order(row: tuple[Key, Spent]) -> tuple[Any, ...]:
        key, spent = row
        return (
            key[place] if place is not None else "",
            -spent.micro_usd,
            [name or "" for name in key],
        )

    yield from sorted(report.rows.items(), key=order)


def spend_json(by: Sequence[str], key: Key, spent: Spent) -> dict[str, Any]:
    """Return a row: the names that it is by (null: the jobs have none, or `is_other`), and numbers."""
    names = {name: value or None for name, value in zip(by, key, strict=True)}
    return {**names, "is_other": None in key, **spent_json(spent)}


class StatsWarning(NamedTuple):
    """Something that needs an operator's attention."""

    text: str
    about: Literal["", "workers", "providers", "schedules", "webhooks", "failed"] = ""
    """What to look at; blank: what the text says."""


async def stats_json(queue: RedisStreamsQueue, gates: Connection) -> StatsJson:
    """Return the state of a queue, with what needs attention."""
    return (await read_stats(queue, gates))[0]


async def read_stats(
    queue: RedisStreamsQueue, gates: Connection
) -> tuple[StatsJson, list[StatsWarning]]:
    """Return the state of a queue, and its warnings with what each is about."""
    from aragora_q.redis.server import check_server  # noqa: PLC0415 - most commands need none

    server = await check_server(queue.connection)
    stats = await queue.get_queue_stats()
    workers = {job_id: worker for worker in stats["workers"] for job_id in worker["running"]}
    started = await queue.tracker.started_at(list(workers))
    spent, closed, trouble = await _read_gates(gates)
    found: StatsJson = {
        "queue": queue.config.queue,
        "server": {
            "name": server.name,
            "address": queue.connection.address,
            "eviction_policy": server.eviction_policy,
            "has_aof": server.has_aof,
            "used_bytes": server.used_bytes,
            "max_bytes": server.max_bytes,
        },
        **stats,
        "running_jobs": [
            {"id": job_id, "worker_id": workers[job_id]["worker_id"], "started_at": started_at}
            for job_id, started_at in sorted(started.items(), key=lambda item: item[1])
        ],
        "spent_today": spent,
        "closed_providers": closed,
        "failing_schedules": None,
        "failing_webhooks": None,
        "warnings": [],
    }
    unread = []
    try:
        found["failing_schedules"] = failing_schedules(await queue.schedules.read())
    except AragoraQError as error:
        unread.append(StatsWarning(f"schedules cannot be read: {error}", "schedules"))
    try:
        found["failing_webhooks"] = failing_webhooks(await queue.outbox.read())
    except AragoraQError as error:
        unread.append(StatsWarning(f"webhooks cannot be read: {error}", "webhooks"))
    warnings = [*_warnings(found), *unread, *(StatsWarning(each, "providers") for each in trouble)]
    found["warnings"] = [warning.text for warning in warnings]
    return found, warnings


async def _read_gates(
    gates: Connection,
) -> tuple[SpentJson | None, list[ClosedProvider] | None, list[str]]:
    """Return spending, closed providers, and a warning if they cannot be read: all else is shown."""
    from aragora_q.gates.overview import read_overview  # noqa: PLC0415 - most commands need none

    try:
        overview = await read_overview(gates)
    except (AragoraQError, ValueError) as error:
        return None, None, [f"spending and providers cannot be read: {error}"]
    closed: list[ClosedProvider] = [
        {
            "account": each.name,
            "provider": each.provider,
            "closed_by": each.closed_by,
            "reason": each.reason,
            "seconds": each.opens_in_seconds,
        }
        for each in overview.accounts
        if each.is_closed
    ]
    return spent_json(overview.spent_today), closed, []


def _warnings(stats: StatsJson) -> Iterator[StatsWarning]:
    """Yield what needs an operator's attention, most important first."""
    waiting = sum(stats["waiting"].values())
    if stats["paused"]:
        paused = ago_text(stats["now"], stats["paused_at"])
        by = f" by {stats['paused_by']}" if stats["paused_by"] else ""
        why = f" ({stats['paused_reason']})" if stats["paused_reason"] else ""
        text = f"queue paused {paused}{by}{why}, no jobs start: to resume, run aragora-q resume"
        yield StatsWarning(text)
    if stats["grace_until"]:
        grace = duration((stats["grace_until"] - stats["now"]) / 1000)
        text = f"no worker sent a heartbeat recently: no jobs are reclaimed for another {grace}"
        yield StatsWarning(text, "workers")
    if (waiting or stats["delayed"] or stats["running"]) and not stats["worker_counts"]["alive"]:
        yield StatsWarning("no live worker: jobs will not run until one starts", "workers")
    yield from _worker_warnings(stats)
    server = stats["server"]
    if server["eviction_policy"] not in (None, "noeviction"):
        policy = server["eviction_policy"]
        yield StatsWarning(f"Redis may evict jobs: maxmemory-policy is {policy}")
    used_bytes, max_bytes = server["used_bytes"], server["max_bytes"]
    if used_bytes and max_bytes and used_bytes > 0.9 * max_bytes:
        yield StatsWarning(f"Redis memory is {used_bytes / max_bytes:.0%} full")
    yield from _provider_warnings(stats["closed_providers"] or ())
    yield from _schedule_warnings(stats["failing_schedules"] or ())
    yield from _webhook_warnings(stats["failing_webhooks"] or ())
    if failed := stats["throughput"]["failed_15m"]:
        text = f"{count(failed, 'job')} failed within 15 min: run aragora-q list --status failed"
        yield StatsWarning(text, "failed")


def _provider_warnings(closed: Sequence[ClosedProvider]) -> Iterator[StatsWarning]:
    for each in closed[:MAX_CLOSED]:
        seconds = each["seconds"]
        name = each["account"] if each["closed_by"] == "credit" else each["provider"]
        resume = f"until aragora-q providers resume {name}"
        until = resume if seconds is None else f"for {duration(seconds)}"
        text = f"provider {each['account']} takes no calls {until}: {each['reason']}"
        yield StatsWarning(text, "providers")
    if (more := len(closed) - MAX_CLOSED) > 0:
        text = f"{count(more, 'more provider')} {'takes' if more == 1 else 'take'} no calls"
        yield StatsWarning(text, "providers")


def failing_schedules(read: SchedulesRead) -> list[FailingSchedule]:
    """Return the schedules that are overdue, or whose last job was refused; the longest overdue first."""
    return sorted(
        (
            {
                "schedule": name,
                "overdue_seconds": round(state.overdue_seconds(read.now), 3),
                "error": state.error,
            }
            for name, state in read.states.items()
            if state.is_overdue(read.now) or state.error is not None
        ),
        key=lambda each: -each["overdue_seconds"],
    )


def failing_webhooks(read: WebhooksRead) -> list[FailingWebhook]:
    """Return the webhooks that are disabled, or whose messages are late; the one that waits longest first."""
    return sorted(
        (
            {
                "webhook": name,
                "waiting": state.waiting,
                "oldest_waiting_seconds": round(state.oldest_seconds(read.now), 3),
                "failures": state.failures,
                "last_error": state.last_error or None,
                "disabled": paused_json(state.disabled),
            }
            for name, state in read.states.items()
            if state.disabled or state.is_late(read.now)
        ),
        key=lambda each: -each["oldest_waiting_seconds"],
    )


def _schedule_warnings(failing: Sequence[FailingSchedule]) -> Iterator[StatsWarning]:
    for each in failing[:MAX_CLOSED]:
        name = each["schedule"]
        if each["error"] is not None:
            yield StatsWarning(
                f"schedule {name}: its last job was refused: {each['error']}", "schedules"
            )
        else:
            since = duration(each["overdue_seconds"])
            text = f"schedule {name} was due {since} ago, and its job is not enqueued"
            yield StatsWarning(f"{text}: see aragora-q schedule list", "schedules")
    if (more := len(failing) - MAX_CLOSED) > 0:
        text = f"{count(more, 'more schedule')} {'needs' if more == 1 else 'need'} attention"
        yield StatsWarning(f"{text}: see aragora-q schedule list", "schedules")


def _webhook_warnings(failing: Sequence[FailingWebhook]) -> Iterator[StatsWarning]:
    for each in failing[:MAX_CLOSED]:
        name, wait = each["webhook"], f"{count(each['waiting'], 'message')}"
        if disabled := each["disabled"]:
            why = f" ({disabled['reason']})" if disabled["reason"] else ""
            text = f"webhook {name} is disabled by {disabled['by']}{why}, {wait} waiting"
            yield StatsWarning(
                f"{text}: to enable it, run aragora-q webhook enable {name}", "webhooks"
            )
        else:
            since = duration(each["oldest_waiting_seconds"])
            why = f": {each['last_error']}" if each["last_error"] else ": no worker tries"
            text = f"webhook {name}: {wait} waiting, the oldest for {since}{why}"
            yield StatsWarning(text, "webhooks")
    if (more := len(failing) - MAX_CLOSED) > 0:
        text = f"{count(more, 'more webhook')} {'needs' if more == 1 else 'need'} attention"
        yield StatsWarning(f"{text}: see aragora-q webhook list", "webhooks")


def _worker_warnings(stats: StatsJson) -> Iterator[StatsWarning]:
    from aragora_q.status import stalled_workers  # noqa: PLC0415 - most commands need none

    for worker in stats["workers"]:
        if not worker["is_alive"]:
            age = duration(worker["heartbeat_age_seconds"])
            leased = count(worker["jobs_leased"], "job")
            text = f"worker {worker['worker_id']}: no heartbeat for {age}, {leased} leased"
            yield StatsWarning(text, "workers")
    for worker in stalled_workers(stats):
        lag = duration(worker["event_loop_lag_seconds"])
        text = f"worker {worker['worker_id']}: its event loop did not respond for {lag}; its jobs stand still"
        yield StatsWarning(text, "workers")


def ago_text(now: int, ms: int | None) -> str:
    """Return how long ago a time in Unix ms was: `3 min ago`; `never` if it is None."""
    return "never" if ms is None else f"{duration(max(0, now - ms) / 1000)} ago"


async def read_providers(accounts: Accounts, now: float) -> list[ProviderJson]:
    """Return all accounts, then paused providers. `now`: in Unix seconds."""
    found, pauses = await accounts.accounts(), await accounts.pauses()
    agents = await accounts.agents(each.name for each in found)
    return providers_json(found, agents, pauses, now)


def providers_json(
    found: Sequence[Account],
    agents: Mapping[str, Sequence[str]],
    pauses: Mapping[str, Override],
    now: float,
) -> list[ProviderJson]:
    """Return accounts with the agents that have used them, then paused providers. `now`: in Unix seconds."""
    rows = [_provider_json(each, agents[each.name], pause_of(each, pauses), now) for each in found]
    return rows + [_unused_provider_json(name, pauses[name]) for name in unused(pauses, found)]


def pause_of(account: Account, pauses: Mapping[str, Override]) -> Override | None:
    """Return the pause of an account, or of its provider."""
    return next((pauses[name] for name in account.paused_by if name in pauses), None)


def unused(pauses: Mapping[str, Override], found: Sequence[Account]) -> list[str]:
    """Return the names of what is paused and was not called."""
    known = {name for each in found for name in each.paused_by}
    return [name for name in pauses if name not in known]


def _provider_json(
    account: Account, agents: Sequence[str], pause: Override | None, now: float
) -> ProviderJson:
    seconds = account.opens_in_seconds
    return {
        "account": account.name,
        "provider": account.provider,
        "state": account.state,
        "why": account.reason or None,
        "until": None if seconds is None else round((now + seconds) * 1000),
        "limit": account.limit,
        "under_way": account.under_way,
        "waiting": account.waiting,
        "faults": account.faults,
        "agents": list(agents),
        "pause": _override_json(pause),
    }


def _unused_provider_json(name: str, pause: Override) -> ProviderJson:
    return {
        "account": None, "provider": name, "state": "paused", "why": "paused by an operator",
        "until": None, "limit": None, "under_way": 0, "waiting": 0, "faults": 0, "agents": [],
        "pause": _override_json(pause),
    }  # fmt: skip


async def budget_json(book: Book, found: Budget) -> BudgetJson:
    """Return a budget with what is spent of it in its current window."""
    ends_at, spendings = await book.spending(found.name)
    return {
        "name": found.name,
        "scope": found.scope,
        "window": found.window,
        "limit_usd": found.limit_usd,
        "on_full": found.on_full,
        "override": _override_json(found.override),
        "declared_by": list(found.declared_by),
        "window_ends_at": ends_at,
        "spending": [
            {
                "scope": each.scope,
                "spent_usd": each.spent_usd,
                "reserved_usd": each.reserved_usd,
                "estimated_usd": each.estimated_usd,
                "overrun_usd": each.overrun_usd,
            }
            async for each in spendings
        ],
    }


def _override_json(override: Override | None) -> OverrideJson | None:
    if override is None:
        return None
    return {"by": override.by, "at": override.at, "reason": override.reason}


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
