"""CSV for spreadsheets and programs, whoever wrote the texts."""

import csv
import io

import pytest

from aragora_q.report.spreadsheet import MAX_CELL_CHARS, csv_line


def cells(*values):
    """What a reader of CSV makes of a line."""
    [row] = csv.reader(io.StringIO(csv_line(values), newline=""), strict=True)
    return row


def test_a_line():
    """RFC 4180: quotes are doubled, a line ends with CRLF, and a cell may have commas and lines."""
    assert csv_line(["a", 'b "c"', "d, e", "f\ng"]) == 'a,"b ""c""","d, e","f\ng"\r\n'


def test_values():
    """Numbers are without exponent, null is empty, lists and objects are JSON."""
    found = cells(None, [], {}, True, False, 0, 0.5, 1e-7, -3, 10**30, ["a", 1], {"a": "ü"})
    assert found == ["", "", "", "true", "false", "0", "0.5", "0.0000001", "-3", str(10**30), '["a", 1]',
                     '{"a": "ü"}']  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", "\r=1+1", "\n=1", " =1", "\u00a0=1", "\uff1d1+1", "-",
     "- a list", '=HYPERLINK("http://x","y")', "=cmd|' /C calc'!A0", "-1e5x"],
)  # fmt: skip
def test_formulas_are_harmless(text):
    """No cell begins as a formula: an apostrophe stands before it."""
    [cell] = cells(text)
    assert cell.startswith("'")


@pytest.mark.parametrize(
    "text", ["-1", "+1", "-0.5", "+1e6", "-.5", "Mars", "1-2", "a=b", "'x", ""]
)
def test_numbers_and_prose_stay_as_they_are(text):
    """A text that is a number is not a formula, nor is one with such a character elsewhere."""
    assert cells(text) == [text]


@pytest.mark.parametrize("text", ["a\x00b", "a\x1b[31mb", "a\u202eb", "a\u200bb", "\ufeff=1"])
def test_control_characters_are_escaped(text):
    """Nothing in a cell controls a terminal, hides text, or ends the file for a program."""
    [cell] = cells(text)
    assert all(char.isprintable() for char in cell)
    assert "\\u" in cell


def test_long_cells_are_cut():
    """Excel would continue a longer cell in other rows."""
    [cell] = cells("=" + "x" * MAX_CELL_CHARS)
    assert len(cell) == MAX_CELL_CHARS
    assert cell.endswith("…")
