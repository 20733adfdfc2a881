"""`aragora-q enqueue`: one debate from arguments, or many jobs from JSON lines."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from aragora_q.base import new_job_id
from aragora_q.cli import options, output
from aragora_q.cli.debates import with_debate_fields
from aragora_q.cli.options import AsJson, LoadConfig, Notify, Quiet, Timeout, traced, with_config
from aragora_q.errors import AragoraQError, InvalidPayload, NotDurable, TryAgain, how_to_confirm
from aragora_q.job_rules import forked_from

if TYPE_CHECKING:
    from aragora_q.base import Job
    from aragora_q.cli.bulk import Progress
    from aragora_q.config.settings import QueueConfig
    from aragora_q.executors.debate.quote import Approval
    from aragora_q.intake.bulk import BulkSummary
    from aragora_q.intake.checks import Thresholds
    from aragora_q.intake.quoter import Quoter
    from aragora_q.streams.queue import RedisStreamsQueue

SOME_REFUSED = 3
EPILOG = """\b
Examples:
  id=$(aragora-q enqueue "Tea or coffee?" -a claude,gpt,claude -q)
  aragora-q enqueue "Which is better?" --options tea,coffee --wait
  aragora-q enqueue - < jobs.jsonl > results.jsonl
  aragora-q enqueue "Tea or coffee?" -a claude,gpt --quote
  aragora-q enqueue --from $id --consensus unanimous

\b
Exit codes:
  0 ok   1 the job did not complete (--wait)   2 usage
  3 some lines refused, or --from unknown   65 invalid job, or
  above --max-quote   69 Redis unreachable   75 try again
  77 access denied   78 invalid configuration   124 timeout
"""


@traced
@with_config
@with_debate_fields
def enqueue(
    load: LoadConfig,
    *,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION|FILE|-",
            show_default=False,
            help="Question; or JSON lines: *.jsonl, *.json, - (stdin).",
        ),
    ] = None,
    fields: dict[str, Any],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ID",
            help="As that debate, with changes.",
        ),
    ] = None,
    approve_above: Annotated[
        float | None,
        typer.Option(
            "--approve-above",
            metavar="USD",
            help="Hold what can cost more, until `unhold`.",
        ),
    ] = None,
    max_quote: Annotated[
        float | None,
        typer.Option("--max-quote", metavar="USD", help="Refuse what is expected to cost more."),
    ] = None,
    quote: Annotated[
        bool,
        typer.Option("--quote", help="Only show what it will take and cost; -q: only USD."),
    ] = False,
    metadata: Annotated[
        Any,
        typer.Option(
            "--metadata",
            metavar="JSON",
            parser=options.parse_object,
            help="Data to keep with the job: a JSON object, or @FILE.",
        ),
    ] = None,
    job_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Job id; an existing job is not changed."),
    ] = None,
    id_from_content: Annotated[
        bool,
        typer.Option(
            "--id-from-content",
            help="Make missing ids from payload and group.",
        ),
    ] = False,
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority", metavar="N", help="Above 0: started first; below 0: last. [default: 0]"
        ),
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(
            "--delay",
            metavar="DURATION",
            parser=options.parse_duration,
            help="Time before the first start: 90s, 15m, 36h, 7d.",
        ),
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            "--max-attempts", metavar="N", help="Attempts before failure. [default: as configured]"
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="G", help="Group of the job; see `group --help`."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="T", help="For whom the job runs.")
    ] = None,
    tags: Annotated[
        list[Any] | None,
        typer.Option(
            "--tag",
            metavar="K=V",
            parser=options.parse_tag,
            help="Tag to find the job by; repeatable, at most 8.",
        ),
    ] = None,
    notify: Notify = None,
    durability: Annotated[
        str | None,
        typer.Option(
            "--durability",
            metavar="LEVEL",
            help="Confirmed by: none (default), replica or fsync.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the job; its outcome sets the exit code.")
    ] = False,
    timeout_seconds: Timeout = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Enqueue a debate, or many jobs from JSON lines.

    Without --agents, those of setting `default_agents` debate. A JSON line has the fields of a debate, or any
    JSON object as `payload`, and, if needed, `id`, `priority`, `delay_seconds`, `max_attempts`, `group`,
    `tenant`, `tags`, `notify`, `approve_above_usd` and `max_quote_usd`. Options apply to lines that lack the
    field, --tag to lines that lack the tag. Without `id`, each line is a new job; an id that exists changes
    nothing. With --from, or field `from`, a debate is that one with changes, and takes over its calls.
    """
    from aragora_q.intake import checks
    from aragora_q.job_fields import (
        APPROVE_ABOVE,
        MAX_QUOTE,
        content_id,
        create_job,
        default_fields,
    )

    thresholds = checks.take_thresholds({APPROVE_ABOVE: approve_above, MAX_QUOTE: max_quote})
    is_bulk = question is not None and (question == "-" or _is_file_name(question))
    _check_source(question, source, is_bulk=is_bulk, is_single=wait or job_id is not None)
    if job_id is not None and id_from_content:
        raise typer.BadParameter("--id and --id-from-content exclude each other")
    if quote and wait:
        raise typer.BadParameter("--quote enqueues nothing to --wait for")
    if timeout_seconds is not None and not wait:
        raise typer.BadParameter(
            "--timeout requires --wait; to limit the debate, use --job-timeout"
        )
    job_fields = {
        "metadata": metadata,
        "priority": priority,
        "delay_seconds": delay,
        "max_attempts": max_attempts,
        "group": group,
        "tenant": tenant,
        "tags": options.by_name(tags, "--tag") or None,
        "notify": options.split_names(notify) or None,
    }
    settings = load(durability=durability)
    given = {
        **default_fields((), settings.default_notify),
        **fields,
        **{name: value for name, value in job_fields.items() if value is not None},
    }
    if (
        "agents" not in given
        and source is None
        and (default_agents := options.default_agents(load, settings))
    ):
        given["agents"] = default_agents
    if is_bulk and question is not None:
        return _enqueue_lines(
            settings,
            question,
            given,
            thresholds,
            only_quote=quote,
            id_from_content=id_from_content,
            as_json=as_json,
            quiet=quiet,
        )
    new_id = content_id if id_from_content else lambda *_: new_job_id()
    line = {"id": job_id, "question": question}
    if source is not None:
        line = options.run(_fork(settings, {**given, **line, "from": source}))
    job = create_job(line, given, new_id)
    warning = checks.check_seats(job.payload, settings)
    if warning and not quiet:
        output.info(f"warning: {warning}")
    checks.check_budget(job, settings)
    if quote:
        return options.run(_quote(settings, job, thresholds, as_json=as_json, quiet=quiet))
    return options.run(
        _enqueue(settings, job, thresholds, wait, timeout_seconds, as_json=as_json, quiet=quiet)
    )


