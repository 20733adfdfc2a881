"""Which shape a reply has, and how to read it: bytes as text, pairs in whatever form redis-py returns them.

What answers may not be Redis, or not answer as Redis does. `pool.py` and `connection.py` refuse replies of
another shape than the tables here, so that callers need not check. Depending on command and protocol
version, redis-py returns pairs as a mapping, as a list of pairs or as a flat list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import FunctionType, UnionType
from typing import Any, NamedTuple

from redis import exceptions

MALFORMED = (AttributeError, LookupError, TypeError, ValueError)
"""What reading a reply of another shape raises."""


class PerItem(NamedTuple):
    """The shape of a list with one element for each item that a script was given."""

    element: Any


def fits(reply: Any, shape: Any, item_count: int = 0) -> bool:
    """Return True if `reply`, as the server sent it, has this shape; raises one of MALFORMED or returns False.

    A shape is a type; words; a list: any number of that element; a tuple: these elements, after `...` any
    number of the last one; a PerItem; or a function that returns True.
    """
    kind = type(shape)
    if kind is PerItem:
        return type(reply) is list and len(reply) == item_count and _all_fit(reply, shape.element)
    if kind is list or kind is tuple:
        return type(reply) is list and _list_fits(reply, shape)
    if kind is frozenset:
        return reply in shape
    return isinstance(reply, shape) if kind is type or kind is UnionType else bool(shape(reply))


def _list_fits(reply: list[Any], shape: list[Any] | tuple[Any, ...]) -> bool:
    if isinstance(shape, list):
        return _all_fit(reply, shape[0])
    if ... not in shape:
        return len(reply) == len(shape) and all(map(fits, reply, shape))
    *head, _, element = shape
    count = len(head)
    is_headed = len(reply) >= count and all(map(fits, reply, head))
    return is_headed and _all_fit(reply[count:], element)


def _all_fit(reply: list[Any], element: Any) -> bool:
    """Return True if all elements have the shape `element`. The frequent kinds are fast."""
    if isinstance(element, frozenset):
        return element.issuperset(reply)
    if isinstance(element, FunctionType):
        return all(map(element, reply))
    return all(fits(part, element) for part in reply)


def _words(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


def _is_paired(reply: list[Any]) -> bool:
    return len(reply) % 2 == 0 and fits(reply, [bytes])


def _is_scored(reply: list[Any]) -> bool:
    return _is_paired(reply) and all(float(score) is not None for score in reply[1::2])


def _is_entry(reply: list[Any]) -> bool:
    entry_id, fields = reply
    return bool(re.fullmatch(rb"\d+-\d+", entry_id)) and (fields is None or _is_paired(fields))


def _is_described(reply: list[Any]) -> bool:
    """Return True for a group or a consumer."""
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    return isinstance(fields[b"name"], bytes) and isinstance(fields[b"pending"], int)


def _is_start(reply: list[Any]) -> bool:
    """Return True for the state, two numbers, and of each job that was started id, payload and details."""
    state, put_off, now_ms, *rows = reply
    is_headed = state in _START_STATES and type(put_off) is type(now_ms) is int
    are_texts = len(rows) % 3 == 0 and _TEXT_TYPES.issuperset(map(type, rows))
    return is_headed and are_texts and all(map(_DETAILS.fullmatch, rows[2::3]))


def _is_read_job(row: Any) -> bool:
    """Return True for what `read_jobs.lua` says of a job."""
    fields = (_is_paired, _MAYBE, _MAYBE, int, [bytes], ..., _MAYBE)
    return row is None or isinstance(row, bytes) or (fits(row, fields) and len(row) == 11)


def _is_cursor(reply: bytes) -> bool:
    return re.fullmatch(rb"(\d+:\d+:[^:]+:\S+)?", reply) is not None


_TEXT_TYPES = frozenset((bytes,))
_DETAILS = re.compile(rb"(?:-?\d+ ){9}.*", re.DOTALL)
"""Nine numbers, a job's trace context and its labels."""
_START_STATES = _words("ok empty paused unregistered")
_MAYBE = bytes | None
_ENTRIES = [_is_entry]

COMMANDS: Mapping[str, Any] = {
    "BLPOP": list | None,
    "GET": _MAYBE,
    "HGET": _MAYBE,
    "HGETALL": _is_paired,
    "HMGET": [_MAYBE],
    "HSCAN": (bytes, _is_paired),
    "INFO": bytes,
    "LRANGE": [bytes],
    "PTTL": int,
    "ROLE": (bytes, ..., object),
    "SCAN": (bytes, [bytes]),
    "TIME": (bytes, bytes),
    "TYPE": bytes,
    "XINFO": [_is_described],
    "XLEN": int,
    "XRANGE": _ENTRIES,
    "XREAD": lambda reply: reply is None or fits(reply, [(bytes, _ENTRIES)]),
    "XREVRANGE": _ENTRIES,
    "ZCARD": int,
    "ZCOUNT": int,
    "ZRANGE": [bytes],
    "ZRANGE WITHSCORES": _is_scored,
    "ZSCAN": (bytes, _is_scored),
    "ZSCORE": _MAYBE,
}
"""The shape of the reply to a command; others are read as they come."""

