"""`aragora-q show ID`: render a debate for a person."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.options import check_ids, with_queue
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.base import Job
    from aragora_q.report import Calls
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_WIDTH = 240
"""Width on a very wide terminal; long lines of prose are shorter."""

EPILOG = """\b
Examples:
  aragora-q show 5c1d0e9a | less
  aragora-q show 5c1d0e9a -o debate.html
  aragora-q show 5c1d0e9a -f json | jq '.rounds[0].replies[].value'

\b
Exit codes:
  0 ok   3 job not found   65 not a debate, or corrupted data in Redis
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration, or the file cannot be written
"""


class Format(StrEnum):
    """What `--format` accepts."""

    TEXT = "text"
    MARKDOWN = "md"
    HTML = "html"
    JSON = "json"


@with_queue
async def show(
    queue: RedisStreamsQueue,
    *,
    job_id: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Job id.")],
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="Default: the ending of FILE if it is one of these, else text.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to FILE; replaces it."),
    ] = None,
) -> int:
    """Render a debate for a person: verdict, votes, dissent, every round, cost and record.

    Works for completed, failed and cancelled debates, and for one that is running: what is there so
    far.
    """
    from aragora_q import report
    from aragora_q.cli import waiting

    check_ids([job_id])
    form = format_ or _format_of(file)
    job = await waiting.require_job(queue, job_id)
    if not report.is_debate(job):
        raise InvalidPayload(
            f"job {job.id} is not a debate: its payload has no question and agents",
            hint=f"aragora-q status {job.id} shows it",
        )
    exit_code, journal = 0, None
    try:
        journal = await queue.tracker.checkpoints(job.id)
    except InvalidPayload as error:  # the result may still have everything
        output.error(str(error), error.hint)
        exit_code = error.exit_code
    calls = report.read_calls(journal, (job.result or {}).get("transcript"))
    _write(form, file, job, calls)
    return exit_code


def _format_of(file: Path | None) -> Format:
    ending = file.suffix.removeprefix(".").lower() if file else ""
    return Format(ending) if ending in list(Format) else Format.TEXT


def _write(form: Format, file: Path | None, job: Job, calls: Calls) -> None:
    from aragora_q.output_file import write_file

    text = _rendered(form, job, calls, is_file=file is not None)
    if file is None:
        output.write(text.removesuffix("\n"))
    else:
        write_file(file, text.encode())


def _rendered(form: Format, job: Job, calls: Calls, *, is_file: bool) -> str:
    from aragora_q.report import build_report, markdown, page, plain
    from aragora_q.views import debate_json

    if form is Format.JSON:
        return output.json_text(debate_json(job, calls)) + "\n"
    report = build_report(job, calls)
    if form is Format.HTML:
        return page.render(report)
    if form is Format.MARKDOWN:
        return markdown.render(report)
    if is_file:
        return plain.render(report, output.DEFAULT_WIDTH)
    return plain.render(report, output.width(MAX_WIDTH), has_colors=output.has_colors())
