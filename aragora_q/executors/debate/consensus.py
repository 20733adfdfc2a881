"""From ballots to a decision. Pure: the rules of every consensus mode, and nothing else.

Called by the protocol. Answers go by numbers; confidence is agreement, the share of seats (or of
their weight) behind an answer, never the chance that it is right.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ballot:
    """One seat's vote. `choice` None is an abstention: it backs no answer, and still counts as a seat."""

    choice: int | None
    confidence: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Decision:
    """`winner` is None when no answer got a vote, or the mode names no winner."""

    consensus_reached: bool
    winner: int | None
    confidence: float


def decide(
    mode: str, ballots: Sequence[Ballot], *, salt: str, judged: Sequence[int | None] = ()
) -> Decision:
    """What the ballots of all seats still in the debate decide.

    `judged` are a judge's picks with the answers in two orders; one that differs with the order is
    no ruling, and the seats' majority decides. Only `weighted` heeds weights. Ties are broken by the
    voters' confidence, then by `salt`, and are never a consensus.
    """
    weights = [ballot.weight if mode == "weighted" else 1.0 for ballot in ballots]
    shares = _shares(ballots, weights)
    if mode == "none" or not (shares or judged):
        return Decision(consensus_reached=False, winner=None, confidence=0.0)
    if mode == "judge" and len(judged) == 2 and judged[0] is not None and judged[0] == judged[1]:
        return Decision(
            consensus_reached=True, winner=judged[0], confidence=shares.get(judged[0], 0.0)
        )
    if not shares:
        return Decision(consensus_reached=False, winner=None, confidence=0.0)
    first, *others = _ranked(ballots, shares, salt)
    share = shares[first]
    is_tied = any(shares[other] == share for other in others)
    return Decision(
        consensus_reached=not is_tied and _suffices(mode, share), winner=first, confidence=share
    )


def _suffices(mode: str, share: float) -> bool:
    match mode:
        case "unanimous":
            return share >= 1 - 1e-9
        case "supermajority":
            return share >= 2 / 3 - 1e-9
        case "any":
            return share > 0
        case _:
            return share > 1 / 2 + 1e-9


def _shares(ballots: Sequence[Ballot], weights: Sequence[float]) -> dict[int, float]:
    """Each answer's share of the whole weight; abstentions stay in the whole."""
    total = sum(weights)
    shares: dict[int, float] = defaultdict(float)
    for ballot, weight in zip(ballots, weights, strict=True):
        if ballot.choice is not None and total > 0:
            shares[ballot.choice] += weight / total
    return {choice: round(share, 9) for choice, share in shares.items()}


def _ranked(ballots: Sequence[Ballot], shares: Mapping[int, float], salt: str) -> list[int]:
    def rank(choice: int) -> tuple[float, float, str]:
        confidence = sum(ballot.confidence for ballot in ballots if ballot.choice == choice)
        return -shares[choice], -confidence, stable_hash(salt, choice)

    return sorted(shares, key=rank)


def stable_hash(*parts: object) -> str:
    """A digest of `parts` that is the same in every process: for orders that a resume must repeat."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
