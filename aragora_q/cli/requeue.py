"""`aragora-q requeue ID...`: a new life for jobs that failed or were cancelled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, JobIds, QueueName, Quiet, RedisUrl
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

REFUSED = 3
WHY = {
    "unknown": "unknown here, or ended before the retention time",
    "malformed": "a dead letter that never was a job",
    "completed": "completed: enqueue it again under another id",
    "invalid": "no job id",
}


def requeue(
    *,
    ids: JobIds,
    as_json: AsJson = False,
    quiet: Quiet = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Run failed or cancelled jobs again, from the first attempt; finished work is not repeated.

    With - it reads ids, or JSON lines as `list` writes them, from stdin. A job that waits or runs
    already stays as it is, which is no error: a run that was cut short may be repeated.

    Example:
      aragora-q list --status failed --jsonl | aragora-q requeue -

    Exit codes:
      0 all of them are live   3 some are unknown, completed or no jobs   2 usage
      69 Redis unreachable   75 try again   77 access denied   78 configuration

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    raise typer.Exit(options.run(_requeue(settings, ids, as_json=as_json, quiet=quiet)))


async def _requeue(settings: Any, ids: list[str], *, as_json: bool, quiet: bool) -> int:
    """JSON: `id`, `requeued`, `status` (what it is now; null where no such job is known)."""
    refused = 0
    async with options.opened(settings) as queue:
        for batch in [ids] if ids != ["-"] else _ids_in_stdin(settings):
            for job_id, word in zip(batch, await _words(queue, batch), strict=True):
                refused += word in WHY
                _tell(job_id, word, as_json=as_json, quiet=quiet)
            sys.stdout.flush()
    return REFUSED if refused else 0


async def _words(queue: RedisStreamsQueue, job_ids: list[str]) -> list[str]:
    from aragora_q.base import JOB_ID_PATTERN

    known = [job_id for job_id in job_ids if JOB_ID_PATTERN.fullmatch(job_id)]
    words = dict(zip(known, await queue.requeue(known), strict=True))
    return [words.get(job_id, "invalid") for job_id in job_ids]


def _tell(job_id: str, word: str, *, as_json: bool, quiet: bool) -> None:
    if word in WHY:
        output.error(f"job {output.truncate(job_id, 64)} is not requeued: {WHY[word]}")
    if as_json:
        status = "pending" if word == "requeued" else word
        is_known = word not in ("unknown", "invalid", "malformed")
        output.json_line(
            {"id": job_id, "requeued": word == "requeued", "status": status if is_known else None}
        )
    elif word == "requeued":
        output.line(job_id if quiet else f"{job_id} requeued")
    elif word not in WHY and not quiet:
        output.line(f"{job_id} is {word} already")


def _ids_in_stdin(settings: Any) -> Iterator[list[str]]:
    from aragora_q.cli import bulk

    most_bytes = 4 * (settings.max_payload_bytes + settings.max_result_bytes) + bulk.READ_BYTES
    for chunk in bulk.read_lines(bulk.read_chunks(sys.stdin.buffer), most_bytes):
        yield [_id_in(number, line) for number, line in chunk]


def _id_in(number: int, line: bytes | None) -> str:
    """The id that a line is, or holds. Raises InvalidPayload for a line that is cut or no text."""
    from aragora_q import codec as wire

    try:
        text = (line or b"").strip()
        found = wire.decode(text)["id"] if text.startswith(b"{") else text.decode()
    except (ValueError, KeyError) as error:
        raise InvalidPayload(
            f"line {number}: neither a job id nor a JSON object with one: {error}"
        ) from None
    return str(found)
