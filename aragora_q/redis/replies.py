"""Read replies of Redis: bytes as text, and field-value pairs in whatever form redis-py returns them.

Depending on command and protocol version, redis-py returns pairs as a mapping, as a list of pairs or
as a flat list. Used wherever raw replies are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text(value: Any) -> str:
    """Return a reply as text; bytes that are not UTF-8 are replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def pairs(reply: Any) -> list[tuple[Any, Any]]:
    """Return the pairs of a reply, undecoded; an empty list for None."""
    if isinstance(reply, Mapping):
        return list(reply.items())
    rows = list(reply or ())
    if rows and isinstance(rows[0], list | tuple):
        return [(first, second) for first, second in rows]
    return list(zip(rows[::2], rows[1::2], strict=True))


def text_map(reply: Any) -> dict[str, Any]:
    """Return the pairs of a reply by name: bytes become text, numbers stay numbers."""
    return {
        text(name): text(value) if isinstance(value, bytes) else value
        for name, value in pairs(reply)
    }


def scored(reply: Any) -> list[tuple[str, float]]:
    """Return members and scores of a sorted set."""
    return [(text(member), float(score)) for member, score in pairs(reply)]
