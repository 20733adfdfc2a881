"""The HTTP API of a queue, in this process: on a console whose roles are all the test's own Redis user."""

import asyncio
import socket
from contextlib import asynccontextmanager

import httpx2
import uvicorn
from pydantic import SecretStr

from aragora_q.web.app import create_app
from aragora_q.web.console import open_console
from aragora_q.web.roles import Actor, Role

ADDRESS = "10.0.0.7"


class AsActor:
    """The application as it is behind the middleware that finds out who sends a request."""

    def __init__(self, app, role):
        self.app = app
        self.actor = Actor("alice", role, ADDRESS)

    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {})["actor"] = self.actor
        await self.app(scope, receive, send)


@asynccontextmanager
async def application(config, role=Role.OPERATOR):
    """The application of a queue, for an actor who has `role`."""
    url = SecretStr(config.redis_url)
    config = config.model_copy(
        update={"web_producer_redis_url": url, "web_operator_redis_url": url}
    )
    async with open_console(config) as console:
        yield AsActor(create_app(console), role)


@asynccontextmanager
async def client_of(app, queue, address="http://console"):
    """A client whose paths begin at the queue."""
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app, raise_app_exceptions=False)
        if address == "http://console"
        else None,
        base_url=f"{address}/api/v1/queues/{queue}",
        timeout=30,
    ) as client:
        yield client


@asynccontextmanager
async def served(app):
    """The application on a port; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, log_config=None, lifespan="off", timeout_graceful_shutdown=1,
            timeout_keep_alive=600,  # no connection ends as a slow client sends its next request
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
