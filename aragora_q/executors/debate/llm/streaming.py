"""Collect a streamed reply into the reply that the provider would have sent at once.

A request with `stream: true` keeps its connection busy while the model speaks, so silence can be bounded
instead of the whole call. Nothing here needs the parts of a reply early, and the clients of the providers
spend far more on an event than its text is worth. So the HTTP client collects the events, and everything
above it sees an ordinary reply. Knows the events of chat completions, Responses and Messages.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from itertools import groupby
from typing import Any

import httpx2
from pydantic_core import from_json, to_json

CONNECT_SECONDS = 10.0
DRAIN_SECONDS = 1.0
"""Time for a server to end its response after the last event; then the connection is closed instead."""

LIMITS = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100)
"""Those of the providers' own clients."""

_GROWING = "content refusal reasoning reasoning_content arguments text summary thinking signature partial_json"
GROWING = frozenset(_GROWING.split())
"""Fields whose parts are joined. Of any other field, the last value counts."""

LAST_EVENTS = frozenset(
    {"message_stop", "response.completed", "response.incomplete", "response.failed"}
)
"""The last event of a reply; in chat completions, it is not JSON."""

STATUS_CODES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "too_many_requests": 429,
    "insufficient_quota": 429,
    "resource_unavailable": 429,
    "context_length_exceeded": 400,
    "service_unavailable": 503,
    "server_is_overloaded": 503,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Status of an error that is an event, by its type or code: as before a stream. Otherwise 500."""


MAX_KEPT_EVENTS = 50
"""Events after which those that continue each other are merged: parsed, 500 of a reply take up to 0.3 MB."""

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
"""Of W3C Trace Context and Baggage."""

BODY_HEADERS = ("content-type", "content-length", "content-encoding", "transfer-encoding")
NO_USAGE = {"input_tokens": 0, "output_tokens": 0}


received: ContextVar[list[Events]] = ContextVar("received")
"""The replies that began within a call, so that what a broken or failed one says about tokens is not lost."""


class Client(httpx2.AsyncClient):
    """An HTTP client whose responses are complete: a stream of events becomes the reply that it adds up to."""

    def __init__(self) -> None:
        super().__init__(verify=_tls(), timeout=None, limits=LIMITS)
        hide_trace(self)

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request as the base class does, and collect the response if it is a stream of events."""
        response = await super().send(request, stream=True, **options)
        try:
            if not stream and response.is_success and _is_of_events(response):
                events = Events()
                received.get([]).append(events)
                await _collect(response, events)
                return _complete(response, events)
            if not stream:
                await response.aread()
                return _counted(response)
        except BaseException:
            await response.aclose()
            raise
        return response


def hide_trace(client: Any) -> None:
    """Let an HTTP client, of httpx or httpx2, remove the trace context that libraries add to requests."""
    client.event_hooks["request"].append(_without_trace)  # the last to see a request


async def _without_trace(request: Any) -> None:
    for name in TRACE_HEADERS:
        request.headers.pop(name, None)


@cache
def _tls() -> ssl.SSLContext:
    """Return one TLS context for all clients: to load the CAs takes 20 ms."""
    return httpx2.create_ssl_context()


def _is_of_events(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").lower().startswith("text/event-stream")


async def _collect(response: httpx2.Response, events: Events) -> None:
    """Read the events up to the last one, and the end of the response if it comes soon.

    Raises:
        httpx2.TransportError: the connection was cut, or nothing came for too long, before the last event.
    """
    try:
        async with asyncio.timeout(None) as drain:
            async for chunk in response.aiter_bytes():
                if events.feed(chunk) and drain.when() is None:
                    drain.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS)
    except (TimeoutError, httpx2.TransportError):
        if not events.has_ended:
            raise
    await response.aclose()
    events.feed(b"\n\n")  # the last line may have no end


def _complete(response: httpx2.Response, events: Events) -> httpx2.Response:
    error = events.error
    reply = {"error": error} if error is not None else events.reply()
    if reply is None:
        raise httpx2.RemoteProtocolError("the stream ended before the reply did")
    return _with_body(response, reply, 200 if error is None else _status_code(error))


