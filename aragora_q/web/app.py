"""The application: routes, what guards them, and how errors are answered."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request
from fastapi.staticfiles import StaticFiles
from starlette.routing import Mount

from aragora_q import __version__
from aragora_q.web import pages, probes
from aragora_q.web.console import Console
from aragora_q.web.pages import errors
from aragora_q.web.problems import API, of_router
from aragora_q.web.snapshot import ClearAfterChanges
from aragora_q.web.traces import UNTRACED, InTrace

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


def create_app(console: Console) -> FastAPI:
    """Return the application that serves `console`."""
    app = FastAPI(
        title="aragora-q",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=UNTRACED,
    )
    app.state.console = console
    app.router.routes += [_mount(API, _Api(console)), _mount("/api", _unknown)]
    app.include_router(probes.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(packages=[("aragora_q.web", "static")]), name="static")
    app.add_middleware(ClearAfterChanges, shared=console.shared)
    app.add_middleware(InTrace)
    errors.install(app)
    return app


def _mount(prefix: str, app: ASGIApp) -> Mount:
    """Return the route that leads to `app`: all addresses below `prefix`, also those with a line break."""
    found = Mount(prefix, app)
    found.path_regex = re.compile(found.path_regex.pattern, re.DOTALL)
    return found


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the API does where it is not, such as `/api/v2`: programs ask there, too."""
    response = await of_router(Request(scope), HTTPException(404))
    await response(scope, receive, send)


class _Api:
    """The API, loaded for its first request: a tenth of a second that the first page need not wait for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self._app is None:
            from aragora_q.web.api import create_api  # noqa: PLC0415 - loads the API

            self._app = create_api(self._console)
        await self._app(scope, receive, send)
