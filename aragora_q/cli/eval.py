"""`aragora-q eval`: how good the arms of an experiment are, by questions whose right verdicts are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output, reports
from aragora_q.cli.debates import (
    ArmsFile,
    ExperimentGroup,
    MaxQuoteOfAll,
    MoreArms,
    QuoteOnly,
    Rerun,
    with_debate_fields,
)
from aragora_q.cli.options import CODES, AsJson, LoadConfig, Timeout, Yes, traced, with_config

if TYPE_CHECKING:
    from aragora_q.cli.sweeping import SweepOptions
    from aragora_q.config.settings import QueueConfig
    from aragora_q.experiments.arms import Arm
    from aragora_q.experiments.questions import Question
    from aragora_q.streams.queue import RedisStreamsQueue

EPILOG = f"""\b
Examples:
  aragora-q eval --group trivia
  aragora-q eval --builtin --group first -a claude,gpt,gemini --dry-run
  aragora-q eval questions.csv --group tea -a claude,gpt,claude --yes --json
  aragora-q eval questions.csv --group tea --arms arms.toml -f md > tea.md

\b
Exit codes:
  0 ok   1 not confirmed   2 usage, or --yes is required
  3 no such group   65 a question or arm is refused, has no expected verdict,
  is above --max-quote, or data in Redis is corrupted
  124 not ended within --timeout
  {CODES}, or SciPy is not installed
