"""What the measured worker runs: `worker --executor aragora_q.bench.jobs:FACTORY`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aragora_q.base import Executor, Job

PAYLOAD_BYTES = 300
_RESULT = {"done": True}
RESULT_BYTES = len('{"done":true}')


def payload() -> dict[str, Any]:
    """A payload of PAYLOAD_BYTES as JSON."""
    return {"text": "x" * (PAYLOAD_BYTES - len('{"text":""}'))}


def noop() -> Executor:
    """Nothing is done; a small result says so."""

    async def execute(_job: Job) -> Mapping[str, Any]:
        return _RESULT

    return execute


def clock() -> Executor:
    """The result is when the job was started, on the machine's monotonic clock."""

    async def execute(_job: Job) -> Mapping[str, Any]:
        return {"started_ns": time.monotonic_ns()}

    return execute
