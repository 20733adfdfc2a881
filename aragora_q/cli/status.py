"""`aragora-q status ID...`: show jobs in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.cli import output
from aragora_q.cli.options import AsJson, JobIds, with_queue
from aragora_q.errors import InvalidPayload, JobNotFound

if TYPE_CHECKING:
    from aragora_q.base import Job
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
    from aragora_q.cli import views, waiting

    exit_code = 0
    for n, job_id in enumerate(ids):
        try:
            job = await waiting.require_job(queue, job_id)
            history = await queue.tracker.history(job_id)
            quote_usd = await _quote_usd(queue, job)
        except (JobNotFound, InvalidPayload) as error:
            output.error(str(error), error.hint)
            exit_code = error.exit_code
            continue
        if as_json:
            described = views.job_json(job)
            output.json_line({**described, "quote_usd": quote_usd, "history": history})
            continue
        if n:
            output.line()
        now = await queue.tracker.server_time()
        output.lines(views.job_lines(job, now, history, quote_usd))
    return exit_code


async def _quote_usd(queue: RedisStreamsQueue, job: Job) -> float | None:
    """Return what a debate was expected to cost when it began; None if that is not known."""
    from aragora_q import report

    if not report.is_debate(job):
        return None
    name = report.BEGUN
    journal = {} if job.result else {name: await queue.tracker.checkpoint(job.id, name)}
    return report.quote_usd(job, report.read_calls(journal, None))
