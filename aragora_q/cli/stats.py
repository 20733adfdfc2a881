"""`aragora-q stats`: the state of the queue, for people, for scripts and for Prometheus.

The JSON has all fields of `get_queue_stats()`, and `queue`, `server` (`name`, `address`,
`eviction_policy`, `has_aof`, `used_bytes`, `max_bytes`), `running_jobs` (`id`, `worker_id`,
`started_at`), `spent_today`, `closed_providers`, `warnings` (text for operators). Times are Unix ms, or null
for never.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, LoadConfig, with_config
from aragora_q.cli.output import count, duration, styled
from aragora_q.formats import dollars_or_unknown

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.redis.connection import Connection
    from aragora_q.streams.queue import RedisStreamsQueue

WATCH_SECONDS = 2.0
MAX_WORKERS = 20
"""Workers listed for people; the JSON has up to 100."""

MAX_CLOSED = 5
"""Closed providers among the warnings."""

MINUTES = (1, 5, 15)
CLEAR_SCREEN = "\033[H\033[2J"

EPILOG = """\b
Examples:
  aragora-q stats --watch
  aragora-q stats --json | jq .waiting
  * * * * *  aragora-q stats --prometheus /var/lib/metrics/aragora-q.prom

\b
Exit codes:
  0 ok   69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_config
