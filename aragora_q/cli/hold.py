"""`aragora-q hold ID...`: keep jobs from starting until `unhold`, by id or by filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.base import LIVE
from aragora_q.cli import options, output
from aragora_q.cli.filters import GivenFilter, with_filter
from aragora_q.cli.options import AsJson, DryRun, Quiet, Reason, Yes, with_queue
from aragora_q.cli.selection import Ids, Selection

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

TEXTS = {
    "held": "held",
    "asked": "is running: it will be held when its attempt ends",
    "was-asked": "is running: it will be held when its attempt ends",
    "was-held": "was already held",
}
"""What became of a job, by the queue's answer."""

EPILOG = """\b
Examples:
  aragora-q hold "$id" --reason "prices changed"
  aragora-q hold --group nightly --dry-run
  aragora-q hold --tenant acme --status pending --yes

\b
Exit codes:
  0 every job is held, will be, or has ended   1 not confirmed
  2 usage, or --yes is required   3 a job was not found
  65 bad name, or a line of stdin without id
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_filter("hold", LIVE)
@with_queue
async def hold(
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
    """Hold jobs: by id, or all that match a filter. They do not start until `unhold`.

    A held job takes no slot and delays no other job. It keeps its due time, and can be cancelled. A running
    job goes on: it is held when its attempt ends, unless it completes or fails. A job that a budget or a
    provider holds is now held by you: nothing else frees it.
    """
    selection = Selection(
        "hold", LIVE, ids, given, dry_run=dry_run, yes=yes, as_json=as_json, quiet=quiet
    )
    by = options.operator()

    async def work(job_ids: list[str]) -> int:
        results = await queue.hold_many(job_ids, reason=reason, by=by)
        for job_id, result in selection.to_print(queue, job_ids, results):
            _print_result(job_id, result, as_json=as_json, quiet=quiet)
        return results.count("held") + results.count("asked")

    held = await selection.run(queue, work, until_none_is_left=True)
    if not (selection.prints_each or dry_run):
        output.info(f"held {output.count(held, 'job')}; running ones when their attempts end")
    return selection.exit_code


def _print_result(job_id: str, result: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        from aragora_q.views import held_json

        output.json_line(held_json(job_id, result))
    elif quiet:
        output.line(job_id)
    else:
        output.line(f"{job_id} {TEXTS.get(result, f'had already ended: {result}')}")