def _counted(response: httpx2.Response) -> httpx2.Response:
    """Return a reply of Messages with token counts, without which the client of this protocol fails."""
    with suppress(ValueError):
        reply = from_json(response.content)
        if response.is_success and isinstance(reply, dict):
            received.get([]).append(Events.whole(reply))
        is_message = isinstance(reply, dict) and reply.get("type") == "message"
        if is_message and not isinstance(reply.get("usage"), dict):
            return _with_body(response, {**reply, "usage": NO_USAGE}, response.status_code)
    return response


def _with_body(response: httpx2.Response, reply: Any, status_code: int) -> httpx2.Response:
    headers = [
        each for each in response.headers.multi_items() if each[0].lower() not in BODY_HEADERS
    ]
    return httpx2.Response(
        status_code,
        headers=[*headers, ("content-type", "application/json")],
        content=to_json(reply, inf_nan_mode="null"),
        request=response.request,
    )


def _status_code(error: Mapping[str, Any]) -> int:
    for name in (error.get("code"), error.get("type")):
        if name in STATUS_CODES:
            return STATUS_CODES[name]
        if str(name).isdigit() and 400 <= int(str(name)) < 600:
            return int(str(name))
    return 500


class Events:
    """The events of one stream; give its bytes to `feed`."""

    def __init__(self) -> None:
        self.has_ended = False
        """True after the event that ends a reply."""
        self.error: dict[str, Any] | None = None
        self._rest = b""
        self._data: list[bytes] = []
        self._events: list[dict[str, Any]] = []
        self._uncompacted = 0
        """How many of them came since the last time that events were merged."""

    @classmethod
    def whole(cls, reply: dict[str, Any]) -> Events:
        """Return a reply that came at once, as its only event."""
        events = cls()
        events._events.append(reply)
        events.has_ended = True
        return events

    def feed(self, data: bytes) -> bool:
        """Read `data`, which may end anywhere. Return `has_ended`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif self._data and not line.strip():
                self._add(b"\n".join(self._data))
                self._data.clear()
        return self.has_ended

    def _add(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.has_ended = True
            return
        event = from_json(data)
        if not isinstance(event, dict):
            raise httpx2.DecodingError(f"an event is not a JSON object: {data[:100]!r}")
        kind = event.get("type")
        if kind == "error" or (kind is None and event.get("error")):
            error = event.get("error", event)
            self.error = error if isinstance(error, dict) else {"message": str(error)}
        elif kind in LAST_EVENTS:
            self.has_ended = True
        self.has_ended = self.has_ended or self.error is not None
        self._events.append(event)
        self._uncompacted += 1
        if self._uncompacted == MAX_KEPT_EVENTS:
            self._uncompacted = 0
            self._events = _compacted(self._events)

    @property
    def has_begun(self) -> bool:
        """True if part of a reply came, not only an error."""
        return len(self._events) > (self.error is not None)

    def usage(self) -> dict[str, int]:
        """Return the token counts so far, as `Price.cost_usd` takes them.

        These are `input_tokens`, `output_tokens`, `cached_tokens` and `written_tokens`.
        """
        found = _merged([each for event in self._events for each in _usages(event)])
        details = found.get("input_tokens_details") or found.get("prompt_tokens_details") or {}
        details = details if isinstance(details, dict) else {}
        read = _count(found.get("cache_read_input_tokens"))
        written = _count(found.get("cache_creation_input_tokens"))
        taken = _count(found.get("input_tokens")) or _count(found.get("prompt_tokens"))
        output = _count(found.get("output_tokens")) or _count(found.get("completion_tokens"))
        return {
            "input_tokens": taken + read + written,
            "output_tokens": output,
            "cached_tokens": read or _count(details.get("cached_tokens")),
            "written_tokens": written or _count(details.get("cache_write_tokens")),
        }

    def model(self) -> str:
        """Return the model that answers, as far as an event has named it; else a blank text."""
        named = [part.get("model") for event in self._events for part in _parts(event)]
        return next((name for name in named if isinstance(name, str)), "")

    def reply(self) -> dict[str, Any] | None:
        """Return the reply that the events add up to; None if it is not complete."""
        if not self._events:
            return None
        kind = str(self._events[0].get("type", ""))
        if kind.startswith("response."):
            return _response(self._events)
        return _message(self._events) if kind else _completion(self._events, is_done=self.has_ended)


def _compacted(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return fewer events that add up to the same reply."""
    kept: list[dict[str, Any]] = []
    for place, run in groupby(events, key=_continued):
        match place:
            case None:
                kept += run
            case (kind, _) if kind.startswith("response."):
                pass  # the last event, or that of the item, repeats it
            case _:
                kept.append(_merged(list(run)))
    return kept


