"""`aragora-q requeue ID...`: run failed or cancelled jobs again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.options import AsJson, Quiet, check_ids, with_queue
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import RedisStreamsQueue

SOME_REFUSED = 3
REFUSALS = {
    "unknown": "not found in queue {queue}, or expired (ended more than the retention time ago)",
    "malformed": "dead letter of a malformed entry",
    "completed": "already completed: enqueue it again under another id",
    "invalid": "not a job id",
}
EPILOG = """\b
Examples:
  aragora-q list --status failed --jsonl | aragora-q requeue -

\b
Exit codes:
  0 every job is pending or running   3 some jobs were refused   2 usage
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_queue
async def requeue(
    queue: RedisStreamsQueue,
    *,
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID",
            show_default=False,
            callback=check_ids,
            help="Job ids; or - to read ids, or the JSON lines of `list`, from stdin.",
        ),
    ],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Run failed or cancelled jobs again from the first attempt.

    A debate resumes from its journal: completed model calls are not repeated. A job that is pending
    or running does not change; this is not an error, so an interrupted run can be repeated.
    """
    # JSON: `id`, `requeued`, `status` (the current one; null if the job is unknown).
    refused = 0
    for batch in [ids] if ids != ["-"] else _stdin_ids(queue.config):
        for job_id, result in zip(batch, await _requeue(queue, batch), strict=True):
            refused += result in REFUSALS
            if result in REFUSALS:
                reason = REFUSALS[result].format(queue=queue.config.queue)
                output.error(f"job {output.truncate(job_id, 64)} was not requeued: {reason}")
            _print_result(job_id, result, as_json=as_json, quiet=quiet)
        output.flush()
    return SOME_REFUSED if refused else 0


async def _requeue(queue: RedisStreamsQueue, job_ids: list[str]) -> list[str]:
    """Return `requeued`, the status that did not change, or a key of REFUSALS for each id."""
    from aragora_q.base import JOB_ID_PATTERN

    valid = [job_id for job_id in job_ids if JOB_ID_PATTERN.fullmatch(job_id)]
    results = dict(zip(valid, await queue.requeue(valid), strict=True))
    return [results.get(job_id, "invalid") for job_id in job_ids]


def _print_result(job_id: str, result: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        status = "pending" if result == "requeued" else result
        is_known = result not in ("unknown", "invalid", "malformed")
        output.json_line(
            {
                "id": job_id,
                "requeued": result == "requeued",
                "status": status if is_known else None,
            }
        )
    elif result == "requeued":
        output.line(job_id if quiet else f"{job_id} requeued")
    elif result not in REFUSALS and not quiet:
        output.line(f"{job_id} is already {result}")


def _stdin_ids(settings: QueueConfig) -> Iterator[list[str]]:
    from aragora_q.cli import bulk

    max_bytes = 4 * (settings.max_payload_bytes + settings.max_result_bytes) + bulk.READ_BYTES
    for lines in bulk.read_lines(bulk.read_chunks(sys.stdin.buffer), max_bytes):
        for line in lines:
            if line.text is None:
                raise InvalidPayload(f"line {line.number} is longer than {max_bytes:,} bytes")
        yield [_line_id(line.number, line.text or b"") for line in lines]


def _line_id(number: int, line: bytes) -> str:
    """Return the job id in a line: the line itself, or its `id` if it is a JSON object.

    Raises InvalidPayload if the line is not text, or an object without `id`.
    """
    from aragora_q import codec

    try:
        text = codec.text(line).strip()
        return str(codec.decode(text.encode())["id"]) if text.startswith("{") else text
    except KeyError:
        raise InvalidPayload(f"line {number}: the JSON object has no id") from None
    except ValueError as error:
        raise InvalidPayload(
            f"line {number}: neither a job id nor a JSON object with an id: {error}"
        ) from None
