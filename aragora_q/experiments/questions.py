"""Read the questions of an experiment: JSON lines, or CSV with a header. All of it is checked, then returned.

Must not know which arms there are: what a debate of a question and an arm may be, `sweep` checks.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aragora_q import codec
from aragora_q.answer_form import AnswerForm
from aragora_q.errors import InvalidPayload
from aragora_q.experiments.notes import ARM_TAG
from aragora_q.experiments.refusals import Refusals
from aragora_q.experiments.values import (
    DEBATE_FIELDS,
    check_known,
    read_json,
    read_value,
    right_in,
)
from aragora_q.intake.lines import Item
from aragora_q.job import EXPERIMENT_NOTE
from aragora_q.labels import check_labels

QUESTION_FIELDS = (*DEBATE_FIELDS, "expected", "metadata", "tags", "tenant")
"""What a question of a file may have."""

MAX_CELL_CHARS = 1_000_000


class Question(NamedTuple):
    """A question of an experiment, as its file has it."""

    number: int
    """Its place among the questions of the file, from 1."""
    line: int
    """The line where it begins, from 1."""
    fields: Mapping[str, Any]
    """Fields of a debate; `question` is one of them."""
    expected: tuple[Any, ...] = ()
    """The verdicts that are right; empty: that is not known."""
    metadata: Mapping[str, Any] = {}
    tags: Mapping[str, str] = {}
    tenant: str | None = None

    @property
    def canonical(self) -> str:
        """The same text for the same question as written."""
        return canonical(self.fields)


def canonical(value: Any) -> str:
    """Return JSON in which the order of names and white space do not matter."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def read_json_lines(batches: Iterable[Sequence[Item]]) -> list[Question]:
    """Return the questions of JSON lines, as `intake` splits them.

    Raises:
        InvalidPayload: lines are refused (the message names each), or the file has no questions.
    """
    collector = _Collector()
    for items in batches:
        for line, parse in items:
            collector.add(line, parse)
    return collector.questions()


def read_csv(data: bytes) -> list[Question]:
    """Return the questions of a CSV file, whose first line has the names of its columns.

    Raises:
        InvalidPayload: as `read_json_lines`; or the header is refused.
    """
    try:
        text = codec.text(data)
    except ValueError as error:
        raise InvalidPayload(str(error), hint="save the file as CSV UTF-8") from None
    csv.field_size_limit(MAX_CELL_CHARS)
    rows, collector, names, last_line = (
        csv.reader(io.StringIO(text, newline=""), strict=True), _Collector(), None, 0,
    )  # fmt: skip
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            fault = f"line {last_line + 1}: not CSV: {error}"
            raise InvalidPayload(fault, hint="nothing was enqueued") from None
        if cells is None:
            break
        line, last_line = last_line + 1, rows.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            names = [cell.strip() for cell in cells]
            _check_header(line, names)
        else:
            collector.add(line, _row_reader(names, cells))
    return collector.questions()


def _check_header(line: int, names: Sequence[str]) -> None:
    refusals = Refusals()
    with refusals.collect(f"line {line}"):
        if "question" not in names:
            raise InvalidPayload(
                f"there is no column question, but {', '.join(names):.200}",
                hint="the first line names the columns, separated by commas",
            )
        plain = [name for name in names if not name.startswith(("tags.", "metadata."))]
        check_known(plain, (*QUESTION_FIELDS, "tags.NAME", "metadata.NAME"), "column")
        for n, name in enumerate(names):
            if name in names[:n]:
                raise InvalidPayload(f"two columns are named {name!r:.100}")
            whole, dot, _ = name.partition(".")
            if dot and whole in names:
                raise InvalidPayload(
                    f"column {name!r:.100} is a part of column {whole}: leave one out"
                )
    refusals.check("line")


