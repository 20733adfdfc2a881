"""`aragora-q requeue ID...`: run failed or cancelled jobs again, by id or by filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.base import JobStatus
from aragora_q.cli import options, output
from aragora_q.cli.filters import GivenFilter, with_filter
from aragora_q.cli.options import AsJson, DryRun, Quiet, Reason, Yes, with_queue
from aragora_q.cli.selection import Ids, Selection
from aragora_q.job_rules import check_phase

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

ENDED = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})
SOME_REFUSED = 3
REFUSALS = {
    "unknown": "not found in queue {queue}, or expired (ended more than the retention time ago)",
    "malformed": "dead letter of a malformed entry",
    "completed": "already completed: enqueue it under another id, or a debate with changes by enqueue --from",
    "not-reached": "its debate did not reach that phase, or its journal is gone; "
    "without --from, it continues where it ended",
    "held": "it is held: to let it run, use aragora-q unhold",
    "invalid": "not a job id",
}
EPILOG = """\b
Examples:
  aragora-q list --status failed --jsonl | grep 429 | aragora-q requeue -
  aragora-q requeue --group nightly --status failed --yes
  aragora-q requeue 7f3a20c1 --from vote

\b
Exit codes:
  0 every job waits or runs   1 not confirmed
  2 usage, or --yes is required   3 some jobs were refused
  65 bad name, or a line of stdin without id
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_filter("requeue", ENDED)
@with_queue
async def requeue(
    queue: RedisStreamsQueue,
    *,
    ids: Ids = None,
    given: GivenFilter,
    reason: Reason = "",
    from_phase: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PHASE",
            help="Debates ask again from there: propose, r1, vote …",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Run failed or cancelled jobs again from the first attempt: by id, or all that match a filter.

    A debate resumes from its journal: completed model calls are not repeated, except, with --from, those of
    that phase and of later ones; what they cost stays counted. A job that is pending
    or running does not change; this is not an error, so an interrupted run can be repeated.
    """
    selection = Selection(
        "requeue", ENDED, ids, given, dry_run=dry_run, yes=yes, as_json=as_json, quiet=quiet
    )
    if from_phase is not None:  # a blank phase is refused: it may be an unset variable
        check_phase(from_phase)
    by, refused = options.operator(), 0

    async def work(job_ids: list[str]) -> int:
        nonlocal refused
        results = await _requeue(queue, job_ids, by=by, reason=reason, from_phase=from_phase or "")
        for job_id, result in zip(job_ids, results, strict=True):
            refused += result in REFUSALS
            if result in REFUSALS:
                why = REFUSALS[result].format(queue=queue.config.queue)
                output.error(f"job {output.truncate(job_id, 64)} was not requeued: {why}")
            if selection.prints_each:
                _print_result(job_id, result, as_json=as_json, quiet=quiet)
        return results.count("requeued")

    requeued = await selection.run(queue, work)
    if not (selection.prints_each or dry_run):
        output.info(f"requeued {output.count(requeued, 'job')}")
    return SOME_REFUSED if refused else 0


async def _requeue(
    queue: RedisStreamsQueue, job_ids: list[str], *, by: str, reason: str, from_phase: str
) -> list[str]:
    """Return `requeued`, the status that did not change, or a key of REFUSALS for each id."""
    from aragora_q.base import is_job_id

    valid = [job_id for job_id in job_ids if is_job_id(job_id)]
    requeued = await queue.requeue(valid, by=by, reason=reason, from_phase=from_phase)
    results = dict(zip(valid, requeued, strict=True))
    return [results.get(job_id, "invalid") for job_id in job_ids]


def _print_result(job_id: str, result: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        from aragora_q.views import requeued_json

        output.json_line(requeued_json(job_id, result))
    elif result == "requeued":
        output.line(job_id if quiet else f"{job_id} requeued")
    elif result not in REFUSALS and not quiet:
        output.line(f"{job_id} is already {result}")
