"""Errors as `application/problem+json` (RFC 9457): what programs decide by, and never what is inside.

`install` makes an application answer every error so: those of the queue, of the router, of a body or a query
that breaks a rule, and those that are defects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NotRequired

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from typing_extensions import TypedDict

from aragora_q.errors import (
    AragoraQError,
    InvalidPayload,
    JobNotEnded,
    NotDurable,
    QueueClosed,
    TryAgain,
    validation_rule,
)
from aragora_q.observability.logs import get_logger
from aragora_q.web.access import NotLoggedIn
from aragora_q.web.media import PROBLEM

logger = get_logger(__name__)

API = "/api/v1"
"""Where the API is mounted."""

CHALLENGE = 'Bearer realm="aragora-q"'
"""How a client that is not logged in can log in, for the header WWW-Authenticate."""

NO_STORE = {"Cache-Control": "no-store"}
RETRY_SECONDS = 5
"""When a client may try again, if the server cannot serve now."""

STATUSES = {
    3: HTTPStatus.NOT_FOUND,
    65: HTTPStatus.UNPROCESSABLE_ENTITY,
    69: HTTPStatus.BAD_GATEWAY,
    75: HTTPStatus.SERVICE_UNAVAILABLE,
    76: HTTPStatus.BAD_GATEWAY,
    77: HTTPStatus.FORBIDDEN,
}
"""Statuses by exit code; of all others, 500."""

TEMPORARY = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""Statuses whose answers say when to try again."""

TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""Titles of statuses that have another name in some versions of Python."""

DEFECT = "internal-error"


class Problem(TypedDict):
    """An error: `code` names its kind, `exit_code` is that of the command line."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    exit_code: int
    id: NotRequired[str]


class RequestRefused(AragoraQError):
    """A request that no route takes: its exit code is that of a wrong command line."""

    exit_code = 2
    status = HTTPStatus.BAD_REQUEST


class WrongMediaType(RequestRefused):
    """The body is of a type that the route does not take."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class BodyTooLarge(RequestRefused):
    """The body is longer than the route takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class Conflict(AragoraQError):
    """What the request is about is not as the request expects."""

    exit_code = 65
    status = HTTPStatus.CONFLICT


class JobDiffers(Conflict):
    """The job exists, with another payload or other fields."""


class CountDiffers(Conflict):
    """Another number of jobs matches than was expected."""


class QueueNotFound(AragoraQError):
    """The console serves another queue."""

    exit_code = 3


def as_clients_see(error: AragoraQError) -> AragoraQError:
    """Return an error of the queue as one of the console."""
    return TryAgain("the console is stopping") if isinstance(error, QueueClosed) else error


def status_of(error: AragoraQError) -> HTTPStatus:
    """Return the status of the answer to an error."""
    if isinstance(error, RequestRefused | Conflict):
        return error.status
    if isinstance(error, JobNotEnded):
        return HTTPStatus.CONFLICT
    if isinstance(error, NotLoggedIn):
        return HTTPStatus.UNAUTHORIZED
    return STATUSES.get(error.exit_code, HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(error: AragoraQError) -> Problem:
    """Return an error as the body of an answer."""
    error = as_clients_see(error)
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:  # of the configuration, or a defect: for the log
        return INTERNAL_ERROR
    found = new_problem(
        status, kebab(type(error).__name__), str(error), error.hint, error.exit_code
    )
    if isinstance(error, NotDurable):
        found["id"] = error.job_id
    return found


def new_problem(status: HTTPStatus, code: str, detail: str, hint: str, exit_code: int) -> Problem:
    """Return the body of an answer."""
    return {
        "type": f"urn:aragora-q:{code}",
        "title": title_of(status),
        "status": status.value,
        "detail": detail,
        "code": code,
        "hint": hint,
        "exit_code": exit_code,
    }


def title_of(status: HTTPStatus) -> str:
    """Return the name of a status."""
    return TITLES.get(status.value, status.phrase)


INTERNAL_ERROR = new_problem(
    HTTPStatus.INTERNAL_SERVER_ERROR, DEFECT, "internal error", "see the log of the console", 1
)


def kebab(name: str) -> str:
    """Return the name of a class as `job-not-found`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def respond(found: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response of a problem."""
    all_headers = {**NO_STORE, **(headers or {})}
    if found["status"] in TEMPORARY:
        all_headers["Retry-After"] = str(RETRY_SECONDS)
    if found["status"] == HTTPStatus.UNAUTHORIZED:
        all_headers["WWW-Authenticate"] = CHALLENGE
    return Response(json.dumps(found), found["status"], all_headers, PROBLEM)


def install(app: FastAPI) -> None:
    """Let an application answer all errors as problems."""
    app.add_exception_handler(AragoraQError, _of_queue)
    app.add_exception_handler(RequestValidationError, _of_request)
    app.add_exception_handler(HTTPException, of_router)
    app.add_exception_handler(Exception, _of_defect)


async def _of_queue(request: Request, error: Exception) -> Response:
    assert isinstance(error, AragoraQError)  # noqa: S101 - for the type checker
    found = problem(error)
    if found["code"] == DEFECT:
        logger.error("request failed", extra={"path": request.url.path, "error": str(error)})
    return respond(found)


async def _of_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    return respond(problem(invalid(error.errors())))


def invalid(faults: Any) -> InvalidPayload:
    """Return the error of the first fault that pydantic found, such as `query limit: must be …`."""
    fault = faults[0]
    where = " ".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return InvalidPayload(f"{where:.200}: unknown")
    if fault["type"] == "missing":
        return InvalidPayload(f"{where:.200}: missing")
    return InvalidPayload(f"{where:.200}: {fault['input']!r:.100} {validation_rule(fault['msg'])}")


async def of_router(request: Request, error: Exception) -> Response:
    """Answer a request that no route takes."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    status = HTTPStatus(error.status_code)
    code = kebab(title_of(status).replace(" ", "-"))
    hint = f"the routes are in {API}/openapi.json"
    exit_code = 3 if status is HTTPStatus.NOT_FOUND else 2
    found = new_problem(status, code, status.description or status.phrase, hint, exit_code)
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return respond(found, headers)


def _methods(request: Request) -> list[str]:
    """Return the methods of an address. The router names those of one of its routes only."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    for template, methods in request.app.openapi()["paths"].items():
        if compile_path(template)[0].match(path):
            return sorted(method.upper() for method in methods)
    return []


async def _of_defect(_: Request, __: Exception) -> Response:
    # What it is, the server logs: it is raised again after this answer.
    return respond(INTERNAL_ERROR)
