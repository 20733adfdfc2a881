"""`aragora-q wait ID...`: wait until jobs have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.cli.options import AsJson, JobIds, Quiet, Timeout, with_queue

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

EPILOG = """\b
Examples:
  aragora-q wait "$id" --timeout 600 --json | jq -r .result.final_answer

\b
Exit codes:
  0 all jobs completed   1 a job failed or was cancelled   3 job not found
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration   124 timeout
"""


@with_queue
async def wait(
    queue: RedisStreamsQueue,
    *,
    ids: JobIds,
    timeout_seconds: Timeout = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Wait until jobs have ended, and show each job when it ends."""
    from aragora_q.cli import views, waiting

    ended = []
    async for job in waiting.ended_jobs(queue, ids, timeout_seconds):
        await views.show_job(queue, job, as_json=as_json, quiet=quiet)
        ended.append(job)
    return waiting.exit_code(ended)
