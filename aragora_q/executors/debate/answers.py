"""The seats' answers in one debate: which are equal, and how readers see them, without names. Pure.

Used by the protocol. An *option* is an answer by the first seat that gave it; seats with an equal verdict
share an option. Options that voters take for the same form a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aragora_q.executors.debate import consensus, labels
from aragora_q.executors.debate.replies import Value
from aragora_q.executors.debate.requests import Answer, Topic

SeatsByLabel = Mapping[str, int]
Claims = list[list[list[int]]]
"""Per voter, lists of options that mean the same."""


class Answers:
    """The current answer of each seat, and its first one."""

    def __init__(self, topic: Topic) -> None:
        self.by_seat: dict[int, Answer] = {}
        self.first: dict[int, Answer] = {}
        self.labels: dict[str, int] = {}
        """The labels of the rounds, by which reviews name answers."""
        self._topic = topic
        self._keys: dict[int, str] = {}

    def propose(self, seat: int, value: Value) -> None:
        """Add the independent answer of a seat."""
        self.by_seat[seat] = self.first[seat] = Answer(value["answer"], value["reasons"])
        self._keys[seat] = self._topic.form.key(value["answer"])

    def update(self, seat: int, value: Value) -> bool:
        """Replace a seat's answer; return True if its verdict is another one than before."""
        before = self._keys[seat]
        self.by_seat[seat] = Answer(value["answer"], value["reasons"])
        self._keys[seat] = self._topic.form.key(value["answer"])
        return value.get("changed") is not False and self._keys[seat] != before

    def keep(self, seats: Iterable[int]) -> None:
        """Remove the answers of all other seats."""
        self.by_seat = {seat: self.by_seat[seat] for seat in seats if seat in self.by_seat}

    def have_one_verdict(self) -> bool:
        """Return True if all verdicts are equal."""
        return len({self._keys[seat] for seat in self.by_seat}) == 1

    def options(self) -> dict[int, Answer]:
        """Return the different answers, each under the first seat that gave it."""
        return {seat: self.by_seat[seat] for seat in sorted({*map(self._first, self.by_seat)})}

    def option_of(self, seat: int | None) -> int | None:
        """Return the option that holds the answer of `seat`; None if it has no answer."""
        return None if seat is None or seat not in self.by_seat else self._first(seat)

    def _first(self, seat: int) -> int:
        return min(each for each in self.by_seat if self._keys[each] == self._keys[seat])

    def claims(self, found: Iterable[list[list[int]]]) -> Claims:
        """Return what voters say about equal answers, in options instead of seats."""
        return [
            [
                [option for seat in each if (option := self.option_of(seat)) is not None]
                for each in lists
            ]
            for lists in found
        ]

    def groups(self, claims: Claims) -> list[list[int]]:
        """Return the seats in groups whose answers mean the same, in the order that breaks ties."""
        return [
            [seat for seat in self.by_seat if self.option_of(seat) in options]
            for options in consensus.group(list(self.options()), claims, self._topic.nonce)
        ]

    def draw_labels(self, scope: str, seats: Iterable[int], reader: int = 0) -> dict[str, int]:
        """Return `seats` by labels. Each reader of a vote has its own: a bias for a label is not a vote.

        Over all readers, each answer has the alphabetically first label equally often, and so on.
        """
        owners = sorted(seats)
        made = labels.labels(self._topic.nonce, f"{scope}.{reader}", len(owners), self._material())
        ranks = labels.order(self._topic.nonce, f"{scope} labels", reader, len(owners))
        return {label: owners[rank] for label, rank in zip(sorted(made), ranks, strict=True)}

    def draw_round_labels(self, seats: Iterable[int]) -> dict[str, int]:
        """Return `seats` by the labels of the rounds, which all readers see, so that reviews can use them."""
        names = self.draw_labels("rounds", seats)
        self.labels.update(names)
        return names

    def _material(self) -> str:
        texts = (answer.text(self._topic.form) for answer in self.by_seat.values())
        return "\n".join([self._topic.question, *texts])

    def labeled(self, names: SeatsByLabel, phase: str, reader: int) -> dict[str, Answer]:
        """Return the answers by label. Over all readers, each answer is equally often at each place."""
        present = sorted((seat, label) for label, seat in names.items() if seat in self.by_seat)
        places = labels.order(self._topic.nonce, phase, reader, len(present))
        ordered = [present[place] for place in places]
        return {label: self.by_seat[seat] for seat, label in ordered}


def label_of(seat: int, names: SeatsByLabel) -> str:
    """Return the label of a seat's answer."""
    return next(label for label, owner in names.items() if owner == seat)
