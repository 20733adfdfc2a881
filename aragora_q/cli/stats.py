"""`aragora-q stats`: the queue on one screen, for people at night, for scripts, for Prometheus.

The JSON: all of `get_queue_stats()`, and `queue`, `server` (`name`, `address`, `eviction_policy`,
`has_aof`, `used_bytes`, `max_bytes`), `running_jobs` (`id`, `worker_id`, `started_at`), `attention`
(what an operator should look at, in words). Times are Unix ms, or null for never.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, QueueName, RedisUrl
from aragora_q.cli.output import count, duration, styled

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

WATCH_SECONDS = 2.0
WORKERS_SHOWN = 20
MINUTES = (1, 5, 15)
CLEAR = "\033[H\033[2J"


def stats(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show again every 2 seconds, until Ctrl-C.")
    ] = False,
    prometheus: Annotated[
        Path | None,
        typer.Option(
            "--prometheus",
            metavar="FILE",
            help="Write metrics there, in one step, for node_exporter; - is stdout.",
        ),
    ] = None,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Show backlog, running jobs, workers, throughput and what needs attention.

    It takes the same time for ten jobs as for a million.

    Example:
      aragora-q stats --watch
      aragora-q stats --json | jq .waiting
      * * * * *  aragora-q stats --prometheus /var/lib/metrics/aragora-q.prom

    Exit codes:
      0 ok   69 Redis unreachable   75 Redis busy, try again   77 access denied

    """
    if prometheus and (watch or as_json):
        raise typer.BadParameter("goes neither with --watch nor --json", param_hint="--prometheus")
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    options.run(_stats(settings, prometheus, watch=watch, as_json=as_json))


async def _stats(settings: Any, prometheus: Path | None, *, watch: bool, as_json: bool) -> None:
    async with options.opened(settings) as queue:
        if prometheus:
            from aragora_q.observability import queue_metrics

            queue_metrics.write(await queue_metrics.snapshot(queue), prometheus)
            return
        while True:
            seen = await _look(queue)
            if as_json:
                output.json_line(seen)
            else:
                output.write((CLEAR if watch and sys.stdout.isatty() else "") + _render(seen))
            if not watch:
                return
            sys.stdout.flush()
            await asyncio.sleep(WATCH_SECONDS)


async def _look(queue: RedisStreamsQueue) -> dict[str, Any]:
    """The JSON of the module's docstring."""
    from aragora_q.redis.server import check_server

    facts = await check_server(queue.connection)
    seen: dict[str, Any] = {**await queue.get_queue_stats()}
    workers = {job_id: worker for worker in seen["workers"] for job_id in worker["running"]}
    started = await queue.tracker.started_at(list(workers))
    seen = {
        "queue": queue.config.queue,
        "server": {
            "name": facts.name,
            "address": queue.connection.address,
            "eviction_policy": facts.eviction_policy,
            "has_aof": facts.has_aof,
            "used_bytes": facts.used_bytes,
            "max_bytes": facts.max_bytes,
        },
        **seen,
        "running_jobs": [
            {"id": job_id, "worker_id": workers[job_id]["worker_id"], "started_at": at}
            for job_id, at in sorted(started.items(), key=lambda each: each[1])
        ],
    }
    return {**seen, "warnings": list(_warnings(seen))}


def _warnings(seen: Mapping[str, Any]) -> Iterator[str]:
    """What an operator should look at first."""
    waiting, workers = sum(seen["waiting"].values()), seen["workers"]
    alive = [each for each in workers if each["is_alive"]]
    if seen["paused"]:
        yield f"paused {_ago(seen, seen['paused_at'])}: no job starts; aragora-q resume"
    if seen["grace_until"]:
        grace = duration((seen["grace_until"] - seen["now"]) / 1000)
        yield f"all workers were silent: nothing is taken from them for another {grace}"
    if (waiting or seen["delayed"] or seen["running"]) and not alive:
        yield "no worker is alive: start one, nothing will happen before"
    for worker in workers:
        if worker not in alive:
            silence = duration(worker["heartbeat_age_seconds"])
            held = count(worker["jobs_leased"], "job")
            yield f"worker {worker['worker_id']} is silent for {silence}, holds {held}"
    server = seen["server"]
    if server["eviction_policy"] != "noeviction":
        yield f"Redis may delete jobs: maxmemory-policy is {server['eviction_policy']}"
    if server["max_bytes"] and server["used_bytes"] > 0.9 * server["max_bytes"]:
        yield f"Redis' memory is {server['used_bytes'] / server['max_bytes']:.0%} full"
    if failed := seen["throughput"]["failed_15m"]:
        yield f"{count(failed, 'job')} failed within 15 min: aragora-q list --status failed"


