"""Traces of requests: each continues the trace of its headers, and one that may change the queue has a span.

FastAPI's own spans stay off: they contain the query, which may have the code of a login, and cover reads, too.
"""

from __future__ import annotations

from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aragora_q import tracing
from aragora_q.web.guard import SAFE_METHODS
from aragora_q.web.problems import API

UNTRACED = TelemetryConfig(tracing=False, metrics=False, logs=False)


class InTrace:
    """Answers each request in the trace of its headers `traceparent` and `tracestate` (W3C Trace Context)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            parent = ",".join(headers.getlist("traceparent"))  # a repeated header is not valid
            state = ",".join(headers.getlist("tracestate"))
            tracing.receive(parent, state)
        await self._app(scope, receive, send)


class TracedRoute(APIRoute):
    """A route of the API that makes a span of each request, except those that only read."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        method: str = scope["method"]
        if method in SAFE_METHODS or method not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        route = f"{API}{self.path_format}"
        attributes = {
            "http.request.method": method,
            "http.route": route,
            "url.scheme": scope["scheme"],
        }
        with tracing.span(f"{method} {route}", "server", attributes) as span:
            scope["state"]["span"] = span.ids

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status: int = message["status"]
                    span.set({"http.response.status_code": status})
                    if status >= 500:
                        span.fail(str(status))
                await send(message)

            try:
                await super().handle(scope, receive, send_noted)
            except Exception:
                # The application answers it, outside this route.
                span.set({"http.response.status_code": 500})
                raise
