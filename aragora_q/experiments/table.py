"""The rows of a group as JSON data: the lines of `table --format jsonl`, and the columns of its CSV.

Shared with the HTTP API; docs/reference/cli-json.md describes the fields. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from aragora_q.experiments.rows import Row


class RowJson(TypedDict):
    """A question and an arm: what came out, and what it took. Null: not known, or there is none."""

    number: int | None
    question: str
    arm: str | None
    status: str
    verdict: Any
    expected: list[Any]
    right: bool | None
    agreement: float | None
    consensus: bool | None
    dissent: list[str]
    rounds: int
    cost_usd: float | None
    unpriced_calls: int
    calls: int
    taken_over: int
    tokens: int
    seconds: float | None
    error: str | None
    id: str
    tags: dict[str, str]
    answer: str | None


COLUMNS = tuple(RowJson.__annotations__)
"""The columns of a table, in their order."""


def row_json(row: Row) -> RowJson:
    """Return a row."""
    return {
        "number": row.number or None,
        "question": row.question,
        "arm": row.arm or None,
        "status": row.status.value,
        "verdict": row.verdict,
        "expected": list(row.expected),
        "right": row.is_right,
        "agreement": row.agreement,
        "consensus": row.is_consensus,
        "dissent": list(row.dissent),
        "rounds": row.rounds,
        "cost_usd": row.cost_usd,
        "unpriced_calls": row.unpriced_calls,
        "calls": row.calls,
        "taken_over": row.taken_over,
        "tokens": row.tokens,
        "seconds": row.seconds,
        "error": row.error or None,
        "id": row.id,
        "tags": dict(row.tags),
        "answer": row.answer or None,
    }


def row_cells(row: Row) -> Iterable[Any]:
    """Return a row as the cells of a spreadsheet."""
    return {**row_json(row), "expected": expected_cell(row)}.values()


def expected_cell(row: Row) -> Any:
    """Return the verdict that is right: all of them if there are several, None if none is known."""
    match row.expected:
        case []:
            return None
        case [verdict]:
            return verdict
        case verdicts:
            return list(verdicts)
