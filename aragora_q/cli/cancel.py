"""`aragora-q cancel ID...`: cancel jobs in any status, by id or by filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.base import LIVE
from aragora_q.cli import options, output
from aragora_q.cli.filters import GivenFilter, with_filter
from aragora_q.cli.options import AsJson, DryRun, Quiet, Reason, Yes, with_queue
from aragora_q.cli.selection import Ids, Selection

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

EPILOG = """\b
Examples:
  aragora-q cancel "$id" --reason "wrong question"
  aragora-q cancel --group nightly --status pending --dry-run
  aragora-q cancel --tenant acme --tag env=test --yes

\b
Exit codes:
  0 every job has ended   1 not confirmed   2 usage, or --yes is required
  3 a job was not found   65 bad name, or a line of stdin without id
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_filter("cancel", LIVE)
@with_queue
async def cancel(
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
    """Cancel jobs, pending or running: by id, or all that match a filter.

    The worker of a running job stops it within a quarter of the lease; a result that arrives later is
    discarded. A job that has already ended does not change, and this is not an error: an interrupted run can
    be repeated. `group cancel` cancels a group with what follows it.
    """
    selection = Selection(
        "cancel", LIVE, ids, given, dry_run=dry_run, yes=yes, as_json=as_json, quiet=quiet
    )

    by = options.operator()

    async def work(job_ids: list[str]) -> int:
        results = await queue.cancel_many(job_ids, by=by, reason=reason)
        for job_id, result in selection.to_print(queue, job_ids, results):
            _print_result(job_id, result, as_json=as_json, quiet=quiet)
        return results.count("cancelled")

    cancelled = await selection.run(queue, work, until_none_is_left=True)
    if not (selection.prints_each or dry_run):
        output.info(f"cancelled {output.count(cancelled, 'job')}")
    return selection.exit_code


def _print_result(job_id: str, result: str, *, as_json: bool, quiet: bool) -> None:
    from aragora_q.views import cancelled_json

    described = cancelled_json(job_id, result)
    if as_json:
        output.json_line(described)
    elif quiet:
        output.line(job_id)
    elif described["cancelled"]:
        output.line(f"{job_id} cancelled")
    else:
        output.line(f"{job_id} had already ended: {described['status']}")
