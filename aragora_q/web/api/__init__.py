"""The JSON API under `/api/v1`: the same fields as `--json` of the command line."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/api/v1")
