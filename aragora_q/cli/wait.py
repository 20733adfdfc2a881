"""`aragora-q wait ID...`: until jobs have ended."""

from __future__ import annotations

from typing import Any

import typer

from aragora_q.cli import options
from aragora_q.cli.options import AsJson, ConfigFile, JobIds, QueueName, Quiet, RedisUrl, Timeout


def wait(
    *,
    ids: JobIds,
    timeout: Timeout = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Wait until jobs have ended, and show each as it ends.

    Example:
      aragora-q wait "$id" --timeout 600 --json | jq -r .result.final_answer

    Exit codes:
      0 all completed   1 one failed or was cancelled   3 unknown job
      124 not ended in time   69 Redis unreachable   77 access denied

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    raise typer.Exit(options.run(_wait(settings, ids, timeout, as_json=as_json, quiet=quiet)))


async def _wait(
    settings: Any, job_ids: list[str], timeout_seconds: float | None, *, as_json: bool, quiet: bool
) -> int:
    from aragora_q.cli import views, waiting

    ended = []
    async with options.opened(settings) as queue:
        async for job in waiting.ended_jobs(queue, job_ids, timeout_seconds):
            views.show_job(job, as_json=as_json, quiet=quiet)
            ended.append(job)
    return waiting.exit_code(ended)