NOT_REFUSED = frozenset((b"created", b"exists", b"past", b"paused", b"changed"))
"""What `enqueue.lua` answers for a job that it does not refuse; the last three are of schedules."""

SCRIPTS: Mapping[str, Any] = {
    "cancel": PerItem(bytes),
    "cancel_group": _words("marked ended unknown"),
    "change_schedule": _words("changed unchanged"),
    "change_webhook": _words("changed unchanged"),
    "check_deliveries": PerItem(bytes),
    "check_group": (_words("more changed done"), bytes),
    "check_job": PerItem(bytes),
    "check_lane": (bytes, ..., (bytes, bytes)),
    "check_members": (bytes, ..., bytes),
    "check_outbox": (bytes, ..., bytes),
    "checkpoint": PerItem(_words("ok lost full too_many")),
    "claim_deliveries": (int, ..., (bytes, bytes, bytes, bytes, bytes, int, int, int)),
    "claim_maintenance": (int, int, int),
    "complete": PerItem(_words("completed cancelled lost failed")),
    "enqueue": PerItem(
        _words("created exists full sealed refused unknown_source no_calls past paused changed")
    ),
    "find": (bytes, bytes, int, ..., bytes),
    "find_live": (bytes, int, ..., bytes),
    "find_page": (_is_cursor, ..., bytes),
    "fail": PerItem(_words("failed cancelled lost")),
    "gate_acquire": (bytes, ..., bytes | int),
    "gate_ask": (bytes, ..., bytes | int),
    "gate_check": PerItem(bytes),
    "gate_counters": (int, bytes, ..., (bytes, int, int, int, int)),
    "gate_declare": int,
    "gate_learn": int,
    "gate_override": _words("set reset unchanged"),
    "gate_renew": int,
    "gate_room": PerItem((int, int, int, int)),
    "gate_settle": PerItem(_words("settled repeated late unknown")),
    "gate_states": PerItem((int, bytes, bytes, int, int, int, int)),
    "hold": PerItem(bytes),
    "list_deliveries": [(bytes, bytes, int)],
    "list_held": (bytes, ..., [bytes]),
    "list_leased": (bytes, ..., (bytes, bytes)),
    "maintenance_lock": _words("ok busy"),
    "may_write": int,
    "note_trace": PerItem(_words("ok lost")),
    "pause": _words("changed unchanged"),
    "plan_schedules": PerItem(_words("planned changed")),
    "progress": PerItem(_words("ok lost")),
    "promote": (int, int),
    "purge": (int, int),
    "purge_jobs": PerItem(bytes),
    "read_jobs": (int, ..., _is_read_job),
    "reclaim": (_words("ok in_grace_period"), bytes, ..., (bytes, bytes, bytes, int, int)),
    "redeliver": PerItem(_words("redelivered waiting full unknown")),
    "register": (_words("ok taken newer"), ..., int),
    "release": PerItem(_words("released held cancelled lost")),
    "release_orphans": [bytes],
    "renew": (_words("ok paused unregistered"), ..., _words("owned lost cancelled")),
    "requeue": PerItem(bytes),
    "retry": PerItem(_words("retrying held failed cancelled lost")),
    "sample": int,
    "seal": _words("sealed was-sealed other-then other-notify taken refused unknown"),
    "settle_deliveries": PerItem(_words("delivered waiting failed skipped settled")),
    "start": _is_start,
    "suspend": PerItem(_words("held cancelled lost")),
    "unhold": PerItem(bytes),
    "unregister": int,
    "webhook_states": (int, ..., (int, int, bytes, bytes, bytes, bytes, bytes)),
}
"""The shape of a script's reply: what its header says under `returns`."""


def check(reply: Any, shape: Any, source: str, item_count: int = 0) -> Any:
    """Return `reply` if it has this shape. Raises InvalidResponse, which names `source`, otherwise."""
    try:
        is_readable = fits(reply, shape, item_count)
    except MALFORMED:
        is_readable = False
    if not is_readable:
        raise unexpected(reply, source)
    return reply


def unexpected(reply: Any, source: str) -> exceptions.InvalidResponse:
    """Return the error for a reply that cannot be read."""
    return exceptions.InvalidResponse(f"unexpected reply to {source}: {reply!r:.100}")


def text(value: Any) -> str:
    """Return a reply as text; bytes that are not UTF-8 are replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def whole(value: Any) -> int | None:
    """Return a whole number as scripts write it, of at most 15 digits; None for anything else."""
    return int(value) if value is not None and re.fullmatch("[0-9]{1,15}", text(value)) else None


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
