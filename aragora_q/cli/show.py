"""`aragora-q show ID | GROUP`: render a debate for a person, or all debates of a group as one document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from aragora_q.cli import output
from aragora_q.cli.options import by_name, check_ids, parse_tag, with_queue
from aragora_q.cli.reports import OutputFile, format_of
from aragora_q.errors import AragoraQError, GroupNotFound, InvalidPayload, NothingFound
from aragora_q.formats import count

if TYPE_CHECKING:
    from pathlib import Path

    from aragora_q.base import Group, Job
    from aragora_q.experiments.rows import Row
    from aragora_q.report.calls import Calls
    from aragora_q.report.document import Front, Report
    from aragora_q.streams.queue import RedisStreamsQueue

    Write = Callable[[str], object]
    Journal = Mapping[str, Mapping[str, Any]] | InvalidPayload

MAX_WIDTH = 240
"""Width on a very wide terminal; long lines of prose are shorter."""

MAX_CHAPTERS = 1_000
"""Debates in one document, at most: a browser shows its page with some delay, and no person reads it."""

JOBS_AT_ONCE = 10
"""Jobs of a group that are in memory together, with their journals, which may have 4 MiB each."""

EPILOG = """\b
Examples:
  aragora-q show 5c1d0e9a | less
  aragora-q show 5c1d0e9a -o debate.html
  aragora-q show 5c1d0e9a -f json | jq '.rounds[0].replies[].value'
  aragora-q show survey -o survey.html
  aragora-q show survey --tag arm=debate -f md