def stats(
    load: LoadConfig,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Repeat every 2 seconds until Ctrl-C.")
    ] = False,
    prometheus: Annotated[
        Path | None,
        typer.Option(
            "--prometheus",
            metavar="FILE",
            help="Write metrics to FILE atomically (for node_exporter), or to stdout with -.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show backlog, running jobs, workers, throughput and warnings.

    The time it takes does not depend on the number of jobs.
    """
    if prometheus and (watch or as_json):
        raise typer.BadParameter(
            "cannot be combined with --watch or --json", param_hint="--prometheus"
        )
    options.run(_stats(load(), prometheus, watch=watch, as_json=as_json))


async def _stats(
    settings: QueueConfig, prometheus: Path | None, *, watch: bool, as_json: bool
) -> None:
    async with options.open_queue(settings) as queue, queue.connection.open_gates() as gates:
        if prometheus:
            from aragora_q.observability import queue_metrics

            queue_metrics.write(await queue_metrics.snapshot(queue, gates), prometheus)
            return
        while True:
            stats = await _collect(queue, gates)
            if as_json:
                output.json_line(stats)
            else:
                clear = CLEAR_SCREEN if watch and sys.stdout.isatty() else ""
                output.write(clear + _render(stats))
            if not watch:
                return
            output.flush()
            await asyncio.sleep(WATCH_SECONDS)


async def _collect(queue: RedisStreamsQueue, gates: Connection) -> dict[str, Any]:
    """Return the JSON that the module's docstring describes."""
    from aragora_q.redis.server import check_server

    server = await check_server(queue.connection)
    stats: dict[str, Any] = dict(await queue.get_queue_stats())
    workers = {job_id: worker for worker in stats["workers"] for job_id in worker["running"]}
    started = await queue.tracker.started_at(list(workers))
    stats = {
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
    }
    money, trouble = await _read_gates(gates)
    stats |= money
    return {**stats, "warnings": [*_warnings(stats), *trouble]}


async def _read_gates(gates: Connection) -> tuple[dict[str, Any], list[str]]:
    """Return what the JSON has of the gates, and a warning if they cannot be read: all else is shown."""
    from aragora_q.errors import AragoraQError
    from aragora_q.gates.overview import read_overview

    try:
        overview = await read_overview(gates)
    except (AragoraQError, ValueError) as error:
        return (
            {"spent_today": None, "closed_providers": None},
            [f"spending and providers cannot be read: {error}"],
        )
    closed = [
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
    return {"spent_today": overview.spent_today.as_json(), "closed_providers": closed}, []


def _warnings(stats: Mapping[str, Any]) -> Iterator[str]:
    """Yield what needs an operator's attention, most important first."""
    waiting = sum(stats["waiting"].values())
    if stats["paused"]:
        paused = _format_ago(stats, stats["paused_at"])
        by = f" by {stats['paused_by']}" if stats["paused_by"] else ""
        why = f" ({stats['paused_reason']})" if stats["paused_reason"] else ""
        yield f"queue paused {paused}{by}{why}, no jobs start: to resume, run aragora-q resume"
    if stats["grace_until"]:
        grace = duration((stats["grace_until"] - stats["now"]) / 1000)
        yield f"no worker sent a heartbeat recently: no jobs are reclaimed for another {grace}"
    if (waiting or stats["delayed"] or stats["running"]) and not stats["worker_counts"]["alive"]:
        yield "no live worker: jobs will not run until one starts"
    yield from _worker_warnings(stats)
    server = stats["server"]
    if server["eviction_policy"] not in (None, "noeviction"):
        yield f"Redis may evict jobs: maxmemory-policy is {server['eviction_policy']}"
    used_bytes, max_bytes = server["used_bytes"], server["max_bytes"]
    if used_bytes and max_bytes and used_bytes > 0.9 * max_bytes:
        yield f"Redis memory is {used_bytes / max_bytes:.0%} full"
    closed = stats["closed_providers"] or ()
    for each in closed[:MAX_CLOSED]:
        seconds = each["seconds"]
        name = each["account" if each["closed_by"] == "credit" else "provider"]
        resume = f"until aragora-q providers resume {name}"
        until = resume if seconds is None else f"for {duration(seconds)}"
        yield f"provider {each['account']} takes no calls {until}: {each['reason']}"
    if (more := len(closed) - MAX_CLOSED) > 0:
        yield f"{count(more, 'more provider')} {'takes' if more == 1 else 'take'} no calls"
    if failed := stats["throughput"]["failed_15m"]:
        yield f"{count(failed, 'job')} failed within 15 min: run aragora-q list --status failed"


def _worker_warnings(stats: Mapping[str, Any]) -> Iterator[str]:
    from aragora_q.status import stalled_workers

    for worker in stats["workers"]:
        if not worker["is_alive"]:
            age = duration(worker["heartbeat_age_seconds"])
            leased = count(worker["jobs_leased"], "job")
            yield f"worker {worker['worker_id']}: no heartbeat for {age}, {leased} leased"
    for worker in stalled_workers(stats):
        lag = duration(worker["event_loop_lag_seconds"])
        yield f"worker {worker['worker_id']}: its event loop did not respond for {lag}; its jobs stand still"


def _render(stats: Mapping[str, Any]) -> str:
    address = output.safe_text(f" at {stats['server']['address']}")
    rows = [styled(f"queue {stats['queue']}", "1") + address]
    rows += [styled(f"! {warning}", "31") for warning in stats["warnings"]]
    rows += ["", *_backlog(stats), "", *_ended(stats), "", *_maintenance(stats), *_workers(stats)]
    return "\n".join(rows)


def _backlog(stats: Mapping[str, Any]) -> Iterator[str]:
    waiting, oldest = stats["waiting"], stats["oldest_waiting_seconds"]
    lanes = {lane: number for lane, number in waiting.items() if number}
    notes = []
    if not set(lanes) <= {"normal"}:
        notes.append(", ".join(f"{number:,} {lane}" for lane, number in lanes.items()))
    if oldest is not None:
        notes.append(f"oldest {duration(oldest)}")
    yield _format_row("waiting", sum(waiting.values()), "; ".join(notes))
    due = stats["next_due_seconds"]
    due_note = "" if due is None else f"next due in {duration(due)}" if due else "next is due now"
    yield _format_row("delayed", stats["delayed"], due_note)
    held = stats["oldest_held_seconds"]
    why = "" if held is None else f"oldest {duration(held)}; why: aragora-q list --status held"
    yield _format_row("held", stats["held"], why)
    longest = stats["running_jobs"][:1]
    ages = [f"longest {_format_age(stats, job['started_at'])}: {job['id']}" for job in longest]
    yield _format_row("running", stats["running"], "".join(ages))


def _ended(stats: Mapping[str, Any]) -> Iterator[str]:
    from aragora_q.cli import views

    throughput = stats["throughput"]
    yield _format_row("", "kept", "".join(f"{f'{minutes} min':>9}" for minutes in MINUTES))
    for name in ("completed", "failed"):
        recent = "".join(f"{throughput[f'{name}_{minutes}m']:>9,}" for minutes in MINUTES)
        yield _format_row(name, stats[name], recent)
    yield _format_row("cancelled", stats["cancelled"])
    if (spent := stats["spent_today"]) and spent["calls"]:
        yield ""
        yield _format_row(
            "spent", dollars_or_unknown(spent["usd"]), f"today (UTC): {views.spent_text(spent)}"
        )


def _maintenance(stats: Mapping[str, Any]) -> Iterator[str]:
    reap, purge = (_format_ago(stats, stats[f"last_{name}_at"]) for name in ("reap", "purge"))
    yield f"last reap {reap}, last purge {purge} (live workers reclaim and purge, too)"


def _workers(stats: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of the workers, the oldest heartbeat first."""
    started = {job["id"]: job["started_at"] for job in stats["running_jobs"]}
    rows = [("WORKER", "HEARTBEAT", "JOBS", "LONGEST JOB", "RUNNING FOR")]
    for worker in stats["workers"][:MAX_WORKERS]:
        running = sorted((started[job], job) for job in worker["running"] if job in started)
        started_at, job_id = running[0] if running else (None, "")
        rows.append(
            (
                worker["worker_id"],
                f"{duration(worker['heartbeat_age_seconds'])} ago",
                f"{worker['jobs_leased']}/{worker.get('concurrency', '?')}",
                output.truncate(job_id, 32),
                _format_age(stats, started_at) if started_at else "",
            )
        )
    if len(rows) > 1:
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        yield ""
        for n, row in enumerate(rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            text = "  ".join(cells).rstrip()
            yield styled(text, "1") if n == 0 else output.safe_text(text)
    if (more := sum(stats["worker_counts"].values()) - MAX_WORKERS) > 0:
        yield f"and {count(more, 'more worker')}"


def _format_row(label: str, value: int | str, note: str = "") -> str:
    text = f"{value:,}" if isinstance(value, int) else value
    return output.safe_text(f"{label:<10}{text:>11}  {note}".rstrip())


def _format_age(stats: Mapping[str, Any], ms: int) -> str:
    return duration(max(0, stats["now"] - ms) / 1000)


def _format_ago(stats: Mapping[str, Any], ms: int | None) -> str:
    return "never" if ms is None else f"{_format_age(stats, ms)} ago"
