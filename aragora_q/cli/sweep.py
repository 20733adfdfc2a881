"""`aragora-q sweep`: a file of questions by arms becomes a group of debates."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aragora_q.cli import options
from aragora_q.cli.debates import (
    ArmsFile,
    ExperimentGroup,
    MaxQuoteOfAll,
    MoreArms,
    QuoteOnly,
    Rerun,
    with_debate_fields,
)
from aragora_q.cli.options import CODES, AsJson, LoadConfig, Quiet, Yes, traced, with_config

EPILOG = f"""\b
Examples:
  aragora-q sweep questions.csv --group tea --arms arms.toml
  aragora-q sweep questions.jsonl --group tea -a claude,gpt,claude \\
    --arm 'quick debate=never' --arm 'long rounds=5 consensus=unanimous'
  aragora-q sweep questions.csv --group tea --arms arms.toml --dry-run

\b
Exit codes:
  0 ok   1 not confirmed   2 usage, or --yes is required
  65 a question or arm is refused, a sealed group, or above --max-quote
  {CODES}
"""


@traced
@with_config
@with_debate_fields
def sweep(
    load: LoadConfig,
    *,
    questions: Annotated[
        str,
        typer.Argument(
            metavar="QUESTIONS",
            show_default=False,
            help="File of questions: *.csv, or JSON lines; - is stdin.",
        ),
    ],
    group: ExperimentGroup,
    arms: ArmsFile = None,
    arm: MoreArms = None,
    fields: dict[str, Any],
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="T", help="For whom the debates run.")
    ] = None,
    tags: Annotated[
        list[Any] | None,
        typer.Option(
            "--tag", metavar="K=V", parser=options.parse_tag, help="Tag of all debates; repeatable."
        ),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            "--notify", metavar="A,B,…", help="Webhooks to report each end to, at most 4."
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option("--priority", metavar="N", help="Above 0: started first; below 0: last."),
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option("--max-attempts", metavar="N", help="Attempts before failure."),
    ] = None,
    approve_above: Annotated[
        float | None,
        typer.Option(
            "--approve-above", metavar="USD", help="Hold debates that can cost more each."
        ),
    ] = None,
    max_quote: MaxQuoteOfAll = None,
    rerun: Rerun = False,
    dry_run: QuoteOnly = False,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Enqueue a debate of each question in each arm, and show the quote first.

    A question has the fields of a line of `enqueue`, and, if they are known, the right verdicts as
    `expected`. An arm is a name for fields of a debate; options are fields of all arms. A question's fields
    win over options, an arm's over both. Debates that are in the group already are not enqueued again, so a
    second run adds what is missing.
    """
    from aragora_q.cli import sweeping
    from aragora_q.experiments.arms import arms_of
    from aragora_q.experiments.sweep import Experiment
    from aragora_q.intake import checks
    from aragora_q.job_fields import APPROVE_ABOVE, MAX_QUOTE

    thresholds = checks.take_thresholds({APPROVE_ABOVE: approve_above, MAX_QUOTE: max_quote})
    how = sweeping.SweepOptions(
        rerun, dry_run, yes, thresholds.max_quote, thresholds.approve_above, as_json, quiet
    )
    sweeping.check_confirmed(questions, how)
    config = load()
    experiment = Experiment(
        group,
        sweeping.read_questions(questions, config),
        arms_of(fields, sweeping.read_arms(arms), arm or ()),
        options.default_agents(load, config),
        {
            name: value
            for name, value in {
                "tenant": tenant,
                "tags": options.by_name(tags, "--tag"),
                "notify": options.split_names(notify) or list(config.default_notify),
                "priority": priority,
                "max_attempts": max_attempts,
            }.items()
            if value
        },
    )

    async def enqueue() -> sweeping.Outcome:
        async with options.open_queue(config) as queue:
            return await sweeping.run(queue, experiment, how)

    sweeping.report(options.run(enqueue()), how)
