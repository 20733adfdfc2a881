"""`aragora-q stats`: the state of the queue, for people, for scripts and for Prometheus."""

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

WATCH_SECONDS = 2.0
MAX_WORKERS = 20
"""Workers listed for people; the JSON has up to 100."""

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
    from aragora_q import views

    async with options.open_queue(settings) as queue, queue.connection.open_gates() as gates:
        if prometheus:
            from aragora_q.observability import queue_metrics

            queue_metrics.write(await queue_metrics.snapshot(queue, gates), prometheus)
            return
        while True:
            stats = await views.stats_json(queue, gates)
            if as_json:
                output.json_line(stats)
            else:
                clear = CLEAR_SCREEN if watch and sys.stdout.isatty() else ""
                output.write(clear + _render(stats))
            if not watch:
                return
            output.flush()
            await asyncio.sleep(WATCH_SECONDS)


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
    from aragora_q.cli import layout

    throughput = stats["throughput"]
    yield _format_row("", "kept", "".join(f"{f'{minutes} min':>9}" for minutes in MINUTES))
    for name in ("completed", "failed"):
        recent = "".join(f"{throughput[f'{name}_{minutes}m']:>9,}" for minutes in MINUTES)
        yield _format_row(name, stats[name], recent)
    yield _format_row("cancelled", stats["cancelled"])
    if (spent := stats["spent_today"]) and spent["calls"]:
        yield ""
        yield _format_row(
            "spent", dollars_or_unknown(spent["usd"]), f"today (UTC): {layout.spent_text(spent)}"
        )


def _maintenance(stats: Mapping[str, Any]) -> Iterator[str]:
    from aragora_q.views import ago_text

    reap, purge = (ago_text(stats["now"], stats[at]) for at in ("last_reap_at", "last_purge_at"))
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
