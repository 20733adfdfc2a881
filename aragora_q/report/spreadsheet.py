"""Lay rows out as CSV (RFC 4180) that Excel, LibreOffice and pandas read, whoever wrote the texts in it.

Pure: values go in, lines come out.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from aragora_q.formats import JOINERS, safe_text

BOM = "\ufeff"
"""At the beginning of a file, it makes Excel read UTF-8."""

MAX_CELL_CHARS = 32_767
"""Excel continues longer cells in other rows."""

FORMULA = re.compile(r"\s*[=+@\uff1d\uff0b\uff20\uff0d-]")
"""How a text begins that a spreadsheet would calculate, which can send data away or start programs."""

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def csv_line(values: Iterable[Any]) -> str:
    """Return JSON values as a line of CSV, with its end.

    Null, and an empty list or object, are empty cells; other lists and objects are JSON. An apostrophe stands
    before a text that a spreadsheet would take for a formula.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([_cell(value) for value in values])
    return line.getvalue()


def _cell(value: Any) -> str:
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{Decimal(repr(value)):f}"  # without exponent
    return _harmless(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _harmless(text: str) -> str:
    text = safe_text("\n".join(text.splitlines()), JOINERS)
    if FORMULA.match(text) and not NUMBER.fullmatch(text):
        text = f"'{text}"
    return text if len(text) <= MAX_CELL_CHARS else f"{text[: MAX_CELL_CHARS - 1]}…"
