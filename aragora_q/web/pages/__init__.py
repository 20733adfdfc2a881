"""The pages: rendered on the server, correct without script, brought up to date by `live.js` with it."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(include_in_schema=False)