"""


@traced
@with_config
@with_debate_fields
def eval_(
    load: LoadConfig,
    *,
    questions: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTIONS",
            show_default=False,
            help="File of questions with expected: *.csv, or JSON lines; - is stdin.",
        ),
    ] = None,
    group: ExperimentGroup,
    builtin: Annotated[
        bool, typer.Option("--builtin", help="Ask the 50 questions that ship with aragora-q.")
    ] = False,
    arms: ArmsFile = None,
    arm: MoreArms = None,
    fields: dict[str, Any],
    max_quote: MaxQuoteOfAll = None,
    rerun: Rerun = False,
    dry_run: QuoteOnly = False,
    yes: Yes = False,
    timeout: Timeout = None,
    form: reports.ReportFormat = reports.Format.TEXT,
    as_json: AsJson = False,
) -> int:
    """Measure how good the arms of an experiment are, by questions whose right verdicts are known.

    With QUESTIONS or --builtin, it enqueues the debates that are missing, as sweep does, waits for the
    group, whose debates workers run, and reports; without, it reports what the group has. Without arms,
    there are four, at equal cost: one call of the first agent; samples of it; a vote of all agents; and
    the debate. Needs the extra [eval].
    """
    from aragora_q.cli.sweeping import SweepOptions, check_confirmed
    from aragora_q.experiments import inference
    from aragora_q.intake import checks
    from aragora_q.job_fields import APPROVE_ABOVE, MAX_QUOTE

    inference.require()
    is_plain = form is reports.Format.TEXT and not as_json
    limits = checks.take_thresholds({APPROVE_ABOVE: None, MAX_QUOTE: max_quote})
    how = SweepOptions(rerun, dry_run, yes, limits.max_quote, as_json=as_json, quiet=not is_plain)
    if builtin and questions is not None:
        raise typer.BadParameter("QUESTIONS and --builtin are alternatives: give one of them")
    is_asked = builtin or questions is not None
    if is_asked:
        check_confirmed(questions or "", how)
    elif any((arms, arm, fields, max_quote, rerun, dry_run, yes, timeout)):
        raise typer.BadParameter(
            "without QUESTIONS or --builtin nothing is asked: only --group, --format and --json apply"
        )
    config = load()
    asked = None
    if is_asked:
        agents = options.default_agents(load, config)
        read = _read_questions(questions, config)
        asked = _Asked(group, read, agents, _arms(fields, arms, arm), fields, how, timeout)

    async def run() -> int:
        async with options.open_queue(config) as queue:
            expected = await _ask(queue, asked) if asked else {}
            if dry_run:
                return 0
            return await _report(queue, group, expected, form, as_json=as_json)

    return options.run(run())


@dataclass(frozen=True)
class _Asked:
    """What is asked before the report."""

    group: str
    questions: Sequence[Question]
    agents: Sequence[str]
    """Those of setting `default_agents`."""
    arms: Sequence[Arm]
    """Empty: the four at equal cost."""
    fields: Mapping[str, Any]
    how: SweepOptions
    timeout_seconds: float | None


def _arms(fields: Mapping[str, Any], source: str | None, given: Sequence[str] | None) -> list[Arm]:
    from aragora_q.cli.sweeping import read_arms
    from aragora_q.experiments.arms import arms_of

    return arms_of(fields, read_arms(source), given or ()) if source or given else []


async def _ask(queue: RedisStreamsQueue, asked: _Asked) -> Mapping[str, Sequence[Any]]:
    """Enqueue the debates that are missing, and wait for the group; only quote them if it is a trial.

    Return the right verdicts of each debate, as the file now has them.
    """
    from aragora_q.cli import sweeping, waiting
    from aragora_q.experiments.sweep import Experiment
    from aragora_q.job_fields import default_fields

    how, arms = asked.how, asked.arms or await _default_arms(queue, asked)
    defaults = default_fields((), queue.config.default_notify)
    experiment = Experiment(asked.group, asked.questions, arms, asked.agents, defaults)
    outcome = await sweeping.run(queue, experiment, how)
    if how.dry_run:
        sweeping.report(outcome, how)
        return {}
    if not how.quiet:
        output.info(f"waiting for group {asked.group}: workers run its debates")
    await waiting.ended_group(
        queue, asked.group, asked.timeout_seconds, quiet=how.quiet, is_complete=True
    )
    if not how.quiet:
        output.line()
    return {debate.id: debate.question.expected for debate in experiment}


async def _default_arms(queue: RedisStreamsQueue, asked: _Asked) -> list[Arm]:
    from aragora_q.experiments.equal_cost import default_arms
    from aragora_q.intake.quoter import Quoter

    arms = await default_arms(
        Quoter(queue), asked.group, asked.questions, asked.agents, asked.fields
    )
    if not asked.how.quiet:
        for arm in arms[:-1]:
            output.info(f"arm {arm.name}: {', '.join(arm.fields['agents'])}")
    return arms


def _read_questions(source: str | None, config: QueueConfig) -> list[Question]:
    """Return the questions of a file, or those of the package. Raises InvalidPayload."""
    import io
    from importlib.resources import files

    from aragora_q.cli import bulk, sweeping
    from aragora_q.errors import InvalidPayload
    from aragora_q.experiments.questions import read_json_lines
    from aragora_q.experiments.refusals import Refusals
    from aragora_q.intake.lines import max_line_bytes

    if source is None:
        data = files("aragora_q.experiments").joinpath("builtin.jsonl").read_bytes()
        return read_json_lines(bulk.read_items(io.BytesIO(data), max_line_bytes(config)))
    found, refusals = sweeping.read_questions(source, config), Refusals()
    for question in found:
        with refusals.collect(f"line {question.line}"):
            if not question.expected:
                raise InvalidPayload(
                    "expected is missing: the verdict, or the verdicts, that are right"
                )
    refusals.check("line")
    return found


async def _report(
    queue: RedisStreamsQueue,
    group: str,
    expected: Mapping[str, Sequence[Any]],
    form: reports.Format,
    *,
    as_json: bool,
) -> int:
    from aragora_q.cli.evaluation_report import report_of
    from aragora_q.cli.group_rows import read_group
    from aragora_q.experiments.evaluation import evaluate

    rows, exit_code = await read_group(queue, group, expected)
    found = evaluate(rows)
    if as_json:
        output.json_line({"group": group, **found.to_dict()})
        return exit_code
    reports.write_report(report_of(group, found), form)
    return exit_code
