"""`aragora-q table GROUP`: the debates of a group as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.group_rows import ArmNames, GroupName, read_group
from aragora_q.cli.options import with_queue
from aragora_q.cli.reports import OutputFile, format_of
from aragora_q.formats import YES_NO, dollars

if TYPE_CHECKING:
    from pathlib import Path

    from aragora_q.experiments.rows import Row
    from aragora_q.report.document import Table
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_CELL_CHARS = 200
"""Longest text in a cell of Markdown; CSV and JSON lines have it whole."""

EPILOG = """\b
Examples:
  aragora-q table trivia -o trivia.csv
  aragora-q table trivia --arm debate -f md
  aragora-q table trivia -f jsonl | jq 'select(.right == false)'

\b
Exit codes:
  0 ok, also if some debates have not ended   3 no such group
  65 not a name, no such arm, or data of some jobs in Redis is corrupted;
  all others are in the table
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration, or the file cannot be written
"""


class Format(StrEnum):
    """What `--format` accepts."""

    CSV = "csv"
    JSONL = "jsonl"
    MARKDOWN = "md"


@with_queue
async def table(
    queue: RedisStreamsQueue,
    *,
    name: GroupName,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="Default: the ending of FILE if it is one of these, else csv.",
        ),
    ] = None,
    file: OutputFile = None,
    arms: ArmNames = None,
) -> int:
    """Print the debates of a group as a table: one row per question and arm.

    Rows are in the order of the questions, then of the arms. Of a group that is running, the table has
    what is there so far.
    """
    from aragora_q.experiments.rows import of_arms

    rows, exit_code = await read_group(queue, name)
    form = format_ or format_of(file, Format.CSV)
    _write(form, file, of_arms(rows, arms) if arms else rows)
    return exit_code


def _write(form: Format, file: Path | None, rows: Sequence[Row]) -> None:
    from aragora_q.output_file import write_file

    if file is not None and str(file) != "-":
        write_file(file, "".join(_lines(form, rows, has_bom=True)).encode())
        return
    for line in _lines(form, rows):
        output.write(line.removesuffix("\n"))


def _lines(form: Format, rows: Sequence[Row], *, has_bom: bool = False) -> Iterator[str]:
    from aragora_q.experiments.table import COLUMNS, row_cells, row_json
    from aragora_q.report import markdown, spreadsheet

    match form:
        case Format.JSONL:
            for row in rows:
                yield output.json_text(row_json(row)) + "\n"
        case Format.CSV:
            yield (spreadsheet.BOM if has_bom else "") + spreadsheet.csv_line(COLUMNS)
            for row in rows:
                yield spreadsheet.csv_line(row_cells(row))
        case Format.MARKDOWN:
            yield markdown.render_table(_table(rows))


def _table(rows: Sequence[Row]) -> Table:
    from aragora_q.report.document import Row as TableRow
    from aragora_q.report.document import Table

    return Table(
        ("No.", "Question", "Arm", "Status", "Verdict", "Expected", "Right", "Agreement", "Dissent", "Rounds",
         "Cost", "Calls", "Time", "Problem"),
        [TableRow([output.truncate(cell, MAX_CELL_CHARS) for cell in _cells(row)]) for row in rows],
        frozenset({"No.", "Agreement", "Rounds", "Cost", "Calls", "Time"}),
    )  # fmt: skip


def _cells(row: Row) -> Iterator[str]:
    from aragora_q.experiments.table import expected_cell
    from aragora_q.loose import text

    yield str(row.number or "")
    yield row.question
    yield row.arm
    yield row.status.value
    yield text(row.verdict)
    yield text(expected_cell(row))
    yield YES_NO[row.is_right]
    yield "" if row.agreement is None else f"{row.agreement:.0%}"
    yield "; ".join(row.dissent)
    yield str(row.rounds or "")
    yield "" if row.cost_usd is None else dollars(row.cost_usd)
    yield _calls(row)
    yield "" if row.seconds is None else output.duration(row.seconds)
    yield row.error


def _calls(row: Row) -> str:
    if row.taken_over:
        return f"{row.calls:,} ({row.taken_over:,} taken over)"
    return f"{row.calls:,}" if row.calls else ""
