"""`/metrics` and `/healthz`, for monitoring: without a login, and with one read of Redis a second at most."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from aragora_q.observability.http import usable_accept
from aragora_q.observability.queue_metrics import QueueCollector, Snapshot, snapshot_in_time
from aragora_q.observability.web_metrics import WebMetrics
from aragora_q.web.access import console_of
from aragora_q.web.roles import Role

router = APIRouter(include_in_schema=False)


async def _snapshot(request: Request) -> Snapshot:
    """Return the state of the queue. Anyone can send probes, and all within a second share one read."""
    console = console_of(request)
    viewer = console.roles[Role.VIEWER]
    return await console.probed.get(
        "snapshot", partial(snapshot_in_time, viewer.queue, viewer.gates)
    )


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