def _render(seen: Mapping[str, Any]) -> str:
    server = seen["server"]
    rows = [styled(f"queue {seen['queue']}", "1") + output.safe_text(f" at {server['address']}")]
    rows += [styled(f"! {line}", "31") for line in seen["warnings"]]
    return "\n".join(
        [*rows, "", *_backlog(seen), "", *_ended(seen), "", *_maintenance(seen), *_workers(seen)]
    )


def _backlog(seen: Mapping[str, Any]) -> Iterator[str]:
    waiting, oldest = seen["waiting"], seen["oldest_waiting_seconds"]
    lanes = {lane: number for lane, number in waiting.items() if number}
    notes = [", ".join(f"{number:,} {lane}" for lane, number in lanes.items())]
    if set(lanes) <= {"normal"}:
        notes.clear()
    if oldest is not None:
        notes.append(f"oldest {duration(oldest)}")
    yield _row("waiting", sum(waiting.values()), "; ".join(notes))
    due = seen["next_due_seconds"]
    due_note = "" if due is None else f"next due in {duration(due)}" if due else "next is due now"
    yield _row("delayed", seen["delayed"], due_note)
    longest = seen["running_jobs"][:1]
    ages = [f"longest {_age(seen, job['started_at'])}: {job['id']}" for job in longest]
    yield _row("running", seen["running"], "".join(ages))


def _ended(seen: Mapping[str, Any]) -> Iterator[str]:
    done = seen["throughput"]
    yield _row("", "kept", "".join(f"{f'{minutes} min':>9}" for minutes in MINUTES))
    for name in ("completed", "failed"):
        recent = "".join(f"{done[f'{name}_{minutes}m']:>9,}" for minutes in MINUTES)
        yield _row(name, seen[name], recent)
    yield _row("cancelled", seen["cancelled"])


def _maintenance(seen: Mapping[str, Any]) -> Iterator[str]:
    reap, purge = (_ago(seen, seen[f"last_{name}_at"]) for name in ("reap", "purge"))
    yield f"last reap {reap}, last purge {purge}; workers reap by themselves"


def _workers(seen: Mapping[str, Any]) -> Iterator[str]:
    """A table of the workers, those that run longest first."""
    started = {job["id"]: job["started_at"] for job in seen["running_jobs"]}
    rows = [("WORKER", "HEARTBEAT", "JOBS", "LONGEST JOB", "RUNS FOR")]
    for worker in seen["workers"][:WORKERS_SHOWN]:
        ran = sorted((started[job], job) for job in worker["running"] if job in started)
        at, job_id = ran[0] if ran else (None, "")
        rows.append(
            (
                worker["worker_id"],
                f"{duration(worker['heartbeat_age_seconds'])} ago",
                f"{worker['holds']}/{worker.get('slots', '?')}",
                output.truncate(job_id, 32),
                _age(seen, at) if at else "",
            )
        )
    if len(rows) > 1:
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        yield ""
        for n, row in enumerate(rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            text = "  ".join(cells).rstrip()
            yield styled(text, "1") if n == 0 else output.safe_text(text)
    if (more := len(seen["workers"]) - WORKERS_SHOWN) > 0:
        yield f"and {count(more, 'worker')} more"


def _row(label: str, number: int | str, note: str = "") -> str:
    shown = f"{number:,}" if isinstance(number, int) else number
    return output.safe_text(f"{label:<10}{shown:>11}  {note}".rstrip())


def _age(seen: Mapping[str, Any], at: int) -> str:
    return duration(max(0, seen["now"] - at) / 1000)


def _ago(seen: Mapping[str, Any], at: int | None) -> str:
    return "never" if at is None else f"{_age(seen, at)} ago"
