"""`aragora-q enqueue`: one debate from arguments, or many jobs from JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import Agents, AsJson, ConfigFile, QueueName, Quiet, RedisUrl, Timeout
from aragora_q.errors import AragoraQError, InvalidPayload, NotDurable

if TYPE_CHECKING:
    from aragora_q.base import Job
    from aragora_q.streams.queue import RedisStreamsQueue

SOME_REFUSED = 3


def enqueue(
    *,
    question: Annotated[
        str,
        typer.Argument(metavar="QUESTION|FILE|-", show_default=False, hidden=True),
    ],
    agents: Agents = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="N", help="Rounds, 0 to 20; default 3.")
    ] = None,
    consensus: Annotated[
        str | None,
        typer.Option(
            "--consensus",
            metavar="MODE",
            help="majority (default), supermajority, unanimous, weighted, judge, any or none.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--job-timeout", metavar="SECONDS", help="Longest run of the debate; default: none."
        ),
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Job id; a known one changes nothing.")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option("--priority", metavar="N", help="Above 0: first; below 0: last; default 0."),
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(
            "--delay",
            metavar="DURATION",
            parser=options.parse_duration,
            help="Not before: 90s, 15m, 36h, 7d.",
        ),
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            "--max-attempts", metavar="N", help="Most attempts; default: as configured, 3."
        ),
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(
            "--durability", metavar="LEVEL", help="Confirmed by: none (default), replica, fsync."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the outcome: it is the exit code.")
    ] = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Put a debate into the queue; or any number of jobs, from JSON lines in a FILE named *.json or
    *.jsonl, or on stdin (-).

    Example:
      id=$(aragora-q enqueue "Tea or coffee?" -a claude,gpt,claude -q)
      aragora-q enqueue - < jobs.jsonl > results.jsonl

    Exit codes:
      0 ok   1 it failed (--wait)   2 usage   3 lines were refused   65 bad job
      69 Redis unreachable   75 try again   77 denied   78 configuration
      124 timeout

    """
    is_bulk = question == "-" or _names_file(question)
    if is_bulk and (wait or job_id is not None):
        raise typer.BadParameter("--wait and --id are for one QUESTION; JSON lines have an id each")
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout is for --wait")
    fields = {
        "agents": options.names(agents) or None,
        "rounds": rounds,
        "consensus": consensus,
        "timeout_seconds": time_limit,
        "priority": priority,
        "delay_seconds": delay,
        "max_attempts": max_attempts,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    settings = options.load_config(config, redis_url=redis_url, queue=queue, durability=durability)
    if is_bulk:
        raise typer.Exit(_enqueue_lines(settings, question, given, quiet=quiet))
    job = _job(question, job_id, given)
    if settings.executor == "debate":
        from aragora_q.executors.debate import check_agents

        check_agents(job.payload["agents"], settings)
    raise typer.Exit(
        options.run(_enqueue(settings, job, wait, timeout, as_json=as_json, quiet=quiet))
    )


def _names_file(text: str) -> bool:
    """Whether the argument is a FILE, not a QUESTION that ends like one."""
    is_named_so = text.endswith((".json", ".jsonl"))
    return is_named_so and (len(text.split()) == 1 or os.path.exists(text))  # noqa: PTH110 - a text may be too long for Path


def _job(question: str, job_id: str | None, given: dict[str, Any]) -> Job:
    from aragora_q.job import create_debate_job

    if "agents" not in given:
        raise InvalidPayload(
            "nobody is to debate: --agents is missing",
            hint="for example --agents claude,gpt,claude, or names of your [agents] table",
        )
    return create_debate_job(question, job_id=job_id, **given)


async def _enqueue(
    settings: Any,
    job: Job,
    wait: bool,
    timeout_seconds: float | None,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """JSON: `id`, `created` (false: the id was known, nothing changed); with --wait, the job."""
    async with options.opened(settings) as queue:
        [answer] = await queue.enqueue_many([job])
        if not answer.durable:
            if as_json:
                output.json_line({"id": job.id, "created": answer.created, "durable": False})
            raise NotDurable(job.id, settings.durability)
        if wait:
            if not quiet:
                output.note(f"job {job.id} enqueued; waiting for its end")
            return await _wait(queue, job.id, timeout_seconds, as_json=as_json, quiet=quiet)
    if as_json:
        output.json_line({"id": job.id, "created": answer.created})
    elif quiet:
        output.line(job.id)
    else:
        output.line(f"{job.id} {'enqueued' if answer.created else 'was known: nothing changed'}")
    return 0


async def _wait(
    queue: RedisStreamsQueue,
    job_id: str,
    timeout_seconds: float | None,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    from aragora_q.cli import views, waiting

    async for job in waiting.ended_jobs(queue, [job_id], timeout_seconds):
        views.show_job(job, as_json=as_json, quiet=quiet)
    return waiting.exit_code([job])


def _enqueue_lines(settings: Any, source: str, given: dict[str, Any], *, quiet: bool) -> int:
    from aragora_q.cli import bulk

    tally = bulk.BulkSummary()

    async def take_in(stream: BinaryIO, progress: bulk.Progress) -> None:
        async with options.opened(settings) as queue:
            await bulk.BulkEnqueuer(queue, given, quiet=quiet, tally=tally).run(stream, progress)

    with _opened(source) as stream:
        progress = bulk.Progress(stream)
        try:
            options.run(take_in(stream, progress))
        except (AragoraQError, KeyboardInterrupt):
            progress.clear()
            if tally.last_line:
                output.note(
                    f"stopped after line {tally.last_line:,}: {tally.text()}; run it again, "
                    "nothing is enqueued twice"
                )
            raise
    progress.clear()
    if tally.refused:
        output.error(f"{tally.text()}; the first: {tally.first_refusal}")
        return SOME_REFUSED
    if tally.not_durable:
        raise NotDurable(output.count(tally.not_durable, "job"), settings.durability)
    if sys.stderr.isatty() and not quiet:
        output.note(tally.text())
    return 0


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise typer.BadParameter(f"cannot read {source}: {error.strerror}") from None
    with stream:
        yield stream
