"""Serve local models on loopback from this process: one `xllamacpp` server per model.

Used by `agent.py`; the only module that imports xllamacpp. The server speaks the OpenAI protocol, so
a local model is called like any other.
"""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass
from typing import Any

from aragora_q.config.tables import AgentConfig
from aragora_q.errors import PermanentError
from aragora_q.executors.debate.local import model_files

SLOTS = 2
"""Requests served at once."""

CONTEXT_TOKENS = 8_192
"""Context shared by all slots."""

MAX_TOKENS = 80
TEMPERATURE = 0.5
REPEAT_PENALTY = 1.1
"""Without it, small models repeat one sentence until the token limit."""

TIMEOUT_SECONDS = 300.0
"""Maximum silence: a small machine may read a long prompt for minutes before it says a word."""


@dataclass(frozen=True)
class Service:
    """A running server and its API key, which only this process knows."""

    server: Any
    key: str


_services: dict[str, Service] = {}
_starting = threading.Lock()


def connect(model: str, config: AgentConfig) -> tuple[AgentConfig, str]:
    """Return `config` with the address of `model`'s server, and its API key; start it on first use.

    Limits that `config` does not set are those of a small model. The server runs until the process ends.

    Raises:
        PermanentError: the extra `local` is not installed, or the model is not on this machine.

    """
    with _starting:
        if model not in _services:
            _services[model] = _start(model)
    service = _services[model]
    limits = {"timeout_seconds": TIMEOUT_SECONDS, "max_tokens": MAX_TOKENS}
    address = {"model": model, "base_url": f"{service.server.listening_address}/v1"}
    unset = {name: value for name, value in limits.items() if name not in config.model_fields_set}
    return config.model_copy(update={**unset, **address}), service.key


def _start(model: str) -> Service:
    try:
        import xllamacpp  # noqa: PLC0415 - an extra
    except ImportError:
        raise PermanentError(
            f"local:{model} needs an extra that is not installed",
            hint="pip install 'aragora-q[local]'",
        ) from None
    path = model_files.find(model)
    if path is None:
        raise PermanentError(
            f"local:{model}: model file {model_files.path_of(model)} not found",
            hint="run aragora-q models pull",
        )
    key = secrets.token_hex(16)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {model}
    params.n_parallel, params.n_ctx = SLOTS, CONTEXT_TOKENS
    # With as many threads as cores, one busy core slows all of them down tenfold.
    threads = max(1, (os.cpu_count() or 1) - 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.ui = params.endpoint_slots = params.warmup = False
    params.verbosity = -1
    params.cache_ram_mib = 0
    params.api_keys = [key]
    params.sampling.temp = TEMPERATURE
    params.sampling.penalty_repeat = REPEAT_PENALTY
    return Service(xllamacpp.Server(params), key)
