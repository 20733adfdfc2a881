"""`aragora-q unhold ID...`: let held jobs run, by id or by filter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aragora_q.base import JobStatus
from aragora_q.cli import options, output
from aragora_q.cli.filters import GivenFilter, with_filter
from aragora_q.cli.options import AsJson, DryRun, Quiet, Reason, Yes, with_queue
from aragora_q.cli.selection import Ids, Selection

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

HELD = frozenset({JobStatus.HELD})
HELD_OR_ASKED = HELD | {JobStatus.PROCESSING}

EPILOG = """\b
Examples:
  aragora-q unhold "$id"
  aragora-q list --status held --jsonl | grep acme | aragora-q unhold -
  aragora-q unhold --group nightly --yes

\b
Exit codes:
  0 no job is held   1 not confirmed   2 usage, or --yes is required
  3 a job was not found   65 bad name, or a line of stdin without id
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_filter("unhold", HELD_OR_ASKED)
@with_queue
async def unhold(
    queue: RedisStreamsQueue,
    *,
    ids: Ids = None,
    given: GivenFilter,
    reason: Reason = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Return held jobs to where they came from: by id, or all that match a filter.

    They wait at the end of their lane or, if a delay or backoff is not over, until they are due. A job is
    freed whatever holds it; a budget without room holds it again at its next call. The hold that was asked of
    a running job is withdrawn. A job that is not held does not change, and this is not an error.
    """
    selection = Selection(
        "unhold", HELD, ids, given, dry_run=dry_run, yes=yes, as_json=as_json, quiet=quiet
    )

    by = options.operator()

    async def work(job_ids: list[str]) -> int:
        results = await queue.unhold_many(job_ids, by=by, reason=reason)
        statuses = await queue.tracker.get_statuses(job_ids) if selection.prints_each else {}
        for job_id, result in selection.to_print(queue, job_ids, results):
            if ids or result == "unheld":
                _print_result(job_id, result, statuses[job_id], as_json=as_json, quiet=quiet)
        return results.count("unheld")

    unheld = await selection.run(queue, work)  # once: a budget may hold jobs again at once
    if not (ids or dry_run or given.statuses):  # holds that were asked of running jobs
        wanted = replace(await given.resolve(queue), statuses=HELD_OR_ASKED - HELD)
        async for page in queue.find(wanted):
            unheld += await work(page)
    if not (selection.prints_each or dry_run):
        output.info(f"unheld {output.count(unheld, 'job')}")
    return selection.exit_code


def _print_result(
    job_id: str, result: str, status: str | None, *, as_json: bool, quiet: bool
) -> None:
    if as_json:
        from aragora_q.views import unheld_json

        output.json_line(unheld_json(job_id, result, status))
    elif quiet:
        output.line(job_id)
    else:
        output.line(f"{job_id} {'unheld' if result == 'unheld' else 'was not held'}: {status}")
