"""The application: routes, what guards them, and how errors are answered."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from aragora_q import __version__
from aragora_q.web import api, pages, probes
from aragora_q.web.console import Console
from aragora_q.web.pages import errors
from aragora_q.web.snapshot import ClearAfterChanges


def create_app(console: Console) -> FastAPI:
    """Return the application that serves `console`."""
    app = FastAPI(
        title="aragora-q",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.console = console
    app.router.routes.append(api.mount(console))
    app.include_router(probes.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(packages=[("aragora_q.web", "static")]), name="static")
    app.add_middleware(ClearAfterChanges, shared=console.shared)
    errors.install(app)
    return app
