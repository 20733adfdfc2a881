"""Executors whose results have a certain size as JSON. Workers of the benchmark import them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aragora_q.base import Job
from aragora_q.context import Executor

SMALL = {"text": "x" * 89}
"""100 bytes."""

LARGE = {"text": "x" * 19_989}
"""20 KB."""


def small() -> Executor:
    """Return an executor whose result is SMALL."""
    return _returning(SMALL)


def large() -> Executor:
    """Return an executor whose result is LARGE."""
    return _returning(LARGE)


def _returning(result: Mapping[str, Any]) -> Executor:
    async def execute(_job: Job) -> Mapping[str, Any]:
        return result

    return execute
