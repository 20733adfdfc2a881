"""The page of workers: which are alive, and what each runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.base import Job
from aragora_q.status import stalled_workers
from aragora_q.web.access import Access, Viewer
from aragora_q.web.pages.jobs import read_shown
from aragora_q.web.pages.rendering import render

router = APIRouter()

MAX_RUNNING = 200
"""Running jobs whose question is read."""


@router.get("/workers")
async def list_workers(request: Request, access: Viewer) -> Response:
    """Return the page of all workers, those that are silent first."""
    stats = await access.queue.get_queue_stats()
    stalled = {worker["worker_id"] for worker in stalled_workers(stats)}
    jobs = await _running_jobs(access, stats["workers"])
    return render(
        request,
        "workers.html",
        now=stats["now"] / 1000,
        counts=stats["worker_counts"],
        waiting=sum(stats["waiting"].values()),
        running=stats["running"],
        paused=stats["paused"],
        rows=[
            _row(worker, jobs, stats["now"], is_stalled=worker["worker_id"] in stalled)
            for worker in stats["workers"]
        ],
        more=sum(stats["worker_counts"].values()) - len(stats["workers"]),
    )


async def _running_jobs(access: Access, workers: list[dict[str, Any]]) -> dict[str, Job]:
    ids = [job_id for worker in workers for job_id in worker["running"]][:MAX_RUNNING]
    found, _ = await read_shown(access.queue, ids)
    return {job.id: job for job in found if isinstance(job, Job)}


def _row(
    worker: Mapping[str, Any], jobs: Mapping[str, Job], now_ms: int, *, is_stalled: bool
) -> dict[str, Any]:
    """Return a worker as its row shows it."""
    concurrency = str(worker.get("concurrency", ""))
    slots = int(concurrency) if concurrency.isascii() and concurrency.isdigit() else None
    running = sorted(
        ((job_id, jobs.get(job_id)) for job_id in worker["running"]),
        key=lambda row: (row[1] and row[1].started_at) or float("inf"),
    )
    return {
        "id": worker["worker_id"],
        "state": "stalled" if is_stalled else "alive" if worker["is_alive"] else "silent",
        "heartbeat_at": now_ms / 1000 - worker["heartbeat_age_seconds"],
        "lag": worker["event_loop_lag_seconds"],
        "leased": worker["jobs_leased"],
        "slots": slots,
        "share": worker["jobs_leased"] / slots if slots else 0.0,
        "host": worker.get("host", ""),
        "pid": worker.get("pid", ""),
        "version": worker.get("version", ""),
        "running": [
            {
                "id": job_id,
                "started_at": job.started_at if job else None,
                "question": str(job.payload.get("question", "")) if job else "",
            }
            for job_id, job in running
        ],
    }
