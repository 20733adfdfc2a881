"""What the calls of a queue's finished debates took: the basis of quotes.

Sums over debates, of which old ones weigh less and less; `gate_learn.lua` adds to them. Quotes are made of them
in `executors/debate/estimate.py`. Plain data: must not know Redis or how a debate runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

LEAST_SUM, MAX_SUM = 1e-9, 1e18
"""Other numbers in a row, but 0, are of another program."""

MAX_NAME_BYTES = 500
"""Longest name of a row: what has a longer one is not kept."""


class CallKind(NamedTuple):
    """What calls have in common that take about the same."""

    model: str
    service_tier: str
    """Blank: the provider's default."""
    phase: str
    """`propose`, `review`, `revise`, `discuss`, `vote`, `judge` or `synthesize`."""


class PhaseKind(NamedTuple):
    """A phase of debates of one form."""

    debate: str
    """`auto`, `always` or `never`."""
    form: str
    """Kind of the answer form: `text`, `choice`, `number`, `boolean` or `schema`."""
    rounds: int
    """Rounds that were allowed."""
    seats: int
    """Seats that might join: the more there are, the more rarely all agree."""
    phase: str
    """Such as `r1.review` or `vote`; `escalation`: the proposals of those that join."""


@dataclass(frozen=True, slots=True)
class CallSums:
    """Sums over the calls of one kind."""

    requests: float = 0.0
    """Requests to a seat; each takes one call, or more if it is repeated."""
    calls: float = 0.0
    output_tokens: float = 0.0
    output_squares: float = 0.0
    input_tokens: float = 0.0
    max_input_tokens: float = 0.0
    """What the input was thought to take at most."""
    cached_tokens: float = 0.0
    """Part of the input that came from a cache, of debates whose prompts are not made for one."""
    seconds: float = 0.0
    seconds_squares: float = 0.0
    answer_bytes: float = 0.0
    """Size of the answers as others see them."""
    points_bytes: float = 0.0
    """Size of the reviews as others see them."""
    words: float = 0.0
    """How many words the replies were asked to have."""
    shared_input_tokens: float = 0.0
    """Input of the other debates: those whose prompts share a beginning that caches keep."""
    shared_cached_tokens: float = 0.0
    """Part of that which came from a cache."""


@dataclass(frozen=True, slots=True)
class PhaseSums:
    """How often a phase was begun, of the debates that might have."""

    debates: float = 0.0
    begun: float = 0.0


Sums = TypeVar("Sums", CallSums, PhaseSums)


@dataclass(frozen=True)
class CallHistory:
    """What calls took, and which phases debates held; of one debate, or of a queue's."""

    calls: Mapping[CallKind, CallSums] = field(default_factory=dict)
    phases: Mapping[PhaseKind, PhaseSums] = field(default_factory=dict)
    counts: Mapping[CallKind | PhaseKind, int] = field(default_factory=dict)
    """How many debates each of them is from; those that are missing, from one."""

    def debates_of(self, kinds: Iterable[CallKind | PhaseKind]) -> int:
        """Return how many finished debates something is from that is based on `kinds`."""
        totals: Counter[CallKind | PhaseKind] = Counter()
        for kind in kinds:
            of = kind._replace(seats=0) if isinstance(kind, PhaseKind) else kind
            totals[of] += self.counts.get(kind, 1)
        return max(totals.values(), default=0)

    def rows(self) -> list[tuple[str, str]]:
        """Return names and numbers as they are kept. What cannot be kept is left out."""
        named: list[tuple[tuple[object, ...], CallSums | PhaseSums]] = [
            *((("call", *kind), sums) for kind, sums in self.calls.items()),
            *((("phase", *kind), sums) for kind, sums in self.phases.items()),
        ]
        rows = [(json.dumps(name), " ".join(map(repr, astuple(sums)))) for name, sums in named]
        return [row for row in rows if len(row[0]) <= MAX_NAME_BYTES]

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[bytes, bytes]]) -> CallHistory:
        """Build a history from names and numbers as Redis keeps them. Others than `rows` makes do not count."""
        calls: dict[CallKind, CallSums] = {}
        phases: dict[PhaseKind, PhaseSums] = {}
        counts: dict[CallKind | PhaseKind, int] = {}
        for name, values in rows:
            try:
                kind = _kind(json.loads(name))
                _, count, *numbers = map(float, values.split())
                if not all(map(_is_sum, (count, *numbers))):
                    continue
                if isinstance(kind, CallKind):
                    calls[kind] = _sums(CallSums, numbers)
                else:
                    phases[kind] = _sums(PhaseSums, numbers)
                counts[kind] = int(count)
            except (ValueError, TypeError, RecursionError):  # another program wrote to it
                continue
        return cls(calls, phases, counts)


def _is_sum(number: float) -> bool:
    """Return True for a number that a sum of real calls can be."""
    return number == 0 or LEAST_SUM <= number < MAX_SUM


def _kind(name: Any) -> CallKind | PhaseKind:
    """Return what a row is about. Raises ValueError or TypeError."""
    match name:
        case ["call", str(model), str(tier), str(phase)]:
            return CallKind(model, tier, phase)
        case ["phase", str(debate), str(form), int(rounds), int(seats), str(phase)]:
            return PhaseKind(debate, form, rounds, seats, phase)
    raise ValueError("not the name of a row")


def _sums(kind: type[Sums], numbers: list[float]) -> Sums:
    if len(numbers) != len(fields(kind)):
        raise ValueError("another number of sums")
    return kind(*numbers)