def _continued(event: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return what an event is a further part of; None if it stands for itself."""
    kind = str(event.get("type", ""))
    is_part = not kind or kind == "content_block_delta"
    is_part = is_part or (kind.startswith("response.") and kind.endswith(".delta"))
    return (kind, event.get("index")) if is_part and not event.get("error") else None


def _parts(event: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of an event that describe the reply as a whole."""
    yield from (
        part
        for part in (event, event.get("message"), event.get("response"))
        if isinstance(part, dict)
    )


def _count(tokens: object) -> int:
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


def _usages(event: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from (part["usage"] for part in _parts(event) if isinstance(part.get("usage"), dict))


def _response(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a reply of Responses: the last event has all of it, except with some servers the output."""
    last = events[-1].get("response")
    if not isinstance(last, dict) or last.get("status") == "in_progress":
        return None
    done = [event["item"] for event in events if event.get("type") == "response.output_item.done"]
    return last if last.get("output") else {**last, "output": done}


def _message(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a reply of Messages."""
    message: dict[str, Any] = {}
    blocks: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        match event:
            case {"type": "message_start", "message": dict(start)}:
                message = start
            case {"type": "content_block_start", "index": index, "content_block": dict(block)}:
                blocks[index] = [block]
            case {"type": "content_block_delta", "index": index, "delta": dict(delta)}:
                blocks[index].append({**delta, "type": blocks[index][0]["type"]})
            case {"type": "message_delta", "delta": dict(delta)}:
                usage = [message.get("usage") or {}, event.get("usage") or {}]
                message = {**message, **delta, "usage": _merged([NO_USAGE, *usage])}
    if not message.get("stop_reason"):
        return None
    return {**message, "content": [_block(blocks[index]) for index in sorted(blocks)]}


def _block(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    block = _merged(parts)
    if (arguments := block.pop("partial_json", None)) is not None:
        block["input"] = from_json(arguments or "{}", allow_partial="trailing-strings")
    return block


def _completion(events: Sequence[Mapping[str, Any]], *, is_done: bool) -> dict[str, Any] | None:
    """Return a reply of chat completions. Some servers never say why a reply ended, only that it is done."""
    reply = _merged(events)
    choices = reply.get("choices") or []
    if not is_done and not any(choice.get("finish_reason") for choice in choices):
        return None
    for choice in choices:
        delta = choice.pop("delta", None) or {}
        choice["message"] = {"role": "assistant", "content": None, **delta}
    return {**reply, "object": "chat.completion"}


def _merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [value for part in parts if (value := part.get(name)) is not None]
        if all(isinstance(value, list) for value in values):
            merged[name] = _merged_lists(values) if values else None
        elif all(isinstance(value, dict) for value in values):
            merged[name] = _merged(values)
        elif name in GROWING and all(isinstance(value, str) for value in values):
            merged[name] = "".join(values)
        else:
            merged[name] = next((value for value in reversed(values) if value != ""), "")
    return merged


def _merged_lists(lists: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the items of all lists; those with the same `index` are parts of one."""
    items: dict[Any, list[Any]] = {}
    for item in (item for each in lists for item in each):
        index = item.get("index") if isinstance(item, dict) else None
        items.setdefault(len(items) if index is None else ("index", index), []).append(item)
    return [_merged(parts) if isinstance(parts[0], dict) else parts[0] for parts in items.values()]
