"""Turn ballots into a decision: the rules of every consensus mode. Pure functions.

Called by the protocol. Answers are identified by numbers. Confidence is agreement: the share of the
seats (or of their weight) that back an answer, not the probability that it is right.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ballot:
    """One seat's vote. `choice` None is an abstention: it backs no answer but counts as a seat."""

    choice: int | None
    confidence: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Decision:
    """The outcome of a vote. `winner` is None if no answer got a vote or the mode names no winner."""

    consensus_reached: bool = False
    winner: int | None = None
    confidence: float = 0.0


def decide(
    mode: str, ballots: Sequence[Ballot], *, salt: str, judged: Sequence[int | None] = ()
) -> Decision:
    """Return the decision of all seats still in the debate.

    `judged` holds a judge's choices with the answers in two different orders. If they differ, the
    judge is ignored and the seats' majority decides. Weights count in mode `weighted` only. Ties are
    broken by the voters' confidence, then by `salt`; a tie is never a consensus.
    """
    weights = [ballot.weight if mode == "weighted" else 1.0 for ballot in ballots]
    shares = _shares(ballots, weights)
    if mode == "judge" and len(judged) == 2 and judged[0] is not None and judged[0] == judged[1]:
        return Decision(
            consensus_reached=True, winner=judged[0], confidence=shares.get(judged[0], 0.0)
        )
    if mode == "none" or not shares:
        return Decision()
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
    """Return each answer's share of the total weight, abstentions included in the total."""
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
    """Return a SHA-256 of `parts` that is the same in every process, unlike `hash`.

    Used for orders and keys that a resumed debate must reproduce.
    """
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
