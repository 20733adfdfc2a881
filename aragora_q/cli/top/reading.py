"""Read what the screen shows, in few round trips. Knows the queue, not the screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aragora_q import shapes, views
from aragora_q.base import Job, JobStatus
from aragora_q.cli.layout import job_lines
from aragora_q.errors import InvalidPayload, did_you_mean
from aragora_q.formats import safe_text
from aragora_q.job_rules import is_debate
from aragora_q.labels import JobFilter
from aragora_q.report import plain
from aragora_q.report.calls import read_calls
from aragora_q.report.content import build_report
from aragora_q.report.debate import Debate

if TYPE_CHECKING:
    from aragora_q.redis.connection import Connection
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_JOBS = 50
"""Jobs in the table: as many as one round trip reads."""

MAX_PAGES = 3
"""Pages of the index that are searched for them."""

MAX_BYTES = 4_096
"""Longest payload and result of a job in the table that are read: it has one line."""


@dataclass(frozen=True)
class Picture:
    """What was in Redis at one moment."""

    stats: shapes.StatsJson
    jobs: Sequence[Job]
    faults: Sequence[str]
    """What is wrong with jobs that cannot be shown."""
    has_more: bool
    """True if more jobs match."""

    @property
    def now(self) -> float:
        """Time of the server's clock, in Unix seconds."""
        return float(self.stats["now"]) / 1000


class Reader:
    """Reads a queue and its gates for the screen.

    All methods raise RedisUnreachable, TryAgain or AccessDenied if Redis does not answer.
    """

    def __init__(self, queue: RedisStreamsQueue, gates: Connection) -> None:
        self.queue = queue
        self._gates = gates

    async def picture(self, wanted: JobFilter) -> Picture:
        """Read statistics, and the newest jobs that match, at the same time."""
        stats, (jobs, has_more) = await asyncio.gather(
            views.stats_json(self.queue, self._gates), self._jobs(wanted)
        )
        statuses = wanted.statuses or frozenset(JobStatus)
        return Picture(
            stats,
            [job for job in jobs if isinstance(job, Job) and job.status in statuses],
            [str(job) for job in jobs if isinstance(job, InvalidPayload)],
            has_more,
        )

    async def _jobs(self, wanted: JobFilter) -> tuple[list[Job | InvalidPayload | None], bool]:
        """Return the newest jobs that match, and whether there are more. Where few match, it may miss some."""
        found, cursor = dict[str, None](), ""
        for _ in range(MAX_PAGES):
            page = await self.queue.find_page(wanted, cursor, MAX_JOBS - len(found))
            found |= dict.fromkeys(page.ids)
            cursor = page.cursor
            if not cursor or len(found) >= MAX_JOBS:
                break
        read = await self.queue.tracker.read_jobs(list(found), max_bytes=MAX_BYTES)
        return read.jobs, bool(cursor)

    async def job(self, job_id: str, width: int) -> tuple[Job | None, str]:
        """Return a job, and its lines of text: what `status` prints, and of a debate what `show` prints, too.

        The job is None if it is not there any more, or corrupted: the text says so.
        """
        try:
            job = await self.queue.get_job(job_id)
            if job is None:
                return None, f"job {safe_text(job_id)} is not there any more: it was purged"
            return job, await self._text(job, width)
        except InvalidPayload as error:
            return None, safe_text(f"{error}\n{error.hint}", keep="\n")

    async def _text(self, job: Job, width: int) -> str:
        tracker = self.queue.tracker
        history, now = await tracker.history(job.id), await tracker.server_time()
        if not is_debate(job):
            return _safe_lines(job_lines(job, now, history))
        journal = await tracker.checkpoints(job.id)
        calls = read_calls(journal, (job.result or {}).get("transcript"))
        lines = job_lines(job, now, history, Debate(job, calls).quote())
        return f"{_safe_lines(lines)}\n\n{plain.render(build_report(job, calls), width)}"

    def events(self) -> AsyncIterator[list[dict[str, str]]]:
        """Iterate over the queue's events as they happen, without end."""
        return self.queue.event_batches()


def _safe_lines(lines: Iterable[str]) -> str:
    return "\n".join(map(safe_text, lines))


def filter_text(wanted: JobFilter) -> str:
    """Return the words that `parse_filter` takes: `failed group:nightly tenant:acme env=prod`."""
    statuses = [status.value for status in JobStatus if status in wanted.statuses]
    return " ".join([*statuses, *(label.removeprefix("tag:") for label in wanted.labels)])


def parse_filter(text: str, before: JobFilter) -> JobFilter:
    """Return the filter that words mean: statuses, `group:NAME`, `tenant:NAME`, `K=V`. Keeps the times.

    Raises:
        InvalidPayload: a word is none of these, or breaks a rule.
    """
    statuses, tags, names = set[JobStatus](), dict[str, str](), dict[str, str]()
    for word in text.split():
        kind, colon, name = word.partition(":")
        tag, equals, value = word.partition("=")
        if colon and kind in ("group", "tenant"):
            names[kind] = name
        elif equals:
            tags[tag] = value
        elif word in list(JobStatus):
            statuses.add(JobStatus(word))
        else:
            raise InvalidPayload(
                f"{word!r:.60} is not a status, nor group:NAME, tenant:NAME or K=V of a tag",
                hint=did_you_mean(word, [status.value for status in JobStatus]),
            )
    wanted = replace(
        before,
        statuses=frozenset(statuses),
        group=names.get("group"),
        tenant=names.get("tenant"),
        tags=tags,
    )
    wanted.check()
    return wanted
