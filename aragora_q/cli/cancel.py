"""`aragora-q cancel ID...`: end jobs, whatever they are doing."""

from __future__ import annotations

from typing import Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, JobIds, QueueName, Quiet, RedisUrl
from aragora_q.errors import JobNotFound


def cancel(
    *,
    ids: JobIds,
    as_json: AsJson = False,
    quiet: Quiet = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Cancel jobs at once and for good, whether they wait or run.

    A running job's worker learns of it within a quarter of its lease and stops; its result is no
    longer accepted. A job that had ended before stays as it is, which is no error.

    Example:
      aragora-q cancel "$id"

    Exit codes:
      0 none of the jobs is live any more   3 a job is unknown
      69 Redis unreachable   77 access denied

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    raise typer.Exit(options.run(_cancel(settings, ids, as_json=as_json, quiet=quiet)))


async def _cancel(settings: Any, job_ids: list[str], *, as_json: bool, quiet: bool) -> int:
    """JSON: `id`, `cancelled` (false: it had ended before), `status`."""
    unknown = 0
    async with options.opened(settings) as queue:
        for job_id in job_ids:
            try:
                cancelled = await queue.cancel(job_id)
            except JobNotFound as error:
                output.error(str(error), error.hint)
                unknown = error.exit_code
                continue
            status = await queue.get_status(job_id)
            if as_json:
                output.json_line({"id": job_id, "cancelled": cancelled, "status": status})
            elif quiet:
                output.line(job_id)
            else:
                output.line(
                    f"{job_id} {'cancelled' if cancelled else f'had ended before: {status}'}"
                )
    return unknown
