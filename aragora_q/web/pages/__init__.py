"""The pages: rendered on the server, correct without script, brought up to date by `live.js` with it."""

from __future__ import annotations

from fastapi import APIRouter

from aragora_q.web.pages import (
    actions,
    changes,
    controls,
    events,
    experiments,
    failed,
    groups,
    held,
    job,
    jobs,
    login,
    money,
    new,
    overview,
    schedules,
    webhooks,
    workers,
)

router = APIRouter(include_in_schema=False)
for page in (
    overview, jobs, job, groups, experiments, workers, money, schedules, webhooks, changes, failed, held, new,
    actions, controls, events, login,
):  # fmt: skip
    router.include_router(page.router)
