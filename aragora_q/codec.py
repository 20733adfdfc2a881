"""Encode and decode JSON stored in Redis (compact UTF-8, on one line). No pickle.

Used wherever a payload, result, checkpoint or progress is written or read. Uses pydantic-core, which is
installed anyway and several times faster than the standard library.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json


def encode(value: object) -> bytes:
    """Return `value` as JSON.

    Raises:
        ValueError: `value` contains NaN, infinity, a circular reference or a type that JSON does not have.
    """
    encoded = to_json(value, inf_nan_mode="constants")
    if b"NaN" in encoded or b"Infinity" in encoded:
        decode(encoded)  # raises, unless the match is inside a string
    return encoded


def decode(data: bytes) -> Any:
    """Return the value of JSON `data`.

    Raises:
        ValueError: `data` is not JSON.
    """
    return from_json(data, allow_inf_nan=False)
