"""What the calls of a queue's finished debates took: the basis of quotes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CallHistory:
    """What calls took, by model, service tier and kind of phase; and how many rounds debates held."""

    debates: int = 0
    """How many finished debates count."""
