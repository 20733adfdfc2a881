"""`aragora-q list`: jobs, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from aragora_q.base import Job, JobStatus
from aragora_q.cli import output
from aragora_q.cli.options import AsJson, Quiet, with_queue
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

T = TypeVar("T")

JOB_BATCH = 10
"""Jobs to read at the same time."""

STATUS_BATCH = 500
"""Statuses to read at the same time."""

EPILOG = """\b
Examples:
  aragora-q list --status failed
  aragora-q list -s failed -n 999 --jsonl | grep 429 | aragora-q requeue -

\b
Exit codes:
  0 ok   65 data of some jobs in Redis is corrupted; all others are listed
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_queue
async def list_(
    queue: RedisStreamsQueue,
    *,
    status: Annotated[
        JobStatus | None,
        typer.Option(
            "--status",
            "-s",
            metavar="STATUS",
            help="Only pending, processing, retrying, completed, failed or cancelled jobs.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="Maximum number of jobs.")
    ] = 20,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """List jobs, newest first.

    Ended jobs are sorted by the time they ended, others by the time they were enqueued.
    """
    from aragora_q.cli import views

    reader = _Reader(queue, limit)
    if quiet:
        async for job_id in _take(limit, reader.ids(status)):
            output.line(job_id)
        return reader.exit_code
    jobs = _take(limit, reader.jobs(status))
    if not as_json:
        await _print_table(queue, [job async for job in jobs])
        return reader.exit_code
    async for job in jobs:
        output.json_line(views.job_json(job))
    return reader.exit_code


class _Reader:
    """Reads jobs in batches. Reports corrupted ones, skips them, and sets the exit code."""

    def __init__(self, queue: RedisStreamsQueue, limit: int) -> None:
        self._queue = queue
        self._limit = limit
        self.exit_code = 0

    async def ids(self, status: JobStatus | None) -> AsyncIterator[str]:
        """Yield the ids of jobs that have `status` now; None: of the newest jobs of any status."""
        async for batch in self._batches(status, STATUS_BATCH):
            statuses = await self._queue.tracker.get_statuses(batch)
            for job_id in batch:
                found = statuses[job_id]
                if found not in (None, *JobStatus):
                    await self._job(job_id)  # reports that it is corrupted
                elif found and (status is None or found == status):
                    yield job_id

    async def jobs(self, status: JobStatus | None) -> AsyncIterator[Job]:
        """Yield the jobs that have `status` now; None: the newest jobs of any status."""
        async for batch in self._batches(status, JOB_BATCH):
            for job in await self._read(batch):
                if status is None or job.status is status:
                    yield job

    async def _batches(self, status: JobStatus | None, size: int) -> AsyncIterator[list[str]]:
        """Yield the ids of candidates, no more at a time than are to be shown."""
        size = min(size, self._limit)
        if status is None:
            newest = await self._queue.recent_ids(self._limit)
            for start in range(0, len(newest), size):
                yield newest[start : start + size]
            return
        batch: list[str] = []
        async for job_id in self._queue.job_ids(status):
            batch.append(job_id)
            if len(batch) == size:
                yield batch
                batch = []
        yield batch

    async def _read(self, job_ids: list[str]) -> list[Job]:
        jobs = await asyncio.gather(*(self._job(job_id) for job_id in job_ids))
        return [job for job in jobs if job is not None]

    async def _job(self, job_id: str) -> Job | None:
        try:
            return await self._queue.get_job(job_id)
        except InvalidPayload as error:
            output.error(str(error), error.hint)
            self.exit_code = error.exit_code
            return None


async def _take(limit: int, items: AsyncIterator[T]) -> AsyncIterator[T]:
    async for item in items:
        yield item
        limit -= 1
        if not limit:
            return


def _sort_time(job: Job) -> float:
    return job.completed_at or job.started_at or job.created_at or 0.0


async def _print_table(queue: RedisStreamsQueue, jobs: Sequence[Job]) -> None:
    from aragora_q.cli import views

    now = await queue.tracker.server_time()  # after the jobs were read: none is younger
    rows = [
        (
            job.id,
            job.status.value,
            output.ago(_sort_time(job), now),
            output.truncate(views.summary(job), output.MAX_WIDTH),  # without the payload
        )
        for job in jobs
    ]
    if not rows:
        output.info(f"no jobs found in queue {queue.config.queue} at {queue.connection.address}")
        return
    head = ("ID", "STATUS", "UPDATED", "SUMMARY")
    *others, _ = (max(map(len, column)) + 2 for column in zip(head, *rows, strict=True))
    summary_width = max(output.width() - sum(others), 10)
    output.table(head, [(*row[:-1], output.truncate(row[-1], summary_width)) for row in rows])
