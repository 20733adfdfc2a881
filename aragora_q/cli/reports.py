"""Print what people read: the formats that options name, and where they write.

Shared by `compare` and `eval`, which print reports, and by `show` and `table`, which may write to a file.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from aragora_q.cli import output

if TYPE_CHECKING:
    from aragora_q.report.document import Report

F = TypeVar("F", bound=StrEnum)


class Format(StrEnum):
    """What `--format` accepts for a report."""

    TEXT = "text"
    MARKDOWN = "md"


ReportFormat = Annotated[Format, typer.Option("--format", "-f", help="How to print it.")]

OutputFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to FILE; replaces it."),
]


def write_report(report: Report, form: Format = Format.TEXT) -> None:
    """Write a report to stdout."""
    from aragora_q.report import markdown, plain

    if form is Format.MARKDOWN:
        text = markdown.render(report)
    else:
        text = plain.render(report, output.width(), has_colors=output.has_colors())
    output.write(text.removesuffix("\n"))


def format_of(file: Path | None, default: F) -> F:
    """Return the format that the ending of a file names, of those of which `default` is one; else `default`."""
    formats = type(default)
    ending = file.suffix.removeprefix(".").lower() if file else ""
    return formats(ending) if ending in list(formats) else default
