"""What the routes of the API share: strict bodies, answers as the command line prints them, errors."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from aragora_q.base import MAX_REASON_CHARS
from aragora_q.errors import InvalidPayload
from aragora_q.intake.lines import decode, max_line_bytes
from aragora_q.web.access import Viewer, console_of
from aragora_q.web.media import JSON, NDJSON, PROBLEM, media_type
from aragora_q.web.problems import (
    NO_STORE,
    TEMPORARY,
    BodyTooLarge,
    QueueNotFound,
    WrongMediaType,
    invalid,
    title_of,
)
from aragora_q.web.traces import TracedRoute

MODELS: dict[str, Any] = {}
"""Shapes of bodies by name, for the description of the API."""

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A body or a query that has no unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Because(Strict):
    """Why something is done, for other operators."""

    reason: str = Field("", max_length=MAX_REASON_CHARS)


async def check_queue(queue: str, access: Viewer) -> None:
    """Raise QueueNotFound unless the console serves `queue`."""
    served = access.console.config.queue
    if queue != served:
        raise QueueNotFound(
            f"queue {queue:.100} is not served here", hint=f"this console serves queue {served}"
        )


def described(*others: HTTPStatus, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for its description: those of all routes, of its body, and `others`."""
    statuses = [
        HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND,
        HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE,
    ]  # fmt: skip
    if body:
        statuses += [HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE]
    return {status.value: _problem(status) for status in sorted([*statuses, *others])}


def _problem(status: HTTPStatus) -> dict[str, Any]:
    """Return the description of an error."""
    found: dict[str, Any] = {
        "description": title_of(status),
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in TEMPORARY:
        found["headers"] = {
            "Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}
        }
    if status is HTTPStatus.UNAUTHORIZED:
        found["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return found


def new_router(tag: str) -> APIRouter:
    """Return a router of one resource of a queue."""
    return APIRouter(
        prefix="/queues/{queue}",
        tags=[tag],
        dependencies=[Depends(check_queue)],
        redirect_slashes=False,
        route_class=TracedRoute,
    )


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON as the command line prints it."""
    body = to_json(value, inf_nan_mode="null")  # several times as fast as the standard library
    return Response(body, status, {**NO_STORE, **(headers or {})}, JSON)


async def read_body(request: Request) -> bytes:
    """Return the body of a request. Raises BodyTooLarge."""
    limit, parts, size = max_line_bytes(console_of(request).config), list[bytes](), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"the body is longer than {limit:,} bytes")
        parts.append(chunk)
    return b"".join(parts)


async def read_object(request: Request, *, is_optional: bool = False) -> dict[str, Any]:
    """Return the JSON object that the body is; an empty one for no body, if it `is_optional`.

    Raises:
        BodyTooLarge, WrongMediaType: it is not read.
        InvalidPayload: it is not a JSON object.
    """
    body = await read_body(request)
    if is_optional and not body:
        return {}
    check_media_type(request)
    value = decode(body)
    if not isinstance(value, dict):
        raise InvalidPayload(f"the body must be a JSON object, got {json.dumps(value):.60}")
    return value


def check_media_type(request: Request) -> None:
    """Raise WrongMediaType unless the body is JSON."""
    if (found := media_type(request.headers)) != JSON:
        raise WrongMediaType(
            f"content type {found!r:.100} is not taken here", hint=f"send it as {JSON}"
        )


def checked(model: type[Model], value: Mapping[str, Any]) -> Model:
    """Return a body as a model. Raises InvalidPayload."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error.errors()) from None


def body_of(model: type[Model], *, is_optional: bool = False) -> Callable[..., Awaitable[Model]]:
    """Return a dependency that reads the body as `model`."""

    async def read(request: Request) -> Model:
        return checked(model, await read_object(request, is_optional=is_optional))

    return read


def takes(model: Any, *, is_optional: bool = False, lines: bool = False) -> dict[str, Any]:
    """Return the description of a body: JSON of a model, or also `lines` of it."""
    MODELS[model.__name__] = model
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content: dict[str, Any] = {JSON: {"schema": schema}}
    if lines:
        content[NDJSON] = {"schema": {"type": "string"}}
    return {"requestBody": {"required": not is_optional, "content": content}}


def takes_reason(*others: HTTPStatus, body: type[Because] = Because) -> dict[str, Any]:
    """Return the description of a route that takes a `Reason`; `others`: errors that only it has."""
    return {
        "responses": described(*others, body=True),
        "openapi_extra": takes(body, is_optional=True),
    }


Reason = Annotated[Because, Depends(body_of(Because, is_optional=True))]
"""The optional body `{"reason": …}`."""
