"""JSON as it lies in Redis: compact UTF-8 on one line. Never pickle, never eval.

Used wherever a payload, result, checkpoint or progress is written or read. pydantic-core's codec,
because it is at hand and several times faster than the standard library's.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json


def encode(value: object) -> bytes:
    """`value` as JSON. Raises ValueError for what JSON cannot hold: NaN, infinity, circles, odd types."""
    encoded = to_json(value, inf_nan_mode="constants")
    if b"NaN" in encoded or b"Infinity" in encoded:
        decode(encoded)  # fails, unless it is only text that says so
    return encoded


def decode(data: bytes) -> Any:
    """The value of JSON `data`. Raises ValueError where it is none."""
    return from_json(data, allow_inf_nan=False)
