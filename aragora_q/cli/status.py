"""`aragora-q status ID...`: all that is known of jobs."""

from __future__ import annotations

from typing import Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, JobIds, QueueName, RedisUrl
from aragora_q.errors import InvalidPayload, JobNotFound


def status(
    *,
    ids: JobIds,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Show all that is known of jobs: state, times, progress, result, what went wrong.

    Example:
      aragora-q status 5c1d0e9a --json | jq -r .status

    Exit codes:
      0 ok   3 a job is unknown   69 Redis unreachable   77 access denied

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    raise typer.Exit(options.run(_show(settings, ids, as_json=as_json)))


async def _show(settings: Any, job_ids: list[str], *, as_json: bool) -> int:
    from aragora_q.cli import views, waiting

    unknown = 0
    async with options.opened(settings) as queue:
        for n, job_id in enumerate(job_ids):
            try:
                job = await waiting.require_job(queue, job_id)
                history = await queue.tracker.history(job_id)
            except (JobNotFound, InvalidPayload) as error:
                output.error(str(error), error.hint)
                unknown = error.exit_code
                continue
            if as_json:
                output.json_line({**views.job_json(job), "history": history})
            else:
                output.lines(
                    ["", *views.job_lines(job, history)] if n else views.job_lines(job, history)
                )
    return unknown
