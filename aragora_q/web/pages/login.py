"""The pages that log a browser in and out. A login is a POST: the address of a link changes nothing."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from aragora_q.web.access import actor_of, auth_of, console_of
from aragora_q.web.auth import LOGIN_SECONDS
from aragora_q.web.pages.forms import local_path
from aragora_q.web.pages.rendering import render
from aragora_q.web.roles import Role

router = APIRouter()


@router.get("/login")
async def show_login(request: Request, code: str = "", next: str = "") -> HTMLResponse:  # noqa: A002 - its name in the address
    """Show the login page; also in place of a page that needs a login."""
    wanted = request.scope["state"].get("next")
    status = HTTPStatus.OK if wanted is None else HTTPStatus.UNAUTHORIZED
    return _page(request, status, code=code, destination=next if wanted is None else wanted)


@router.post("/login")
async def log_in(
    request: Request,
    token: Annotated[str, Form()] = "",
    code: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "",  # noqa: A002 - its name in the form
) -> Response:
    """Log in with a token, or with the code of the link that was printed at the start."""
    auth = auth_of(request)
    grant = None if code else auth.grant_of(token.strip())
    logged = request.scope["state"].setdefault("action", {})
    logged["action"] = "login"
    if grant is not None:
        cookie = auth.sessions.start(grant.name, grant.digest)
        logged["actor"] = grant.name
    elif code and auth.link.use(code):
        cookie = auth.sessions.start(auth.desk_name)
        logged["actor"] = auth.desk_name
    else:
        wait_seconds = await auth.refuse(actor_of(request).address)
        fault = "This link was used, or is too old." if code else "This token is not valid."
        if wait_seconds:
            fault = f"Too many wrong tokens. Wait {wait_seconds:.0f} s."
        status = HTTPStatus.TOO_MANY_REQUESTS if wait_seconds else HTTPStatus.UNAUTHORIZED
        return _page(request, status, fault=fault, destination=next)
    response = RedirectResponse(local_path(next), HTTPStatus.SEE_OTHER)
    response.set_cookie(
        auth.cookie,
        cookie,
        max_age=LOGIN_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """End the login of this browser."""
    auth = auth_of(request)
    auth.sessions.end(auth.cookie_of(request.headers))
    response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    response.delete_cookie(auth.cookie, httponly=True, samesite="strict")
    return response


def _page(
    request: Request,
    status: HTTPStatus,
    *,
    code: str = "",
    fault: str = "",
    destination: str = "",
) -> HTMLResponse:
    auth, console = auth_of(request), console_of(request)
    return render(
        request,
        "login.html",
        now=time.time(),
        status_code=status,
        code=code,
        fault=fault,
        next=local_path(destination) if destination else "",
        highest=max(console.roles, key=list(Role).index),
        has_tokens=auth.tokens is not None,
        has_link=auth.link.was_made,
    )
