"""`aragora-q list`: jobs by status, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.base import Job, JobStatus
from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, QueueName, Quiet, RedisUrl

if TYPE_CHECKING:
    from aragora_q.streams import RedisStreamsQueue

AT_ONCE = 10
"""Jobs read at the same time."""


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
      0 ok   69 Redis unreachable   75 try again   77 access denied
      78 configuration

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    options.run(_list(settings, status, limit, as_json=as_json, quiet=quiet))


async def _list(
    settings: Any, status: JobStatus | None, limit: int, *, as_json: bool, quiet: bool
) -> None:
    from aragora_q.cli import views  # noqa: PLC0415

    async with options.opened(settings) as queue:
        if status is None:
            found = [job for each in JobStatus async for job in _jobs(queue, each, limit)]
            found.sort(key=_moment, reverse=True)
            jobs = _each(found[:limit])
        else:
            jobs = _jobs(queue, status, limit)
        if not (as_json or quiet):
            _show([job async for job in jobs])
            return
        async for job in jobs:
            if quiet:
                output.line(job.id)
            else:
                output.json_line(views.job_json(job))


async def _jobs(queue: RedisStreamsQueue, status: JobStatus, limit: int) -> AsyncIterator[Job]:
    """At most `limit` jobs that have `status` now."""
    batch: list[str] = []

    async def read() -> list[Job]:
        found = await asyncio.gather(*(queue.get_job(job_id) for job_id in batch))
        batch.clear()
        return [job for job in found if job is not None and job.status is status]

    async for job_id in queue.job_ids(status):
        batch.append(job_id)
        if len(batch) >= min(AT_ONCE, limit):
            for job in await read():
                yield job
                limit -= 1
                if not limit:
                    return
    for job in (await read())[:limit]:
        yield job


async def _each(jobs: list[Job]) -> AsyncIterator[Job]:
    for job in jobs:
        yield job


def _moment(job: Job) -> float:
    return job.completed_at or job.started_at or job.created_at or 0.0


def _show(jobs: list[Job]) -> None:
    if not jobs:
        output.note("no such job")
        return
    from aragora_q.cli import views  # noqa: PLC0415

    rows = [(job.id, job.status.value, output.ago(_moment(job)), views.gist(job)) for job in jobs]
    head = ("ID", "STATUS", "SINCE", "WHAT")
    *others, _ = (max(map(len, column)) + 2 for column in zip(head, *rows, strict=True))
    room = max(output.width() - sum(others), 10)
    output.table(head, [(*row[:-1], output.shortened(row[-1], room)) for row in rows])
