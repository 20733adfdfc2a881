"""Which jobs are debates to the configured executor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aragora_q.errors import InvalidPayload
from aragora_q.job_rules import has_debate_fields

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig


def is_debate(payload: Mapping[str, Any], config: QueueConfig) -> bool:
    """Return True if the configured executor takes the JSON of a job as a debate."""
    return config.executor == "debate" and has_debate_fields(payload)


def check_debate(what: str, payload: Mapping[str, Any], config: QueueConfig) -> None:
    """Raise InvalidPayload, which begins with `what`, if a job is not a debate to the configured executor."""
    if not is_debate(payload, config):
        is_other = config.executor != "debate"
        why = f": setting executor is {config.executor}" if is_other else ""
        raise InvalidPayload(f"{what} is not a debate{why}")