def _row_reader(names: Sequence[str], cells: Sequence[str]) -> Callable[[], dict[str, Any]]:
    def read() -> dict[str, Any]:
        if len(cells) > len(names):
            raise InvalidPayload(f"{len(cells)} cells, but the header names {len(names)} columns")
        fields: dict[str, Any] = {}
        expected = ""
        for name, cell in zip(names, cells, strict=False):
            table, dot, key = name.partition(".")
            if not cell.strip():
                continue
            if name == "expected":
                expected = cell
            elif dot:
                value = cell if table == "tags" else read_json(cell)
                fields.setdefault(table, {})[key] = value
            elif name in DEBATE_FIELDS:
                fields[name] = read_value(name, cell, "|" if name == "options" else "|,")
            else:
                fields[name] = cell if name == "tenant" else read_json(cell)
        if expected:
            fields["expected"] = _expected_of_cell(expected, fields)
        return fields

    return read


def _expected_of_cell(cell: str, fields: Mapping[str, Any]) -> Any:
    """Return the right verdicts in a cell: those of a debate about text or options are texts."""
    value = read_json(cell)
    is_text = "options" in fields or fields.get("answer_form") in ("text", "choice")
    return cell if value is None or (is_text and not isinstance(value, list)) else value


class _Collector:
    """Makes questions of the objects in lines, and collects what is wrong with them."""

    def __init__(self) -> None:
        self._refusals = Refusals()
        self._questions: list[Question] = []
        self._lines: dict[str, int] = {}

    def add(self, line: int, read: Callable[[], Any]) -> None:
        """Add what `read` returns as the question of a line."""
        with self._refusals.collect(f"line {line}"):
            question = _question(len(self._questions) + 1, line, read())
            text = question.canonical
            if text in self._lines:
                raise InvalidPayload(f"the same question as in line {self._lines[text]}")
            self._lines[text] = line
            self._questions.append(question)

    def questions(self) -> list[Question]:
        """Return all questions. Raises InvalidPayload."""
        self._refusals.check("line")
        if not self._questions:
            raise InvalidPayload("there are no questions")
        return self._questions


def _question(number: int, line: int, data: Any) -> Question:
    if not isinstance(data, dict):
        raise InvalidPayload(f"not a JSON object: {json.dumps(data):.60}")
    check_known(data, QUESTION_FIELDS, "field of a question")
    if "question" not in data:
        raise InvalidPayload("field question is missing")
    metadata, tags, tenant = data.get("metadata"), data.get("tags"), data.get("tenant")
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidPayload(f"metadata must be a JSON object, got {metadata!r:.100}")
    if EXPERIMENT_NOTE in (metadata or {}):
        raise InvalidPayload(
            f"metadata.{EXPERIMENT_NOTE} is written by the experiment: use another name"
        )
    check_labels(None, tenant, {} if tags is None else tags)
    if ARM_TAG in (tags or {}):
        raise InvalidPayload(f"the tag {ARM_TAG} is set by the experiment: use another name")
    fields = {name: data[name] for name in DEBATE_FIELDS if name in data}
    expected = _expected(data.get("expected"))
    return Question(number, line, fields, expected, metadata or {}, tags or {}, tenant)


def _expected(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if value == []:
        raise InvalidPayload("expected must be a verdict, or a list of right verdicts; it is empty")
    return tuple(value) if isinstance(value, list) else (value,)


def form_fields(fields: Mapping[str, Any], expected: Sequence[Any]) -> dict[str, Any]:
    """Return the `answer_form` that follows from options and right verdicts, if a debate names none."""
    if "answer_form" in fields:
        return {}
    if fields.get("options"):
        return {"answer_form": "choice"}
    if expected and all(isinstance(each, bool) for each in expected):
        return {"answer_form": "boolean"}
    if expected and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in expected
    ):
        return {"answer_form": "number"}
    return {}


def check_expected(form: AnswerForm, expected: Sequence[Any]) -> None:
    """Raise InvalidPayload if a verdict that is said to be right cannot have the form of the answers."""
    for each in expected:
        try:
            right_in(form, each)
        except (ValueError, TypeError, ArithmeticError) as error:
            reason = str(error).removeprefix("answer ")
            raise InvalidPayload(f"expected is {json.dumps(each):.100}: {reason}") from None
