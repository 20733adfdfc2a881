"""Media types of requests and answers."""

from __future__ import annotations

from starlette.datastructures import Headers

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"
EVENTS = "text/event-stream"


def media_type(headers: Headers) -> str:
    """Return the type of a body, without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def has_lines(headers: Headers) -> bool:
    """Return True if a body is JSON lines, which are read one at a time."""
    return media_type(headers) in (NDJSON, "application/jsonl")
