"""The overview: what needs attention first, then how much goes through, then what runs and what ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from aragora_q import views
from aragora_q.base import TERMINAL, JobStatus
from aragora_q.errors import AragoraQError
from aragora_q.events import SUBJECTS
from aragora_q.formats import count, dollars, duration
from aragora_q.gates.book import NEARLY_USED
from aragora_q.gates.overview import BudgetState, read_overview
from aragora_q.labels import JobFilter
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.samples import Span, read_samples
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.access import Viewer
from aragora_q.web.charts import queue_charts
from aragora_q.web.pages.jobs import JobRow, read_rows
from aragora_q.web.pages.rendering import comes_from_action, render

router = APIRouter()

RUNNING_SHOWN = 12
ENDED_SHOWN = 10
FAILED_SHOWN = 4
EVENTS_SHOWN, EVENTS_READ = 15, 60
SPANS: Sequence[tuple[Span, str]] = (("2h", "2 hours"), ("48h", "48 hours"), ("90d", "90 days"))
FAILED_SECONDS = 24 * 3600.0
"""Failed jobs of this time need attention."""

OLD_SECONDS = 600.0
"""A job that waits longer needs attention."""

PLACES = {
    "workers": ("/workers", "workers"),
    "providers": ("/money#providers", "providers"),
    "schedules": ("/schedules", "schedules"),
    "webhooks": ("/webhooks", "webhooks"),
    "failed": ("/failed", "failed jobs"),
}
"""Addresses and names of links, by what a warning is about."""


@dataclass(frozen=True)
class Attention:
    """Something that an operator should look at."""

    text: str
    tone: str
    """`bad`: it stops jobs; `caution`: it may."""
    address: str = ""
    """Where to look; blank: nowhere else."""
    link: str = ""


@dataclass(frozen=True)
class Event:
    """An event of the queue, of one of its jobs or of several."""

    at: float
    name: str
    subject: str
    """Name of the group, schedule or webhook; blank for the queue and its jobs."""
    ids: Sequence[str]
    by: str
    """The operator or the worker."""


@router.get("/", response_class=HTMLResponse)
async def overview_page(request: Request, access: Viewer) -> HTMLResponse:
    """Show the state of the queue. It is read once a second, however many follow it."""
    chosen = request.query_params.get("span")
    span: Span = next((each for each, _ in SPANS if each == chosen), "2h")
    shared = access.console.shared
    if comes_from_action(request):
        shared.clear()
    found = await shared.get(f"overview {span}", partial(_read, access.queue, access.gates, span))
    return render(request, "overview.html", span=span, spans=SPANS, **found)


async def _read(queue: RedisStreamsQueue, gates: Connection, span: Span) -> dict[str, Any]:
    """Return what the template shows."""
    ((stats, warnings), budgets, events, samples), (running, ended, failed) = await asyncio.gather(
        asyncio.gather(
            views.read_stats(queue, gates),
            _budgets(gates),
            latest_events(queue),
            read_samples(queue.connection, span),
        ),
        asyncio.gather(
            queue.find_page(JobFilter(statuses={JobStatus.PROCESSING}), "", RUNNING_SHOWN),
            queue.find_page(JobFilter(statuses=TERMINAL), "", ENDED_SHOWN),
            queue.find_page(JobFilter(statuses={JobStatus.FAILED}), "", FAILED_SHOWN),
        ),
    )
    now = stats["now"] / 1000
    ids = list(dict.fromkeys([*running.ids, *ended.ids, *failed.ids]))
    rows = {row.id: row for row in (await read_rows(queue, ids))[0]}
    return {
        "now": now,
        "stats": stats,
        "waiting": sum(stats["waiting"].values()),
        "attention": [
            *_attention(stats, warnings, budgets),
            *_crash_attention(list(rows.values())),
        ],
        "failed": [
            row
            for row in _of(rows, failed.ids)
            if row.status == "failed" and now - (row.at or 0) < FAILED_SECONDS
        ],
        "running": _of(rows, running.ids),
        "more_running": max(0, stats["running"] - len(running.ids)),
        "ended": _of(rows, ended.ids),
        "charts": queue_charts(samples.series()) if samples.samples else [],
        "events": events,
    }


def _of(rows: Mapping[str, JobRow], ids: Sequence[str]) -> list[JobRow]:
    return [rows[job_id] for job_id in ids if job_id in rows]


async def _budgets(gates: Connection) -> list[BudgetState]:
    """Return the budgets; none if they cannot be read, which the warnings say."""
    try:
        return (await read_overview(gates, with_budgets=True)).budgets
    except (AragoraQError, ValueError):
        return []


async def latest_events(queue: RedisStreamsQueue) -> list[Event]:
    """Return the latest events, newest first; of those that a job repeats, as `progress`, the last one."""
    rows = await queue.connection.execute(
        "XREVRANGE", queue.connection.keys.events, "+", "-", "COUNT", EVENTS_READ
    )
    found: dict[tuple[str, ...], Event] = {}
    for entry_id, fields in rows:
        event = _event(replies.text(entry_id), replies.text_map(fields))
        found.setdefault((event.name, event.subject, *event.ids), event)
    return list(found.values())[:EVENTS_SHOWN]


def _event(entry_id: str, fields: Mapping[str, str]) -> Event:
    return Event(
        at=int(entry_id.partition("-")[0]) / 1000,
        name=fields.get("event", "?").replace("_", " "),
        subject=next((fields[kind] for kind in SUBJECTS if fields.get(kind)), ""),
        ids=fields.get("ids", "").split(),
        by=fields.get("by") or fields.get("worker", ""),
    )


def _attention(
    stats: Mapping[str, Any], warnings: Sequence[views.StatsWarning], budgets: Sequence[BudgetState]
) -> Iterator[Attention]:
    """Yield what an operator should look at, most important first."""
    for warning in warnings:
        yield Attention(warning.text, "bad", *PLACES.get(warning.about, ()))
    if (oldest := stats["oldest_waiting_seconds"]) is not None and oldest > OLD_SECONDS:
        waits = f"The oldest waiting job waits for {duration(oldest)}."
        yield Attention(waits, "caution", "/jobs?status=pending", "waiting jobs")
    if stats["held"]:
        oldest = stats["oldest_held_seconds"]
        since = f", the oldest for {duration(oldest)}" if oldest is not None else ""
        held = f"{count(stats['held'], 'job')} {'is' if stats['held'] == 1 else 'are'} held"
        yield Attention(f"{held}{since}.", "caution", "/held", "held jobs")
    yield from map(_budget_attention, filter(_is_nearly_used, budgets))


def _is_nearly_used(state: BudgetState) -> bool:
    return state.budget.share(state.spending) >= NEARLY_USED


def _budget_attention(state: BudgetState) -> Attention:
    used = state.spending.spent_usd + state.spending.reserved_usd
    limit = state.budget.limit_usd
    scope = "" if state.spending.scope == "all" else f" of {state.spending.scope}"
    share = f", {used / limit:.0%}" if limit else ""
    return Attention(
        f"Budget {state.budget.name}{scope}: {dollars(used)} of {dollars(limit)} used{share}.",
        "bad" if used >= limit else "caution",
        "/money#budgets",
        "budgets",
    )


def _crash_attention(rows: Sequence[JobRow]) -> Iterator[Attention]:
    for row in rows:
        if row.crashes and row.status != "completed":
            crashes = count(row.crashes, "worker")
            yield Attention(
                f"{crashes} died while running job {row.id}.",
                "caution",
                f"/jobs/{row.id}",
                "its history",
            )
