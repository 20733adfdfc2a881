"""`aragora-q status ID...`: show jobs in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.cli import output
from aragora_q.cli.options import AsJson, JobIds, with_queue
from aragora_q.errors import InvalidPayload, JobNotFound

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

EPILOG = """\b
Examples:
  aragora-q status 5c1d0e9a
  aragora-q status 5c1d0e9a --json | jq -r .status

\b
Exit codes:
  0 ok   3 a job was not found   65 data of a job in Redis is corrupted
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_queue
async def status(queue: RedisStreamsQueue, *, ids: JobIds, as_json: AsJson = False) -> int:
    """Show jobs in full: status, times, progress, result, and the history of errors."""
    from aragora_q import views
    from aragora_q.cli import layout, waiting

    exit_code = 0
    for n, job_id in enumerate(ids):
        try:
            job = await waiting.require_job(queue, job_id)
            described = await views.job_status_json(queue, job)
        except (JobNotFound, InvalidPayload) as error:
            output.error(str(error), error.hint)
            exit_code = error.exit_code
            continue
        if as_json:
            output.json_line(described)
            continue
        if n:
            output.line()
        now = await queue.tracker.server_time()
        output.lines(layout.job_lines(job, now, described["history"], described["quote_usd"]))
    return exit_code
