"""Lay the parts of the screen out as escaped text, for a width in columns. Does not know the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from aragora_q import job_text
from aragora_q.cli import layout
from aragora_q.cli.top.actions import ACTIONS
from aragora_q.cli.top.reading import filter_text
from aragora_q.formats import ago, columns, count, dollars_or_unknown, duration, truncate
from aragora_q.formats import safe_text as safe

if TYPE_CHECKING:
    from aragora_q.cli.top.reading import Picture
    from aragora_q.labels import JobFilter
    from aragora_q.shapes import SpentJson, StatsJson

MAX_WARNINGS = 5

JOB_COLUMNS = ("", "ID", "STATUS", "UPDATED", "LABELS", "SUMMARY")
WORKER_COLUMNS = ("WORKER", "HEARTBEAT", "JOBS", "RUNNING", "FOR")

Row = tuple[str, tuple[str, ...]]
"""A key, and the cells."""


def header(picture: Picture, age_seconds: float | None) -> str:
    """Return the line of queue and server, with the age of what is shown if that is given."""
    stats = picture.stats
    server = stats["server"]
    age = f"  as of {duration(age_seconds)} ago" if age_seconds is not None else ""
    return safe(f"queue {stats['queue']} at {server['address']}, {server['name']}{age}")


def warnings(picture: Picture) -> list[str]:
    """Return what needs attention, most important first."""
    texts = [safe(text) for text in (*picture.stats["warnings"], *picture.faults)]
    if (more := len(texts) - MAX_WARNINGS) > 0:
        texts[MAX_WARNINGS:] = [f"{count(more, 'more warning')}: aragora-q stats, aragora-q list"]
    return texts


def counts(picture: Picture) -> list[str]:
    """Return lines of jobs by state, throughput, spending and workers."""
    stats = picture.stats
    oldest, oldest_held = stats["oldest_waiting_seconds"], stats["oldest_held_seconds"]
    waiting = _number("waiting", sum(stats["waiting"].values()), oldest)
    held = _number("held", stats["held"], oldest_held)
    workers = stats["worker_counts"]
    silent = f", {workers['silent']:,} silent" if workers["silent"] else ""
    ended = [
        f"completed {stats['completed']:,} ({_recent(stats, 'completed')} in 1/5/15 min)",
        f"failed {stats['failed']:,} ({_recent(stats, 'failed')})",
        f"cancelled {stats['cancelled']:,}",
    ]
    lines = [
        f"{waiting}  delayed {stats['delayed']:,}  {held}  running {stats['running']:,}",
        "  ".join(ended),
        f"{_spent(stats['spent_today'])}  workers {workers['alive']:,}{silent}",
    ]
    return [safe(line) for line in lines]


def _recent(stats: StatsJson, name: str) -> str:
    recent = stats["throughput"]
    return "/".join(f"{recent[f'{name}_{minutes}m']:,}" for minutes in (1, 5, 15))


def _number(name: str, number: int, oldest_seconds: float | None) -> str:
    oldest = "" if oldest_seconds is None else f" (oldest {duration(oldest_seconds)})"
    return f"{name} {number:,}{oldest}"


def _spent(spent: SpentJson | None) -> str:
    if spent is None:
        return "spent today: cannot be read"
    calls = f" ({layout.spent_text(spent)})" if spent["calls"] else ""
    return f"spent today {dollars_or_unknown(spent['usd'])}{calls}"


def title(picture: Picture, wanted: JobFilter, marked: int) -> str:
    """Return the line above the jobs: which they are, how many, and how many are marked."""
    times = [
        f"{name} {datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
        for name, seconds in (("since", wanted.since), ("until", wanted.until))
        if seconds is not None
    ]
    words = " ".join(filter(None, [filter_text(wanted), *times]))
    which = f"that match: {words}" if words else "newest first"
    number = f"{len(picture.jobs):,}{' and more' if picture.has_more else ''}"
    marks = f"  marked: {marked:,}" if marked else ""
    return safe(f"jobs {which} ({number}){marks}   w: workers")


def jobs(picture: Picture, marked: frozenset[str], known_labels: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of the table of jobs."""
    for job in picture.jobs:
        updated = job.completed_at or job.started_at or job.created_at or 0.0
        yield (
            job.id,
            (
                "*" if job.id in marked else "",
                safe(job.id),
                job.status.value,
                ago(updated, picture.now),
                safe(job_text.labels_text(job, known=known_labels)),
                truncate(job_text.summary(job), 300),
            ),
        )


def workers(picture: Picture) -> Iterator[Row]:
    """Yield the rows of the table of workers: a row for each job that one runs."""
    started = {job["id"]: job["started_at"] for job in picture.stats["running_jobs"]}
    for worker in picture.stats["workers"]:
        name = worker["worker_id"]
        running = sorted(dict.fromkeys(worker["running"]), key=lambda id_: started.get(id_, 0))
        first = (
            safe(name),
            f"{duration(worker['heartbeat_age_seconds'])} ago{'' if worker['is_alive'] else ', silent'}",
            safe(f"{worker['jobs_leased']}/{worker.get('concurrency', '?')}"),
        )
        for n, job_id in enumerate(running or [""]):
            since = started.get(job_id)
            age = "" if since is None else duration(max(0.0, picture.now - since / 1000))
            yield f"{name} {job_id}", (*(first if n == 0 else ("", "", "")), safe(job_id), age)


def widths(head: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> list[int]:
    """Return the width of each column so that a row takes `total`: the widest ones give way.

    The last column gets the rest.
    """
    room = total - 2 * len(head)
    wanted = [max(map(columns, column)) for column in zip(head, *rows, strict=True)]
    while sum(wanted) > room and max(wanted) > 8:
        wanted[wanted.index(max(wanted))] -= 1
    wanted[-1] += max(0, room - sum(wanted))
    return wanted


KEYS = "? help  q quit  p pause  c cancel  r requeue  h hold  u unhold  / filter"
"""The last line; the help has all keys."""

_CHANGES = "\n".join(
    f"{action.key:<12}{action.verb.name} the job, or those that are marked" for action in ACTIONS
)

HELP = f"""\
up, down    choose a job (also j, k, PgUp, PgDn, Home, End)
Enter       show the job; a running debate is followed
Space       mark the job: keys act on all that are marked
a           mark all jobs of the table, or none

{_CHANGES}
p           pause the queue, or resume it

1 2 3 4     show the newest jobs, or those that run, failed, or are held
/           filter: statuses, group:NAME, tenant:NAME, K=V of tags
w           workers, and what each runs; again: jobs

Ctrl-Z      suspend; fg continues
q, Ctrl-C   quit

Every change is confirmed first, and takes a reason for other operators."""
