"""`aragora-q eval`: how good the arms of an experiment are, by questions whose right verdicts are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.debates import with_debate_fields
from aragora_q.cli.options import CODES, AsJson, LoadConfig, Timeout, Yes, with_config
from aragora_q.formats import count, dollars_or_unknown, duration, points

if TYPE_CHECKING:
    from aragora_q.cli.sweeping import SweepOptions
    from aragora_q.config.settings import QueueConfig
    from aragora_q.experiments.arms import Arm
    from aragora_q.experiments.evaluation import (
        ArmResult,
        Calibration,
        Evaluation,
        Flips,
        Pair,
        Rate,
    )
    from aragora_q.experiments.inference import Interval
    from aragora_q.experiments.questions import Question
    from aragora_q.report.document import Report, Section, Table
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_WIDTH = 120

MAX_PAIRS = 60
"""Pairs of arms that the report lists: those of eleven arms, and a few. JSON has all of them."""


class Format(StrEnum):
    """What `--format` accepts."""

    TEXT = "text"
    MARKDOWN = "md"


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
    group: Annotated[
        str, typer.Option("--group", metavar="G", help="Group of the debates.", show_default=False)
    ],
    builtin: Annotated[
        bool, typer.Option("--builtin", help="Ask the 50 questions that ship with aragora-q.")
    ] = False,
    arms: Annotated[
        str | None,
        typer.Option("--arms", metavar="FILE", help="TOML with [defaults] and [arms.NAME]."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="'NAME field=value …'", help="One more arm; repeatable."),
    ] = None,
    fields: dict[str, Any],
    max_quote: Annotated[
        float | None,
        typer.Option("--max-quote", metavar="USD", help="Refuse if all is expected to cost more."),
    ] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Buy debates again that were deleted.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, and show the quote.")
    ] = False,
    yes: Yes = False,
    timeout: Timeout = None,
    form: Annotated[Format, typer.Option("--format", "-f", help="How to print it.")] = Format.TEXT,
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

    inference.require()
    is_plain = form is Format.TEXT and not as_json
    limits = checks.take_thresholds({checks.APPROVE_ABOVE: None, checks.MAX_QUOTE: max_quote})
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

    how, arms = asked.how, asked.arms or await _default_arms(queue, asked)
    experiment = Experiment(asked.group, asked.questions, arms, asked.agents)
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
    form: Format,
    *,
    as_json: bool,
) -> int:
    from aragora_q.cli.group_rows import read_group
    from aragora_q.experiments.evaluation import evaluate
    from aragora_q.report import markdown, plain

    rows, exit_code = await read_group(queue, group, expected)
    found = evaluate(rows)
    if as_json:
        output.json_line({"group": group, **found.to_dict()})
        return exit_code
    report = report_of(group, found)
    if form is Format.MARKDOWN:
        text = markdown.render(report)
    else:
        text = plain.render(report, output.width(MAX_WIDTH), has_colors=output.has_colors())
    output.write(text.removesuffix("\n"))
    return exit_code


def report_of(group: str, found: Evaluation) -> Report:
    """Return the report of an evaluation, for a person."""
    from aragora_q.report.document import Notice, Report, Section, Tone

    counts = [
        count(found.questions, "question"),
        count(len(found.arms), "arm"),
        count(found.debates, "debate"),
    ]
    intro = [Notice(f"{', '.join(counts)}. A debate is right if its verdict is an expected one.")]
    intro += [Notice(text, Tone.CAUTION) for text in found.warnings]
    sections = [Section("Arms", [_accuracies(found.arms), _counts(found.arms)])]
    if any(pair.questions for pair in found.pairs):
        sections.append(_comparisons(found.pairs))
    if found.findings:
        sections.append(Section("What follows", [Notice(text) for text in found.findings]))
    calibrated = [(_name(each), each.calibration) for each in found.arms if each.calibration]
    sections += [_calibrations(calibrated)] if calibrated else []
    flipped = [(_name(each), each.flips) for each in found.arms if each.flips]
    sections += [_flips(flipped)] if flipped else []
    sections += [_biases(found.arms)] if any(arm.answered for arm in found.arms) else []
    return Report(f"Evaluation of group {group}", intro, sections if found.arms else [])


def _name(arm: ArmResult) -> str:
    from aragora_q.experiments.evaluation import name_of

    return name_of(arm.arm)


def _accuracies(arms: Sequence[ArmResult]) -> Table:
    from aragora_q.report.document import Row, Table

    head = ("Arm", "Right", "Accuracy", "95% interval", "Cost each", "Calls", "Median", "P90")
    rows = [
        Row(
            [
                _name(arm),
                f"{arm.right:,}/{arm.counted:,}" if arm.counted else "",
                _percent(arm.accuracy),
                _interval(arm.interval),
                _cost(arm, arm.cost_per_question_usd),
                "" if arm.calls_per_question is None else f"{arm.calls_per_question:.1f}",
                "" if arm.median_seconds is None else duration(arm.median_seconds),
                "" if arm.p90_seconds is None else duration(arm.p90_seconds),
            ]
        )
        for arm in arms
    ]
    return Table(head, rows, frozenset(head[1:]))


def _counts(arms: Sequence[ArmResult]) -> Table:
    from aragora_q.report.document import Row, Table

    head = (
        "Arm", "Debates", "Answered", "Failed", "Cancelled", "Live", "Abstained", "Calls", "Tokens",
        "Cost",
    )  # fmt: skip
    rows = [
        Row(
            [
                _name(arm),
                f"{arm.debates:,}",
                f"{arm.answered:,}",
                *(
                    f"{number:,}" if number else ""
                    for number in (arm.failed, arm.cancelled, arm.live, arm.abstentions)
                ),
                f"{arm.calls:,}",
                f"{arm.tokens:,}",
                _cost(arm, arm.cost_usd),
            ]
        )
        for arm in arms
    ]
    return Table(head, rows, frozenset(head[1:]))


def _cost(arm: ArmResult, usd: float | None) -> str:
    return dollars_or_unknown(usd) if arm.calls or usd is not None else ""


def _comparisons(pairs: Sequence[Pair]) -> Section:
    from aragora_q.experiments.evaluation import name_of
    from aragora_q.report.document import Notice, Row, Section, Table

    head = (
        "Arm", "Against", "Both", "Won", "Lost", "Points", "95% interval", "p", "Adjusted",
    )  # fmt: skip
    rows = [
        Row(
            [
                name_of(pair.arm),
                name_of(pair.baseline),
                f"{pair.questions:,}",
                f"{pair.only_arm:,}",
                f"{pair.only_baseline:,}",
                "" if pair.difference is None else points(pair.difference),
                _interval_of_points(pair.interval),
                "" if pair.p is None else _p(pair.p),
                "" if pair.p_adjusted is None else _p(pair.p_adjusted),
            ]
        )
        for pair in pairs[:MAX_PAIRS]
    ]
    more = len(pairs) - len(rows)
    left_out = f" Not listed: {count(more, 'more pair')}; see --json." if more else ""
    note = (
        "Both: questions counted in both arms. Won, lost: only this arm is right, only the other one. "
        "p: exact McNemar test; adjusted for the number of pairs by Holm."
        f"{left_out}"
    )
    return Section(
        "Differences of accuracy", [Table(head, rows, frozenset(head[2:])), Notice(note)]
    )


def _calibrations(found: Sequence[tuple[str, Calibration]]) -> Section:
    from aragora_q.report.document import Notice, Row, Section, Table

    head = ("Arm", "Debates", "Agreement", "Right", "ECE")
    rows = [
        Row(
            [
                name,
                f"{each.debates:,}",
                _percent(each.agreement),
                _percent(each.accuracy),
                f"{each.ece:.3f}",
            ]
        )
        for name, each in found
    ]
    bins = [
        Row([f"{100 * edge.low:.0f} to {100 * edge.high:.0f}%", *cells])
        for number, edge in enumerate(found[0][1].bins)
        if any(cells := [_bin(each, number) for _, each in found])
    ]
    names = [name for name, _ in found]
    note = (
        "ECE: how far agreement is from the share of right verdicts, on average; 0 is best. Below: that "
        "share, and of how many debates, by agreement."
    )
    return Section(
        "Calibration of agreement",
        [
            Table(head, rows, frozenset(head[1:])),
            Notice(note),
            Table(["Agreement", *names], bins, frozenset(names)),
        ],
    )


def _bin(calibration: Calibration, number: int) -> str:
    each = calibration.bins[number]
    return f"{_percent(each.accuracy)} of {each.debates:,}" if each.debates else ""


def _flips(found: Sequence[tuple[str, Flips]]) -> Section:
    from aragora_q.report.document import Row, Section, Table

    head = ("Arm", "Answers", "Right first", "Right last", "Right to wrong", "Wrong to right")
    rows = [
        Row(
            [
                name,
                f"{each.seats:,}",
                _percent(each.first_accuracy),
                _percent(each.last_accuracy),
                f"{each.right_to_wrong:,}",
                f"{each.wrong_to_right:,}",
            ]
        )
        for name, each in found
    ]
    return Section(
        "Answers of seats, before and after the rounds", [Table(head, rows, frozenset(head[1:]))]
    )


def _biases(arms: Sequence[ArmResult]) -> Section:
    from aragora_q.report.document import Notice, Row, Section, Table

    head = ("Arm", "Ballots", "First label", "First place", "Own answer", "By chance")
    rows = [
        Row([_name(arm), f"{arm.label.ballots:,}", *_rates(arm), _percent(arm.label.chance)])
        for arm in arms
        if arm.label
    ]
    text = "No ballots: each verdict of a closed form is a vote, so no voter chose among labeled answers."
    return Section(
        "Biases of voters", [Table(head, rows, frozenset(head[1:])) if rows else Notice(text)]
    )


def _rates(arm: ArmResult) -> Iterator[str]:
    rates: list[Rate | None] = [arm.label, arm.place, arm.own]
    for each in rates:
        yield _percent(each.rate if each else None)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval.low:.0f} to {interval.high:.0%}"


def _interval_of_points(interval: Interval | None) -> str:
    return "" if interval is None else f"{points(interval.low)} to {points(interval.high)}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
