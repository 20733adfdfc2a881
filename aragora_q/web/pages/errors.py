"""Errors as pages: what is wrong, what to do, and, while Redis is away, that the page recovers by itself."""

from __future__ import annotations

import time
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from aragora_q.errors import AragoraQError, RedisUnreachable
from aragora_q.web.pages.rendering import render
from aragora_q.web.problems import as_clients_see, status_of


def install(app: FastAPI) -> None:
    """Let an application answer errors with pages."""
    for kind in (AragoraQError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, error_page)


async def error_page(request: Request, error: Exception) -> Response:
    """Return the page that says what went wrong."""
    status, text, hint = _described(error)
    is_away = isinstance(error, RedisUnreachable)
    if is_away and request.method == "POST":
        hint = "It is not known whether this was done. Doing it again does no harm."
    return render(
        request,
        "error.html",
        now=time.time(),
        status_code=status.value,
        title=AWAY if is_away else _TITLES.get(status, status.phrase),
        text=text,
        hint=hint,
        recovers=status in _PASSING and request.method == "GET",
    )


AWAY = "Redis does not answer"
_PASSING = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
_TITLES = {
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Not valid",
    HTTPStatus.BAD_GATEWAY: "Redis refuses a command",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not possible now",
    HTTPStatus.FORBIDDEN: "Not allowed",
    HTTPStatus.UNAUTHORIZED: "Log in first",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The console has a defect",
}


def _described(error: Exception) -> tuple[HTTPStatus, str, str]:
    """Return the status of an error, what is wrong, and what to do."""
    if isinstance(error, AragoraQError):
        error = as_clients_see(error)
        status = status_of(error)
        if isinstance(error, RedisUnreachable):  # to a person, Redis is a part of the console
            status = HTTPStatus.SERVICE_UNAVAILABLE
        if status is not HTTPStatus.INTERNAL_SERVER_ERROR:
            return status, str(error), error.hint
    if isinstance(error, RequestValidationError):
        return HTTPStatus.UNPROCESSABLE_ENTITY, "the address has a value that is not valid", ""
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.status_code)
        is_unknown = status is HTTPStatus.NOT_FOUND
        return status, "there is no such page" if is_unknown else status.phrase, ""
    return HTTPStatus.INTERNAL_SERVER_ERROR, "internal error", "see the log of the console"
