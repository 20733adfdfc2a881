"""`aragora-q list`: jobs by status, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from aragora_q.base import Job, JobStatus
from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, QueueName, Quiet, RedisUrl
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

T = TypeVar("T")

JOBS_AT_ONCE = 10
"""Jobs read at the same time."""

STATUSES_AT_ONCE = 500


def list_(
    *,
    status: Annotated[
        JobStatus | None,
        typer.Option(
            "--status",
            "-s",
            metavar="STATUS",
            help="Only pending, processing, retrying, completed, failed or cancelled ones.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many.")
    ] = 20,
    as_json: AsJson = False,
    quiet: Quiet = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """List jobs, newest first: ended ones by their end, others by their enqueueing.

    Example:
      aragora-q list --status failed
      aragora-q list -s failed -n 999 --jsonl | grep 429 | aragora-q requeue -

    Exit codes:
      0 ok   65 of some jobs Redis holds what is no job; all others are listed
      69 Redis unreachable   75 try again   77 access denied   78 configuration

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    raise typer.Exit(options.run(_list(settings, status, limit, as_json=as_json, quiet=quiet)))


async def _list(
    settings: Any, status: JobStatus | None, limit: int, *, as_json: bool, quiet: bool
) -> int:
    from aragora_q.cli import views

    async with options.opened(settings) as queue:
        reader = _Reader(queue)
        if status and quiet:
            async for job_id in _first(limit, reader.ids(status)):
                output.line(job_id)
            return reader.exit_code
        jobs = _first(limit, reader.jobs(status)) if status else reader.newest(limit)
        if not (as_json or quiet):
            _show([job async for job in jobs])
            return reader.exit_code
        async for job in jobs:
            if quiet:
                output.line(job.id)
            else:
                output.json_line(views.job_json(job))
    return reader.exit_code


class _Reader:
    """Reads jobs in batches. Complains of those that are none, goes on, and remembers the exit code."""

    def __init__(self, queue: RedisStreamsQueue) -> None:
        self._queue = queue
        self.exit_code = 0

    async def ids(self, status: JobStatus) -> AsyncIterator[str]:
        """Ids of the jobs that have `status` now."""
        async for batch in _batches(self._queue.job_ids(status), STATUSES_AT_ONCE):
            words = await self._queue.tracker.get_statuses(batch)
            for job_id in batch:
                if words[job_id] == status:
                    yield job_id
                elif words[job_id] not in (None, *JobStatus):
                    await self._job(job_id)

    async def jobs(self, status: JobStatus) -> AsyncIterator[Job]:
        """The jobs that have `status` now."""
        async for batch in _batches(self._queue.job_ids(status), JOBS_AT_ONCE):
            for job in await self._read(batch):
                if job.status is status:
                    yield job

    async def newest(self, limit: int) -> AsyncIterator[Job]:
        """The newest jobs of any status."""
        job_ids = await self._queue.recent_ids(limit)
        found: list[Job] = []
        for start in range(0, len(job_ids), JOBS_AT_ONCE):
            found += await self._read(job_ids[start : start + JOBS_AT_ONCE])
        for job in sorted(found, key=_moment, reverse=True)[:limit]:
            yield job

    async def _read(self, job_ids: list[str]) -> list[Job]:
        found = await asyncio.gather(*(self._job(job_id) for job_id in job_ids))
        return [job for job in found if job is not None]

    async def _job(self, job_id: str) -> Job | None:
        try:
            return await self._queue.get_job(job_id)
        except InvalidPayload as error:
            output.error(str(error), error.hint)
            self.exit_code = error.exit_code
            return None


async def _batches(job_ids: AsyncIterator[str], size: int) -> AsyncIterator[list[str]]:
    batch: list[str] = []
    async for job_id in job_ids:
        batch.append(job_id)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


async def _first(limit: int, found: AsyncIterator[T]) -> AsyncIterator[T]:
    async for each in found:
        yield each
        limit -= 1
        if not limit:
            return


def _moment(job: Job) -> float:
    return job.completed_at or job.started_at or job.created_at or 0.0


def _show(jobs: list[Job]) -> None:
    if not jobs:
        output.note("no such jobs")
        return
    from aragora_q.cli import views

    rows = [
        (job.id, job.status.value, output.ago(_moment(job)), views.summary(job)) for job in jobs
    ]
    head = ("ID", "STATUS", "SINCE", "WHAT")
    *others, _ = (max(map(len, column)) + 2 for column in zip(head, *rows, strict=True))
    room = max(output.width() - sum(others), 10)
    output.table(head, [(*row[:-1], output.truncate(row[-1], room)) for row in rows])
