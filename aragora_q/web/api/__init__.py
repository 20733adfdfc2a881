"""The JSON API under `/api/v1`: the same fields as `--json` of the command line.

A separate application, mounted by `app.py`: its errors are problems, whatever the pages show. One module for
each resource; `routing.py` has what they share, `problems.py` of the console their errors.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from aragora_q import __version__
from aragora_q.web import problems
from aragora_q.web.api import actions, groups, jobs, money, queue, schedules, webhooks
from aragora_q.web.api.routing import MODELS
from aragora_q.web.media import PROBLEM
from aragora_q.web.traces import UNTRACED

if TYPE_CHECKING:
    from aragora_q.web.console import Console

ABOUT = (
    "Jobs and debates of one queue. Fields are those of the command line's JSON. Times are Unix milliseconds, "
    "or null. Errors are problems (RFC 9457) with the exit code of the command line."
)


def create_api(console: Console | None = None) -> FastAPI:
    """Return the API of `console`; without one, to describe it only."""
    api = FastAPI(
        title="aragora-q",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        telemetry=UNTRACED,
        generate_unique_id_function=lambda route: route.name,
    )
    api.state.console = console
    problems.install(api)
    for resource in (actions, jobs, groups, queue, schedules, webhooks, money):
        api.include_router(resource.router)
    api.openapi = partial(_describe, api)  # type: ignore[method-assign] # as FastAPI documents it
    return api


def _describe(api: FastAPI) -> dict[str, Any]:
    """Return the description of the API (OpenAPI 3.1), with the bodies that are read here."""
    if api.openapi_schema is None:
        found = get_openapi(
            title=api.title,
            version=api.version,
            description=ABOUT,
            routes=api.routes,
            servers=[{"url": problems.API}],
        )
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for name, model in {**MODELS, "Problem": problems.Problem}.items():
            schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[name] = schema
        found["components"]["schemas"] = dict(sorted(schemas.items()))
        found["components"]["responses"] = _shared_problems(found["paths"])
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        api.openapi_schema = found
    return api.openapi_schema


def _shared_problems(paths: dict[str, Any]) -> dict[str, Any]:
    """Let all routes refer to the same problems, and return these by status."""
    shared = {}
    for operation in (each for path in paths.values() for each in path.values()):
        responses = operation["responses"]
        for status, response in responses.items():
            if PROBLEM in response.get("content", {}):
                shared[status] = response
                responses[status] = {"$ref": f"#/components/responses/{status}"}
    return dict(sorted(shared.items()))
