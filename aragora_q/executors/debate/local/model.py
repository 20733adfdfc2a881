"""Local models: one small model per process, served on loopback by `xllamacpp` in this process.

Imported by the roster when a debate first wants a `local:` agent; the only module that imports
xllamacpp. The server speaks OpenAI's protocol, so its agents are like any other model's.
"""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass
from typing import Any

from aragora_q.config.settings import AgentConfig
from aragora_q.errors import PermanentError
from aragora_q.executors.debate.local import model_files as weights

SLOTS = 2
CONTEXT_TOKENS = 8_192
"""Requests served at once, and the context they share."""

MAX_TOKENS = 80
TEMPERATURE = 0.5
REPEAT_PENALTY = 1.1
TIMEOUT_SECONDS = 300.0
"""A small model on a busy machine: short, sober answers, and long patience."""


@dataclass(frozen=True)
class Service:
    """A running server, and the key that only this process knows."""

    server: Any
    key: str


_services: dict[str, Service] = {}
_starting = threading.Lock()


def served(behind: AgentConfig) -> tuple[AgentConfig, str]:
    """How to reach the model that `behind` names, and the key; loaded on first use, kept while we run.

    Raises PermanentError if the extra or the weights are missing.
    """
    name = behind.model.partition(":")[2]
    with _starting:
        if name not in _services:
            _services[name] = _start(name)
    service = _services[name]
    address = AgentConfig(
        model=name,
        base_url=f"{service.server.listening_address}/v1",
        timeout_seconds=TIMEOUT_SECONDS,
        max_tokens=MAX_TOKENS,
    )
    return address, service.key


def _start(name: str) -> Service:
    try:
        import xllamacpp  # noqa: PLC0415 - an extra
    except ImportError:
        raise PermanentError(
            f"local:{name} needs an extra that is not installed",
            hint="pip install 'aragora-q[local]'",
        ) from None
    path = weights.find(name)
    if path is None:
        raise PermanentError(
            f"local:{name} has no weights at {weights.path_of(name)}", hint="aragora-q models pull"
        )
    key = secrets.token_hex(16)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {name}
    params.n_parallel, params.n_ctx = SLOTS, CONTEXT_TOKENS
    # With as many threads as cores, one busy core slows all of them down tenfold.
    threads = max(1, (os.cpu_count() or 1) - 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.ui = params.endpoint_slots = params.warmup = False
    params.verbosity = -1
    params.cache_ram_mib = 0
    params.api_keys = [key]
    params.sampling.temp = TEMPERATURE
    params.sampling.penalty_repeat = REPEAT_PENALTY  # or it says the same sentence to the end
    return Service(xllamacpp.Server(params), key)
