"""What a debate will probably take: least, expected, most.

Used by `enqueue --quote` and by the executor before the first call. `quote.py` has the bounds. Must not
know journals, models' libraries or Redis.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """What a debate may take. `usd` is None if a price is not known, `seconds` if nothing is known of it."""

    calls: float
    input_tokens: int
    output_tokens: int
    usd: float | None
    seconds: float | None = None


@dataclass(frozen=True)
class QuoteLine:
    """What is expected of one agent in one kind of phase."""

    phase: str
    """`propose`, `review`, `revise`, `discuss`, `vote`, `judge` or `synthesize`."""
    agent: str
    model: str
    service_tier: str | None
    calls: float
    input_tokens: int
    output_tokens: int
    usd: float | None


@dataclass(frozen=True)
class DebateQuote:
    """What a debate takes at least, probably, and at most."""

    least: Estimate
    expected: Estimate
    most: Estimate
    lines: tuple[QuoteLine, ...] = ()
    """The parts of what is expected."""
    debates: int = 0
    """How many finished debates of the queue it is based on; 0: only on the form of the debate."""

    def to_dict(self) -> dict[str, Any]:
        """Return the quote as JSON data."""
        return asdict(self)