async def _fork(settings: QueueConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a debate with those of another one, `from`; a `question` of None keeps its."""
    from aragora_q.intake.forks import with_source

    if fields["question"] is None:
        del fields["question"]
    async with options.open_queue(settings) as queue:
        return await with_source(queue, fields, {})


def _check_source(
    question: str | None, source: str | None, *, is_bulk: bool, is_single: bool
) -> None:
    """Raise typer.BadParameter if JSON lines have options of a QUESTION, or QUESTION is a file or missing."""
    if question is None and source is None:
        raise typer.BadParameter("QUESTION, FILE, - or --from ID is required")
    if is_bulk and source is not None:
        raise typer.BadParameter("--from excludes JSON lines; each line may have the field from")
    if is_bulk and is_single:
        raise typer.BadParameter(
            "--wait and --id require a QUESTION; in JSON lines, each line may have an id"
        )
    if question is not None and not is_bulk and _is_other_file(question):
        raise typer.BadParameter(
            f"{question} is a file: to enqueue its JSON lines, use aragora-q enqueue - < {question}",
            param_hint="QUESTION",
        )


def _is_file_name(text: str) -> bool:
    """Return True if the argument is a FILE, not a QUESTION that ends like one."""
    has_suffix = text.lower().endswith((".json", ".jsonl", ".ndjson"))
    return has_suffix and (len(text.split()) == 1 or os.path.exists(text))  # noqa: PTH110 - too long for Path


def _is_other_file(text: str) -> bool:
    """Return True if a QUESTION of one word is an existing file, such as jobs.txt, or a path."""
    is_found = "." in text and os.path.exists(text)  # noqa: PTH110 - too long for Path
    return len(text.split()) == 1 and (is_found or text.startswith(("/", "./", "../", "~/")))


async def _enqueue(
    settings: QueueConfig,
    job: Job,
    thresholds: Thresholds,
    wait: bool,
    timeout_seconds: float | None,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """JSON: `id`, `created` (false: the id already existed, nothing changed); with --wait, the job.

    A job that waits for an approval has `held` (true) and `most_usd` (null: unknown), too.
    """
    from aragora_q.intake import checks

    async with options.open_queue(settings) as queue:
        quoter = _quoter(queue, quiet=quiet)
        approval = await quoter.approval(job.payload, thresholds.approve_above)
        await quoter.check(job, thresholds.max_quote)
        [result] = await queue.enqueue_many([job], hold=approval.reason if approval else "")
        fields = {
            "id": job.id,
            "created": result.created,
            **checks.held_fields(approval, created=result.created),
        }
        if not result.durable:
            if as_json:
                output.json_line({**fields, "durable": False})
            raise NotDurable(job.id, settings.durability)
        if result.created:
            text = await _created(quoter, job, approval, quiet=quiet)
        else:
            text = f"{job.id} already exists ({await queue.get_status(job.id)}): not changed"
        if wait:
            if not quiet or not result.created:
                output.info(f"job {text}; waiting until it ends")
            return await _wait(queue, job.id, timeout_seconds, as_json=as_json, quiet=quiet)
    if as_json:
        output.json_line(fields)
    else:
        output.line(job.id if quiet else text)
    if (as_json or quiet) and not result.created:
        output.info(f"job {text}")
    return 0


async def _created(quoter: Quoter, job: Job, approval: Approval | None, *, quiet: bool) -> str:
    """Return that a job is in the queue, and say on stderr what needs attention."""
    if forked_from(job.payload) is not None and not quiet:
        quoted = await quoter.quote(job.payload)
        if quoted.taken_over == 0:
            output.info(f"warning: {quoted.what_is_taken_over}")
    if approval is None:
        return f"{job.id} enqueued"
    output.info(f"job {job.id} {approval.reason}; to approve it: aragora-q unhold {job.id}")
    return f"{job.id} enqueued and held"


def _quoter(queue: RedisStreamsQueue, *, quiet: bool) -> Quoter:
    from aragora_q.intake.quoter import Quoter

    def warn(text: str) -> None:
        if not quiet:
            output.info(f"warning: {text}")

    return Quoter(queue, warn)


async def _wait(
    queue: RedisStreamsQueue,
    job_id: str,
    timeout_seconds: float | None,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    from aragora_q.cli import layout, waiting

    async for job in waiting.ended_jobs(queue, [job_id], timeout_seconds, quiet=quiet):
        await layout.show_job(queue, job, as_json=as_json, quiet=quiet)
    return waiting.exit_code(job)


async def _quote(
    settings: QueueConfig, job: Job, thresholds: Thresholds, *, as_json: bool, quiet: bool
) -> int:
    """JSON: the quote; if the job would wait for an approval, `held` and `most_usd`, too."""
    from aragora_q.cli import quotes

    async with options.open_queue(settings) as queue:
        queue.check(job)
        quoter = _quoter(queue, quiet=quiet)
        quoted = await quoter.quote(job.payload)
        approval = await quoter.approval(job.payload, thresholds.approve_above)
        try:
            await quoter.check(job, thresholds.max_quote)
        except InvalidPayload:
            approval = None  # what is refused is not held
            raise
        finally:
            quotes.print_quote(quoter, quoted, approval, as_json=as_json, quiet=quiet)
    return 0


def _enqueue_lines(
    settings: QueueConfig,
    source: str,
    given: dict[str, Any],
    thresholds: Thresholds,
    *,
    only_quote: bool,
    id_from_content: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    from aragora_q.cli import bulk
    from aragora_q.intake.bulk import BulkEnqueuer, BulkSummary, LineChecker

    summary = BulkSummary()

    async def work_on(stream: BinaryIO, progress: Progress) -> None:
        async with options.open_queue(settings) as queue:
            checker = LineChecker(
                _quoter(queue, quiet=quiet),
                given,
                thresholds,
                summary,
                id_from_content=id_from_content,
            )
            if only_quote:
                from aragora_q.cli import quotes

                await quotes.quote_lines(checker, stream, progress, as_json=as_json, quiet=quiet)
            else:
                await bulk.enqueue_stream(BulkEnqueuer(checker), stream, progress, quiet=quiet)

    with bulk.open_source(source) as stream:
        progress = bulk.Progress(stream)
        try:
            options.run(work_on(stream, progress))
        except (AragoraQError, KeyboardInterrupt, OSError):  # OSError: of its output
            progress.clear()
            if summary.last_line or summary.unanswered_to:
                output.info(
                    f"stopped after line {summary.last_line}: {summary.text()}; "
                    f"{summary.how_to_continue()}"
                )
            raise
    progress.clear()
    if summary.warnings and not quiet:
        output.info(f"warning: {summary.warning()}")
    if only_quote:
        return _exit_code_of_quotes(summary, as_json=as_json)
    return _exit_code(summary, settings, quiet=quiet)


def _exit_code_of_quotes(summary: BulkSummary, *, as_json: bool) -> int:
    """Return the exit code of JSON lines that were quoted, and say on stderr what would not be enqueued."""
    if summary.held:
        jobs = output.count(summary.held, "job")
        output.info(f"{jobs} would be held; the first, {summary.first_held}")
    if not summary.refused:
        return 0
    text = f"{output.count(summary.refused, 'line')} refused; the first: {summary.first_refusal}"
    output.error(text, "" if as_json else "with --json, each line has its quote or error")
    return SOME_REFUSED


def _exit_code(summary: BulkSummary, settings: QueueConfig, *, quiet: bool) -> int:
    """Return the exit code of JSON lines, and say on stderr what needs attention."""
    if summary.held:
        output.info(summary.approvals())
    if summary.refused:
        output.error(f"{summary.text()}; the first: {summary.first_refusal}")
        return SOME_REFUSED
    if summary.not_durable:
        raise TryAgain(
            f"{output.count(summary.not_durable, 'job')} accepted, but not confirmed in time "
            f"(durability {settings.durability})",
            hint="enqueue these lines again with the ids in the results, no job is enqueued twice; "
            f"if this persists, {how_to_confirm(settings.durability)}",
        )
    if summary.existing or not summary.created or (sys.stderr.isatty() and not quiet):
        output.info(summary.text())
    return 0
