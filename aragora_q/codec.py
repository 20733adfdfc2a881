"""Encode and decode JSON stored in Redis (compact UTF-8, on one line), and text from files. No pickle.

Used wherever a payload, result, checkpoint or progress is written or read, and wherever a file of an
operator is. Uses pydantic-core, which is installed anyway and several times faster than the standard
library.
"""

from __future__ import annotations

import codecs
from typing import Any

from pydantic_core import from_json, to_json

SPARE_LEVELS = 8
"""Levels of nesting that a stored value leaves to the JSON in which it is listed, imported or passed on."""

ALWAYS_READABLE_BYTES = 380
"""JSON up to this length has neither the depth nor the digits that `decode` refuses."""

_N, _I = b"NI"
"""Looked for first: one byte is found, or not, in a tenth of the time of a word."""


def encode(value: object, *, spare_levels: int = SPARE_LEVELS) -> bytes:
    """Return `value` as JSON that `decode` accepts, also inside `spare_levels` more levels of nesting.

    Raises:
        ValueError: `value` contains NaN, infinity, a circular reference or a type that JSON does not
            have, more than about 190 levels of nesting, or an integer of more than 4,300 digits.
    """
    try:
        encoded = to_json(value, inf_nan_mode="constants")
        if (
            len(encoded) > ALWAYS_READABLE_BYTES
            or (_N in encoded and b"NaN" in encoded)
            or (_I in encoded and b"Infinity" in encoded)
        ):
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


def text(data: bytes) -> str:
    """Return UTF-8 `data` as text, without the byte order mark that some editors write.

    Raises:
        ValueError: `data` is not UTF-8. The message contains nothing of it: it may be a secret.
    """
    if encoding := other_encoding(data):
        raise ValueError(f"not UTF-8 but {encoding}")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not UTF-8 (line {line:,})") from None


def other_encoding(head: bytes) -> str:
    """Return `UTF-16` or `UTF-32` if text that begins with `head` is in it; else an empty string."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:2]
    return "UTF-16" if is_utf16 else ""


def _reason(text: str) -> str:
    if "recursion limit" in text or "serialization depth" in text:
        return "nested too deeply"
    if "surrogates not allowed" in text:
        return "contains text that is not UTF-8 (a surrogate)"
    if "expected value" in text or "invalid number" in text:
        return "contains NaN or infinity, or a number that is too large"
    return (
        "contains an integer of more than 4,300 digits" if "number out of range" in text else text
    )
