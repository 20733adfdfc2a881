"""`/metrics` and `/healthz`, for monitoring: without a login, and with one read of Redis a second at most."""

from __future__ import annotations

from collections.abc import Callable
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
from aragora_q.web.console import Console
from aragora_q.web.roles import Role

router = APIRouter(include_in_schema=False)


async def snapshot(console: Console) -> Snapshot:
    """Return the state of the queue. Anyone can send probes, and all within a second share one read."""
    viewer = console.roles[Role.VIEWER]
    return await console.probed.get(
        "snapshot", partial(snapshot_in_time, viewer.queue, viewer.gates)
    )


def registry(take_snapshot: Callable[[], Snapshot], own: WebMetrics) -> CollectorRegistry:
    """Return the metrics of the queue and of the console."""
    both = CollectorRegistry()
    both.register(QueueCollector(take_snapshot))
    both.register(own.registry)
    return both


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Serve the metrics of the queue and of the console, in the format that the client asks for."""
    now = await snapshot(console_of(request))
    encode, content_type = choose_encoder(usable_accept(request.headers.get("accept", "")))
    both = registry(lambda: now, request.app.state.metrics)
    return Response(encode(both), media_type=content_type)


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """Answer 200 if Redis answers, 503 otherwise."""
    if (await snapshot(console_of(request))).stats is None:
        return PlainTextResponse("Redis does not answer\n", HTTPStatus.SERVICE_UNAVAILABLE)
    return PlainTextResponse("ok\n")
