"""`/metrics` and `/healthz`, for monitoring: without a login, and with one read of Redis a second at most."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from aragora_q.observability.http import usable_accept
from aragora_q.observability.queue_metrics import QueueCollector, Snapshot, snapshot_in_time
from aragora_q.observability.web_metrics import WebMetrics
from aragora_q.web.access import console_of
from aragora_q.web.console import RoleConnections
from aragora_q.web.roles import Role

router = APIRouter(include_in_schema=False)

SHARED_SECONDS = 1.0
"""How long an answer of Redis is used again: probes need no login, so anyone can send many."""


class Probe:
    """Reads the state of the queue for the probes."""

    def __init__(self, viewer: RoleConnections) -> None:
        self._viewer = viewer
        self._read: asyncio.Task[Snapshot] | None = None
        self._read_at = 0.0

    async def snapshot(self) -> Snapshot:
        """Return the state of the queue, at most SHARED_SECONDS old."""
        if self._read is None or (
            self._read.done() and time.monotonic() - self._read_at > SHARED_SECONDS
        ):
            self._read = asyncio.create_task(
                snapshot_in_time(self._viewer.queue, self._viewer.gates), name="probe"
            )
            self._read.add_done_callback(self._note_end)
        return await asyncio.shield(self._read)

    def _note_end(self, _read: asyncio.Task[Snapshot]) -> None:
        self._read_at = time.monotonic()

    async def close(self) -> None:
        """Stop reading."""
        if self._read is not None:
            self._read.cancel()
            await asyncio.gather(self._read, return_exceptions=True)


async def _snapshot(request: Request) -> Snapshot:
    state = request.app.state
    if not hasattr(state, "probe"):
        state.probe = Probe(console_of(request).roles[Role.VIEWER])
    snapshot: Snapshot = await state.probe.snapshot()
    return snapshot


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Serve the metrics of the queue and of the console, in the format that the client asks for."""
    snapshot = await _snapshot(request)
    own: WebMetrics = request.app.state.metrics
    registry = CollectorRegistry()
    registry.register(QueueCollector(lambda: snapshot))
    registry.register(own.registry)
    encode, content_type = choose_encoder(usable_accept(request.headers.get("accept", "")))
    return Response(encode(registry), media_type=content_type)


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """Answer 200 if Redis answers, 503 otherwise."""
    if (await _snapshot(request)).stats is None:
        return PlainTextResponse("Redis does not answer\n", HTTPStatus.SERVICE_UNAVAILABLE)
    return PlainTextResponse("ok\n")
