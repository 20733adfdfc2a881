"""The options that say how debates are held, as fields of a debate, and those of an experiment.

Used by `enqueue`, `sweep` and `eval`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from aragora_q.cli import options
from aragora_q.cli.options import Agents

ExperimentGroup = Annotated[
    str, typer.Option("--group", metavar="G", help="Group of the debates.", show_default=False)
]
ArmsFile = Annotated[
    str | None,
    typer.Option("--arms", metavar="FILE", help="TOML with [defaults] and [arms.NAME]."),
]
MoreArms = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="'NAME field=value …'", help="One more arm; repeatable."),
]
MaxQuoteOfAll = Annotated[
    float | None,
    typer.Option("--max-quote", metavar="USD", help="Refuse if all is expected to cost more."),
]
Rerun = Annotated[bool, typer.Option("--rerun", help="Buy debates again that were deleted.")]
QuoteOnly = Annotated[bool, typer.Option("--dry-run", help="Only check, and show the quote.")]

FIELDS = "fields"
"""The parameter of a command that receives the fields."""


def with_debate_fields(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the options of a debate, in the place of its parameter `fields`: those given, by field."""
    mine = inspect.signature(_fields, eval_str=True).parameters

    @wraps(command)
    def wrapper(*args: Any, **arguments: Any) -> Any:
        given = _fields(**{name: arguments.pop(name) for name in mine})
        fields = {name: value for name, value in given.items() if value is not None}
        return command(*args, **{FIELDS: fields}, **arguments)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        parameters += mine.values() if parameter.name == FIELDS else [parameter]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # known to inspect
    return wrapper


def _fields(
    *,
    agents: Agents = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", help="Rounds at most, 0 to 20. [default: 3]"),
    ] = None,
    consensus: Annotated[
        str | None,
        typer.Option(
            "--consensus",
            metavar="MODE",
            help="majority (default), supermajority, unanimous, weighted, judge, synthesis, any or none.",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", metavar="NAME", help="Agent that decides (judge), writes (synthesis)."
        ),
    ] = None,
    weights: Annotated[
        list[Any] | None,
        typer.Option(
            "--weight",
            metavar="NAME=NUMBER",
            parser=options.parse_weight,
            help="Weight, with mode weighted; repeatable. [default: 1]",
        ),
    ] = None,
    answer_form: Annotated[
        Any,
        typer.Option(
            "--answer-form",
            metavar="FORM",
            parser=options.parse_answer_form,
            help="text, choice, number, boolean, JSON schema, or @FILE.",
        ),
    ] = None,
    choices: Annotated[
        list[Any] | None,
        typer.Option(
            "--options",
            metavar="A,B,…",
            parser=options.parse_texts,
            help="The possible answers (form choice); or a JSON list.",
        ),
    ] = None,
    debate: Annotated[
        str | None,
        typer.Option(
            "--debate",
            metavar="MODE",
            help="Rounds: auto (default: if they help), always, never.",
        ),
    ] = None,
    escalate: Annotated[
        list[str] | None,
        typer.Option(
            "--escalate", metavar="A,B,…", help="Agents that join if the others disagree."
        ),
    ] = None,
    max_answer_words: Annotated[
        int | None,
        typer.Option(
            "--max-answer-words", metavar="N", help="Length of answers asked for. [default: 200]"
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", metavar="N", help="Most tokens of all calls. [default: no limit]"
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost", metavar="USD", help="Most that calls may cost. [default: no limit]"
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="MODE",
            help="If models have changed: continue (default), strict.",
        ),
    ] = None,
    transcript: Annotated[
        bool, typer.Option("--transcript", help="Include every reply in the result.")
    ] = False,
    service_tier: Annotated[
        str | None,
        typer.Option(
            "--service-tier",
            metavar="TIER",
            help="flex (half price, slow), priority, default or auto.",
        ),
    ] = None,
    job_timeout: Annotated[
        float | None,
        typer.Option(
            "--job-timeout",
            metavar="SECONDS",
            help="Time limit of the debate. [default: none]",
        ),
    ] = None,
) -> dict[str, Any]:
    """Return the values of all options by field; None: not given."""
    return {
        "agents": options.split_names(agents) or None,
        "rounds": rounds,
        "consensus": consensus,
        "judge": judge,
        "weights": options.by_name(weights, "--weight") or None,
        "answer_form": "choice" if choices and answer_form is None else answer_form,
        "options": [text for each in choices or [] for text in each] or None,
        "debate": debate,
        "escalate": options.split_names(escalate) or None,
        "max_answer_words": max_answer_words,
        "max_tokens": max_tokens,
        "max_cost_usd": max_cost,
        "resume": resume,
        "transcript": transcript or None,
        "service_tier": service_tier,
        "timeout_seconds": job_timeout,
    }
