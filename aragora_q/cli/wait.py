"""`aragora-q wait ID...`: wait until jobs, or a group, have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.cli import output
from aragora_q.cli.filters import GivenFilter, with_filter
from aragora_q.cli.options import AsJson, Quiet, Timeout, with_queue
from aragora_q.cli.selection import Ids, stdin_ids

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

EPILOG = """\b
Examples:
  aragora-q wait "$id" --timeout 600 --json | jq -r .result.final_answer
  aragora-q wait --group nightly
  aragora-q enqueue questions.jsonl -q | aragora-q wait - -q
  aragora-q wait --tenant acme --status processing

\b
Exit codes:
  0 all jobs completed   1 a job failed or was cancelled   2 usage
  3 job or group not found   65 bad name, or a line of stdin without id
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration   124 timeout
"""


@with_filter("wait")
@with_queue
async def wait(
    queue: RedisStreamsQueue,
    *,
    ids: Ids = None,
    given: GivenFilter,
    timeout_seconds: Timeout = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Wait until jobs have ended, and show each job when it ends.

    With a filter, these are the jobs that match now. With --group alone, the group is waited for, until none
    of its jobs is live, and shown; its purged jobs do not count. If a job is held, the command says so once,
    and waits on.
    """
    # JSON: a job; with --group alone, the group.
    from aragora_q.cli import layout, waiting

    if given == GivenFilter(group=given.group) and given.group:
        group = await waiting.ended_group(queue, given.group, timeout_seconds, quiet=quiet)
        await layout.show_group(queue, group, as_json=as_json, quiet=quiet)
        return waiting.group_exit_code(group)
    found = ids
    if ids == ["-"]:
        found = [job_id for batch in stdin_ids(queue.config) for job_id in batch]
    elif not ids:
        wanted = await given.resolve(queue)
        found = [job_id async for page in queue.find(wanted) for job_id in page]
        if not found and not quiet:
            output.info(
                f"no jobs match in queue {queue.config.queue} at {queue.connection.address}"
            )
    exit_code = 0
    jobs = waiting.ended_jobs(
        queue, found or [], timeout_seconds, may_be_purged=not ids, quiet=quiet
    )
    async for job in jobs:
        await layout.show_job(queue, job, as_json=as_json, quiet=quiet)
        exit_code = max(exit_code, waiting.exit_code(job))
    return exit_code