\b
Exit codes:
  0 ok   2 usage   3 no such job or group, or no job of the group has the tags
  65 not a debate, corrupted data in Redis (of a group: all others are
  shown), or too many debates for one document
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration, or the file cannot be written
"""


class Format(StrEnum):
    """What `--format` accepts."""

    TEXT = "text"
    MARKDOWN = "md"
    HTML = "html"
    JSON = "json"


class Layout(NamedTuple):
    """Makes text of a report, or of a document of many."""

    render: Callable[[Report], str]
    front: Callable[[Front], str]
    chapter: Callable[[Report], str]
    end: str = ""


@with_queue
async def show(
    queue: RedisStreamsQueue,
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="ID|GROUP", show_default=False, help="Job id, or else a group."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="G", help="This group, also if a job has its name as id."),
    ] = None,
    tag: Annotated[
        list[Any] | None,
        typer.Option(
            "--tag",
            metavar="K=V",
            parser=parse_tag,
            help="Of a group, only jobs with this tag; repeatable.",
        ),
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="Default: the ending of FILE if it is one of these, else text.",
        ),
    ] = None,
    file: OutputFile = None,
) -> int:
    """Render a debate for a person: verdict, votes, dissent, every round, cost and record.

    Works for completed, failed and cancelled debates, and for one that is running: what is there so
    far. Of a group: one document with contents, an overview, and then each debate.
    """
    from aragora_q.labels import check_labels

    if (name is None) == (group is None):
        raise typer.BadParameter("give the id of a job, or a group")
    check_ids([name or group or ""])
    tags = by_name(tag, "--tag")
    check_labels(group, None, tags)
    form = format_ or format_of(file, Format.TEXT)
    if name is not None:
        job = await queue.get_job(name)
        if job is not None:
            if tags:
                raise typer.BadParameter(f"{name!r:.100} is a job: tags are for a group")
            return await _show_job(queue, job, form, file)
    found = await queue.tracker.get_group(group or name or "")
    if found is None:
        raise _unknown(queue, name, group)
    return await _show_group(queue, found, tags, form, file)


def _unknown(queue: RedisStreamsQueue, name: str | None, group: str | None) -> AragoraQError:
    if group is not None:
        return GroupNotFound(group, queue.config.queue)
    return NothingFound(
        f"job {name:.100} not found in queue {queue.config.queue}, and no group of this name",
        hint="check --queue, and the database number in REDIS_URL; the job may also have expired "
        "(ended more than the retention time ago)",
    )


async def _show_job(queue: RedisStreamsQueue, job: Job, form: Format, file: Path | None) -> int:
    from aragora_q.job_rules import is_debate
    from aragora_q.report.content import build_report

    if not is_debate(job):
        raise InvalidPayload(
            f"job {job.id} is not a debate: its payload has no question and agents",
            hint=f"aragora-q status {job.id} shows it",
        )
    [journal] = await queue.tracker.journals([job.id])
    calls, exit_code = _calls(job, journal)
    with _opened(file) as write:
        if form is Format.JSON:
            write(_json(job, calls))
        else:
            layout = _layout(form, is_file=file is not None)
            write(layout.render(build_report(job, calls)))
    return exit_code


async def _show_group(
    queue: RedisStreamsQueue,
    group: Group,
    tags: Mapping[str, str],
    form: Format,
    file: Path | None,
) -> int:
    from aragora_q.experiments.reading import read_rows

    await _check_size(queue, group, tags, form)
    rows = await read_rows(queue, group.name)
    rows = [row for row in rows if tags.items() <= row.tags.items()]
    with _opened(file) as write:
        if form is Format.JSON:
            return await _write_lines(queue, rows, write)
        layout = _layout(form, is_file=file is not None)
        return await _write_document(queue, group, tags, rows, layout, write)


async def _check_size(
    queue: RedisStreamsQueue, group: Group, tags: Mapping[str, str], form: Format
) -> None:
    """Raise AragoraQError if there is nothing to show, or too much for one document."""
    from aragora_q.labels import JobFilter

    found = await queue.count(JobFilter(group=group.name, tags=tags))
    wanted = ", ".join(f"tag {name}={value}" for name, value in tags.items())
    if not found:
        raise NothingFound(
            f"no job of group {group.name} has {wanted}"
            if tags
            else f"no job of group {group.name} is left",
            hint=f"aragora-q list --group {group.name} shows its jobs",
        )
    if found > MAX_CHAPTERS and form is not Format.JSON:
        raise InvalidPayload(
            f"group {group.name}{wanted and f', {wanted},'} has {count(found, 'job')}, one document at most "
            f"{MAX_CHAPTERS:,}",
            hint="make one for each part with --tag K=V, such as arm=NAME; --format json has no limit",
        )


async def _write_lines(queue: RedisStreamsQueue, rows: Sequence[Row], write: Write) -> int:
    """Write the jobs as JSON lines; return the exit code."""
    exit_code = 0
    async for _, job, calls, code in _read(queue, rows):
        exit_code = exit_code or code
        if job is not None:
            write(_json(job, calls))
    return exit_code


async def _write_document(
    queue: RedisStreamsQueue,
    group: Group,
    tags: Mapping[str, str],
    rows: Sequence[Row],
    layout: Layout,
    write: Write,
) -> int:
    """Write a document chapter by chapter; return the exit code."""
    from aragora_q.report.group import Title, build_chapter, build_front

    exit_code, number = 0, 0
    now = await queue.tracker.server_time()
    title = Title(group.name, group.state, group.created_at, now, tags)
    write(layout.front(build_front(title, rows)))
    async for row, job, calls, code in _read(queue, rows):
        number += 1
        exit_code = exit_code or code
        write(layout.chapter(build_chapter(number, row, job, calls)))
    if layout.end:
        write(layout.end)
    return exit_code


async def _read(
    queue: RedisStreamsQueue, rows: Sequence[Row]
) -> AsyncIterator[tuple[Row, Job | None, Calls, int]]:
    """Read jobs with their calls, and say which are corrupted; each with the exit code of that.

    A job that is gone or corrupted is None.
    """
    from aragora_q.report.calls import Calls

    for start in range(0, len(rows), JOBS_AT_ONCE):
        batch = rows[start : start + JOBS_AT_ONCE]
        ids = [row.id for row in batch]
        jobs = await queue.tracker.get_jobs(ids)
        journals = await queue.tracker.journals(ids)
        for row, job, journal in zip(batch, jobs, journals, strict=True):
            if isinstance(job, InvalidPayload):
                yield row, None, Calls(), _say(job)
            elif job is None:
                yield row, None, Calls(), 0
            else:
                yield row, job, *_calls(job, journal)


def _calls(job: Job, journal: Journal) -> tuple[Calls, int]:
    """Return the calls of a job, and the exit code for its journal: without it, the result may have all."""
    from aragora_q.report.calls import read_calls

    exit_code, transcript = 0, (job.result or {}).get("transcript")
    if isinstance(journal, InvalidPayload):
        exit_code = _say(journal)
        return read_calls(None, transcript), exit_code
    return read_calls(journal, transcript), exit_code


def _say(error: InvalidPayload) -> int:
    output.error(str(error), error.hint)
    return error.exit_code


def _json(job: Job, calls: Calls) -> str:
    from aragora_q.views import debate_json

    return output.json_text(debate_json(job, calls)) + "\n"


def _layout(form: Format, *, is_file: bool) -> Layout:
    from aragora_q.report import markdown, page, plain

    if form is Format.HTML:
        return Layout(page.render, page.front, page.chapter, page.END)
    if form is Format.MARKDOWN:
        return Layout(markdown.render, markdown.front, markdown.chapter)
    options: dict[str, Any] = {"width": output.DEFAULT_WIDTH}
    if not is_file:
        options = {"width": output.width(MAX_WIDTH), "has_colors": output.has_colors()}
    return Layout(
        partial(plain.render, **options),
        partial(plain.front, **options),
        partial(plain.chapter, **options),
    )


@contextmanager
def _opened(file: Path | None) -> Iterator[Write]:
    from aragora_q.output_file import open_file

    if file is None:
        yield lambda text: output.write(text.removesuffix("\n"))
        return
    with open_file(file) as write:
        yield lambda text: write(text.encode())
