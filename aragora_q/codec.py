"""Encode and decode JSON stored in Redis (compact UTF-8, on one line). No pickle.

Used wherever a payload, result, checkpoint or progress is written or read. Uses pydantic-core, which is
installed anyway and several times faster than the standard library.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

SPARE_LEVELS = 8
"""Levels of nesting that a stored value leaves to the JSON in which it is listed, imported or passed on."""

ALWAYS_READABLE_BYTES = 380
"""JSON up to this length has neither the depth nor the digits that `decode` refuses."""


def encode(value: object, *, spare_levels: int = SPARE_LEVELS) -> bytes:
    """Return `value` as JSON that `decode` accepts, also inside `spare_levels` more levels of nesting.

    Raises:
        ValueError: `value` contains NaN, infinity, a circular reference or a type that JSON does not
            have, more than about 190 levels of nesting, or an integer of more than 4,300 digits.
    """
    try:
        encoded = to_json(value, inf_nan_mode="constants")
        if len(encoded) > ALWAYS_READABLE_BYTES or b"NaN" in encoded or b"Infinity" in encoded:
            decode(b"".join((b"[" * spare_levels, encoded, b"]" * spare_levels)))
    except ValueError as error:
        raise ValueError(_reason(str(error))) from None
    return encoded


def decode(data: bytes) -> Any:
    """Return the value of JSON `data`.

    Raises:
        ValueError: `data` is not JSON.
    """
    return from_json(data, allow_inf_nan=False)


def _reason(text: str) -> str:
    if "recursion limit" in text or "serialization depth" in text:
        return "nested too deeply"
    return (
        "contains an integer of more than 4,300 digits" if "number out of range" in text else text
    )
