"""`aragora-q cancel ID...`: cancel jobs in any status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.cli import output
from aragora_q.cli.options import AsJson, JobIds, Quiet, with_queue
from aragora_q.errors import JobNotFound

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

EPILOG = """\b
Examples:
  aragora-q cancel "$id"

\b
Exit codes:
  0 every job has ended   3 a job was not found   69 Redis unreachable
  75 try again   77 access denied   78 invalid configuration
"""


@with_queue
async def cancel(
    queue: RedisStreamsQueue,
    *,
    ids: JobIds,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Cancel jobs, pending or running.

    The worker of a running job stops it within a quarter of the lease; a result that arrives later is
    discarded. A job that has already ended does not change, and this is not an error.
    """
    # JSON: `id`, `cancelled` (false: it had already ended), `status`.
    exit_code = 0
    for job_id in ids:
        try:
            cancelled = await queue.cancel(job_id)
        except JobNotFound as error:
            output.error(str(error), error.hint)
            exit_code = error.exit_code
            continue
        status = await queue.get_status(job_id)
        if as_json:
            output.json_line({"id": job_id, "cancelled": cancelled, "status": status})
        elif quiet:
            output.line(job_id)
        else:
            output.line(f"{job_id} {'cancelled' if cancelled else f'had already ended: {status}'}")
    return exit_code
