"""`aragora-q spend`: what paid calls took, by day, agent, model and so on."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, cast

import typer

from aragora_q.cli import options, output
from aragora_q.cli.filters import Group, Tenant, parse_moment
from aragora_q.cli.options import AsJson, LoadConfig, with_config
from aragora_q.formats import DAY_SECONDS, dollars, dollars_or_unknown
from aragora_q.labels import check_labels
from aragora_q.moments import Moment
from aragora_q.money import MICROS, SPENT_BY, SPENT_DAYS
from aragora_q.views import spend_json, spend_rows, spent_json

if TYPE_CHECKING:
    from aragora_q.gates.spending import Report, Spent
    from aragora_q.streams.queue import RedisStreamsQueue

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet run a cell."""

EPILOG = """\b
Examples:
  aragora-q spend
  aragora-q spend --by tenant,model --since 2026-11-01 --until 2026-12-01
  aragora-q spend --by day,group --tenant acme --since 30d --csv > acme.csv

\b
Exit codes:
  0 ok   2 usage   65 bad name, or some rows in Redis are corrupted; all
  others are shown
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


def _parse_by(values: list[str] | None) -> list[str]:
    by = options.split_names(values) or ["day"]
    for name in by:
        if name not in SPENT_BY:
            raise typer.BadParameter(f"{name!r:.100} must be one of {', '.join(SPENT_BY)}")
        if by.count(name) > 1:
            raise typer.BadParameter(f"{name} is given twice")
    return by


def _parse_time(text: str) -> Moment:
    return parse_moment(text, UTC)


@with_config
def spend(
    load: LoadConfig,
    *,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="A,B,…",
            callback=_parse_by,
            help="One row for each: day, queue, tenant, group, agent, provider, model.  [default: day]",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            parser=_parse_time,
            help="From the day of this time on: 30d, 2026-11-28. Days are in UTC.  [default: the last 7 days]",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="TIME", parser=_parse_time, help="Only days that begin before it."
        ),
    ] = None,
    tenant: Tenant = None,
    group: Group = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="Only calls of this agent.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Only calls to this provider.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Only calls of this model.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV, with amounts in US dollars.")
    ] = False,
) -> int:
    """Show what paid calls took: calls, faults, tokens, US dollars.

    Counts the calls of all queues with the same prefix, or with --queue those of one. Spending is kept for 400
    days, at most 10,000 rows of a day; the rest of a day is the row `other`. USD includes what is estimated,
    because a call's end is not known; it does not include calls without a known price, which are counted as
    unpriced.
    """
    if as_json and as_csv:
        raise typer.BadParameter("cannot be combined with --json", param_hint="--csv")
    check_labels(group, tenant, {})
    given = {
        "queue": load.queue, "tenant": tenant, "group": group,
        "agent": agent, "provider": provider, "model": model,
    }  # fmt: skip
    only = {name: value for name, value in given.items() if value is not None}
    times = cast("tuple[Moment | None, Moment | None]", (since, until))  # by their parser
    return options.run(_spend(load, by or [], *times, only, as_json=as_json, as_csv=as_csv))


async def _spend(
    load: LoadConfig,
    by: Sequence[str],
    since: Moment | None,
    until: Moment | None,
    only: Mapping[str, str],
    *,
    as_json: bool,
    as_csv: bool,
) -> int:
    from aragora_q.gates.spending import Spending

    async with options.open_queue(load()) as queue, queue.connection.open_gates() as gates:
        spending = Spending(gates)
        first, last = _days(await spending.now(), since, until)
        report = await spending.report(first, last, by, only)
        for fault in report.faults:
            output.error(f"data in Redis is corrupted: {fault}")
        if as_json:
            for key, spent in spend_rows(by, report):
                output.json_line(spend_json(by, key, spent))
        elif as_csv:
            output.write(_csv(by, report))
        elif report.rows:
            _print_table(by, report)
        else:
            _print_nothing(queue, first, last, only)
    if report.left_out.calls:
        left_out = output.count(report.left_out.calls, "call")
        output.info(
            f"not counted: {left_out} in rows `other`, which may be of any {' or '.join(only)}"
        )
    return 65 if report.faults else 0


def _days(now: datetime, since: Moment | None, until: Moment | None) -> tuple[date, date]:
    """Return the first and the last day to show. Raises typer.BadParameter if there is none."""
    seconds = now.timestamp()
    begin = since.at(seconds) if since else seconds - (SPENT_DAYS - 1) * DAY_SECONDS
    end = until.at(seconds) if until else seconds
    if since is None and until is not None:
        begin = end - SPENT_DAYS * DAY_SECONDS
    if begin > end or (until and begin == end):
        raise typer.BadParameter("it is not after --since: no days match", param_hint="--until")
    last = datetime.fromtimestamp(end, UTC)
    if until and last.timestamp() % DAY_SECONDS == 0:  # the day that begins there is not before it
        last = datetime.fromtimestamp(end - 1, UTC)
    return datetime.fromtimestamp(max(begin, 0), UTC).date(), last.date()


def _csv(by: Sequence[str], report: Report) -> str:
    """Return the report as CSV (RFC 4180). What is not known is empty."""
    written = io.StringIO()
    writer = csv.writer(written)
    numbers = spent_json(report.total)
    writer.writerow([*by, *numbers, "is_other"])
    for key, spent in spend_rows(by, report):
        row = spend_json(by, key, spent)
        names = [_cell(row[name] or "") for name in by]
        amounts = {
            **row,
            "usd": "" if spent.usd is None else _exact(spent.micro_usd),
            "estimated_usd": _exact(spent.estimated_micro_usd),
            "is_other": "true" if row["is_other"] else "false",
        }
        writer.writerow([*names, *(amounts[name] for name in (*numbers, "is_other"))])
    return written.getvalue().rstrip("\r\n")


def _cell(text: str) -> str:
    """Return text that no spreadsheet takes for a formula, and that cannot control a terminal."""
    safe = output.safe_text(text)
    return f"'{safe}" if text.startswith(FORMULA) else safe


def _exact(micro_usd: int) -> str:
    sign, micros = "-" if micro_usd < 0 else "", abs(micro_usd)
    return f"{sign}{micros // MICROS}.{micros % MICROS:06d}"


def _print_table(by: Sequence[str], report: Report) -> None:
    rows = [
        (*("other" if name is None else name or "-" for name in key), *_cells(spent))
        for key, spent in spend_rows(by, report)
    ]
    if len(rows) > 1:
        rows.append(("total", *[""] * (len(by) - 1), *_cells(report.total)))
    head = ("CALLS", "FAULTS", "INPUT", "CACHED", "OUTPUT", "USD", "ESTIMATED", "UNPRICED")
    output.table((*(name.upper() for name in by), *head), rows)


def _cells(spent: Spent) -> tuple[str, ...]:
    calls = f"{spent.calls:,}", f"{spent.faults:,}"
    tokens = [f"{n:,}" for n in (spent.input_tokens, spent.cached_tokens, spent.output_tokens)]
    estimated = dollars(spent.estimated_micro_usd / MICROS)
    return *calls, *tokens, dollars_or_unknown(spent.usd), estimated, f"{spent.unpriced_calls:,}"


def _print_nothing(
    queue: RedisStreamsQueue, first: date, last: date, only: Mapping[str, str]
) -> None:
    which = "".join(f" of {name} {value}" for name, value in only.items())
    days = f"on {first}" if first == last else f"from {first} to {last}"
    output.info(f"no paid calls{which} {days} (UTC) at {queue.connection.address}")
