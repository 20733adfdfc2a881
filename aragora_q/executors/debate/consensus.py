"""Group answers and turn votes into a decision: the rules of every consensus mode. Pure functions.

Called by the protocol. Answers that mean the same form a group; groups are numbered in the order that
breaks ties. Confidence is agreement: the share of the seats (or of their weight) that back a group, not
the probability that it is right.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

Claim = Iterable[Iterable[int]]
"""What one voter says of all answers: lists of answers that mean the same."""


@dataclass(frozen=True)
class Ballot:
    """One seat's vote. `group` None backs no answer, but counts as a seat: abstained or dropped out."""

    group: int | None
    confidence: float = 0.0
    weight: float | Fraction = 1


@dataclass(frozen=True)
class Decision:
    """The outcome of a vote. `winner` is None if no group got a vote or the mode names no winner."""

    consensus_reached: bool = False
    winner: int | None = None
    confidence: float = 0.0


def group(answers: Sequence[int], claims: Sequence[Claim], salt: str) -> list[list[int]]:
    """Return the answers in groups of the same meaning, in the order that breaks ties.

    Two answers may share a group if more than half of `claims` say so. Pairs merge in the order of falling
    support, two groups only if each answer of one may share a group with each of the other. `salt` orders
    equal pairs, and the groups.
    """
    support: Counter[tuple[int, int]] = Counter()
    for claim in claims:
        support.update({pair for each in claim for pair in combinations(sorted(set(each)), 2)})
    held = {pair: count for pair, count in support.items() if count * 2 > len(claims)}
    groups = {answer: [answer] for answer in answers}
    for pair in sorted(held, key=lambda pair: (-held[pair], stable_hash(salt, *pair))):
        first, second = (groups.get(answer, []) for answer in pair)
        if first is second or not first or not second:
            continue
        if all(tuple(sorted((a, b))) in held for a in first for b in second):
            first.extend(second)
            groups.update(dict.fromkeys(second, first))
    unique = {id(members): sorted(members) for members in groups.values()}
    return sorted(unique.values(), key=lambda members: stable_hash(salt, "tie", members[0]))


def decide(mode: str, ballots: Sequence[Ballot], *, judged: int | None = None) -> Decision:
    """Return the decision of all seats of a job, those that dropped out included.

    `judged` is the group that a judge chose with the answers in two different orders; None if there is
    none: then the majority decides. A judge's choice is a consensus only if the majority voted for it.
    A tie goes to the group with the higher sum of its voters' confidence, then to the one with the lower
    number, and is not a consensus except in mode `any`.
    """
    found = shares(ballots)
    if mode == "judge" and judged is not None:
        share = found.get(judged, Fraction(0))
        return Decision(_suffices(mode, share), judged, float(share))
    if mode == "none" or not found:
        return Decision()
    first, *others = _ranked(ballots, found)
    share = found[first]
    is_tied = mode != "any" and any(found[other] == share for other in others)
    return Decision(not is_tied and _suffices(mode, share), first, float(share))


def _suffices(mode: str, share: Fraction) -> bool:
    match mode:
        case "unanimous":
            return share == 1
        case "supermajority":
            return share >= Fraction(2, 3)
        case "any":
            return share > 0
        case _:
            return share > Fraction(1, 2)


def shares(ballots: Sequence[Ballot]) -> dict[int, Fraction]:
    """Return each group's share of the total weight, seats that back none included in the total.

    Weights count as they are written: 0.1 and 0.2 together are 0.3.
    """
    total, found = Fraction(0), defaultdict[int, Fraction](Fraction)
    for ballot in ballots:
        weight = Fraction(str(ballot.weight))
        total += weight
        if ballot.group is not None:
            found[ballot.group] += weight
    return {number: weight / total for number, weight in found.items()}


def _ranked(ballots: Sequence[Ballot], found: Mapping[int, Fraction]) -> list[int]:
    def rank(number: int) -> tuple[Fraction, float, int]:
        confidence = sum(ballot.confidence for ballot in ballots if ballot.group == number)
        return -found[number], -confidence, number

    return sorted(found, key=rank)


def stable_hash(*parts: object) -> str:
    """Return a SHA-256 of `parts` that is the same in every process, unlike `hash`.

    Used for orders and keys that a resumed debate must reproduce.
    """
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
