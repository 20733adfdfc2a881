"""Read JSON of unknown form: each function returns what it can use, and never raises.

Progress, result and journal of a job come from a worker, which may run any executor of any version.
Used by debates for their journal, by the report of a debate and by the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def text(value: object) -> str:
    """Return a text as it is, None as a blank text, and anything else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def texts(value: object) -> list[str]:
    """Return a list's elements as texts; a single value as one text."""
    return [each for each in map(text, value if isinstance(value, list) else [value]) if each]


def json_object(raw: object) -> dict[str, Any]:
    """Return the JSON object that `raw` is, decoded or as bytes; an empty one for anything else."""
    try:
        value = json.loads(raw) if isinstance(raw, bytes) else raw
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}


def is_number(value: object) -> bool:
    """Return True for a number that a float can hold; a boolean is not a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def number_or_none(value: object) -> float | None:
    """Return a number; None for anything else."""
    return float(value) if isinstance(value, int | float) and is_number(value) else None


def whole(value: object) -> int:
    """Return a whole number; 0 for anything else."""
    return int(value) if isinstance(value, int | float) and is_number(value) else 0


def wholes(value: object) -> list[int]:
    """Return the whole numbers in a list."""
    return [each for each in value if isinstance(each, int)] if isinstance(value, list) else []


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def mapping_or_none(value: object) -> Mapping[str, Any] | None:
    """Return a JSON object; None for anything else."""
    return value if isinstance(value, Mapping) else None


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the JSON objects in a list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
