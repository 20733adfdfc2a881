"""`aragora-q list`: jobs, newest first."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.base import Job, JobStatus
from aragora_q.cli import output
from aragora_q.cli.filters import GivenFilter, with_filter
from aragora_q.cli.options import AsJson, Quiet, with_queue
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.labels import JobFilter
    from aragora_q.streams.queue import RedisStreamsQueue

PAGE = 50
"""Jobs to read at the same time."""

EPILOG = """\b
Examples:
  aragora-q list --status failed
  aragora-q list --group nightly --since 2h
  aragora-q list -s failed -n 999 --jsonl | grep 429 | aragora-q requeue -

\b
Exit codes:
  0 ok   2 usage   65 bad name, or data of some jobs in Redis is corrupted;
  all others are listed
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_filter("list")
@with_queue
async def list_(
    queue: RedisStreamsQueue,
    *,
    given: GivenFilter,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="Maximum number of jobs.")
    ] = 20,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """List jobs, newest first.

    With --group, --tenant or --tag, jobs are sorted by the time they were enqueued. Otherwise, ended jobs are
    sorted by the time they ended, others by the time they were started, or else enqueued.
    """
    from aragora_q import views

    wanted = await given.resolve(queue)
    job_ids = await queue.find_newest(wanted, limit + 1)  # one more, to know if that is all
    has_more, job_ids = len(job_ids) > limit, job_ids[:limit]
    reader = _Reader(queue, wanted)
    if quiet:
        async for job_id in reader.ids(job_ids):
            output.line(job_id)
        return reader.exit_code
    if as_json:
        async for job in reader.jobs(job_ids):
            output.json_line(views.job_json(job))
        return reader.exit_code
    jobs = [job async for job in reader.jobs(job_ids)]
    if jobs:
        await _print_table(queue, jobs, wanted.labels)
    else:
        found = "match" if given.is_given else "found"
        output.info(f"no jobs {found} in queue {queue.config.queue} at {queue.connection.address}")
    if has_more and sys.stderr.isatty():
        output.info(f"there are more jobs: --limit {limit * 5}")
    return reader.exit_code


class _Reader:
    """Reads jobs in pages. Reports corrupted ones, skips them, and sets the exit code."""

    def __init__(self, queue: RedisStreamsQueue, wanted: JobFilter) -> None:
        self._queue = queue
        self._statuses = wanted.statuses or frozenset(JobStatus)
        self.exit_code = 0

    async def ids(self, job_ids: Sequence[str]) -> AsyncIterator[str]:
        """As `jobs`, but only ids, for which nothing but statuses is read."""
        statuses = await self._queue.tracker.get_statuses(job_ids)
        for job_id, status in statuses.items():
            if status in self._statuses:
                yield job_id
            elif status not in (None, *JobStatus):
                async for job in self.jobs([job_id]):  # reports that it is corrupted
                    yield job.id

    async def jobs(self, job_ids: Sequence[str]) -> AsyncIterator[Job]:
        """Yield the jobs, without those that have another status by now."""
        for start in range(0, len(job_ids), PAGE):
            for job in await self._queue.tracker.get_jobs(job_ids[start : start + PAGE]):
                if isinstance(job, InvalidPayload):
                    output.error(str(job), job.hint)
                    self.exit_code = job.exit_code
                elif job is not None and job.status in self._statuses:
                    yield job


def _sort_time(job: Job) -> float:
    return job.completed_at or job.started_at or job.created_at or 0.0


async def _print_table(
    queue: RedisStreamsQueue, jobs: Sequence[Job], labels_of_all: Collection[str]
) -> None:
    from aragora_q import job_text

    now = await queue.tracker.server_time()  # after the jobs were read: none is younger
    rows = [
        (
            job.id,
            job.status.value,
            output.ago(_sort_time(job), now),
            job_text.labels_text(job, known=labels_of_all),
            output.truncate(job_text.summary(job), output.MAX_WIDTH),  # without the payload
        )
        for job in jobs
    ]
    output.table(*_fitted(("ID", "STATUS", "UPDATED", "LABELS", "SUMMARY"), rows))


def _fitted(
    head: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return a table whose last two columns share the rest of a line; without labels, only its last one."""
    widths = [max(map(len, column)) + 2 for column in zip(head, *rows, strict=True)]
    *others, labels_width, summary_width = widths
    has_labels = any(row[-2] for row in rows)
    rest = max(output.width() - sum(others), 20 if has_labels else 10)
    labels_width = min(labels_width, max(rest - summary_width, rest // 2)) if has_labels else 0

    def fit(row: Sequence[str]) -> Sequence[str]:
        *first, labels, summary = row
        middle = [output.truncate(labels, labels_width - 2)] if has_labels else []
        return (*first, *middle, output.truncate(summary, rest - labels_width))

    return fit(head), [fit(row) for row in rows]
