"""The pages: rendered on the server, correct without script, brought up to date by `live.js` with it."""

from __future__ import annotations

from fastapi import APIRouter

from aragora_q.web.pages import job, jobs, overview

router = APIRouter(include_in_schema=False)
for page in (overview, jobs, job):
    router.include_router(page.router)
