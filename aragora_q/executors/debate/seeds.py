"""The finished calls of another debate that one may take over: its seeds.

Stored with the job when it is enqueued, in the form of the other's journal: `seed/<id>/call/<call>.<try>`, by
the id of the debate that held them, and `seed/begun`. Used by the journal. What a reply must match is decided
by the participants.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Entry = dict[str, Any]

SEED = "seed"
BEGUN = "seed/begun"
"""The name of what the other debate stored when it began: it has the nonce of all its prompts."""

_NONCE = re.compile(r"[0-9a-f]{8}")
_TAKEN = ("in", "out", "cached", "max_in", "usd", "seconds", "at")
"""What a call took, where it was paid for."""


def origin(entry: Mapping[str, Any]) -> str:
    """Return the id of the debate that paid for a call that was taken over; blank: it was not."""
    found = entry.get("from")
    return found if isinstance(found, str) else ""


class Seeds:
    """The replies that may be taken over, each once. False if there are none."""

    def __init__(self) -> None:
        self.begun: Entry = {}
        self._tries: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        """By the debate that held them and by call, oldest first."""
        self._taken: set[tuple[str, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._tries)

    @property
    def nonce(self) -> str | None:
        """The nonce of the other debate's prompts; None if it is not known."""
        nonce = self.begun.get("nonce")
        return nonce if isinstance(nonce, str) and _NONCE.fullmatch(nonce) else None

    def add(self, holder: str, call: str, entry: Entry) -> None:
        """Add a reply to `call` in the debate `holder`; add the tries of a call in their order."""
        self._tries[holder, call].append({**entry, "from": origin(entry) or holder})

    def note_taken(self, entry: Mapping[str, Any]) -> None:
        """Remember that an entry of the journal was taken over, if it was."""
        if origin(entry):
            self._taken.add(_identity(entry))

    def repliers(self, call: str) -> set[str]:
        """Return the names of the agents that replied to a call."""
        return {
            entry["agent"] for (_, own), tries in self._tries.items() if own == call
            for entry in tries
        }  # fmt: skip

    def take(
        self,
        call: str,
        tries: Sequence[Entry],
        matches: Callable[[Entry], bool],
        may_stand_in: Callable[[Entry], bool],
    ) -> list[Entry]:
        """Return the replies to a call that may be taken over, oldest first, and remember that they are.

        They are all of one call: the one that `tries` come from, or else the call itself, or another of which
        `may_stand_in` says that it can be one of this.
        """
        for group in self._groups(call, may_stand_in):
            known = {_identity(entry) for entry in group}
            if known & self._taken if not tries else _identity(tries[-1]) not in known:
                continue
            found = [
                entry for entry in group if _identity(entry) not in self._taken and matches(entry)
            ]
            if found:
                self._taken |= known
                return found
        return []

    def _groups(
        self, call: str, may_stand_in: Callable[[Entry], bool]
    ) -> Iterator[Sequence[Entry]]:
        yield from (group for (_, own), group in self._tries.items() if own == call)
        for (_, own), group in self._tries.items():
            if own != call and all(map(may_stand_in, group)):
                yield group


def seeds_of(source: str, journal: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the seeds that `enqueue` makes of the journal of the debate `source`."""
    own = {f"{SEED}/{source}/{n}": each for n, each in journal.items() if n.startswith("call/")}
    older = {n: each for n, each in journal.items() if n.startswith(f"{SEED}/")}
    begun = {BEGUN: journal["begun"]} if "begun" in journal else {}
    return {**older, **own, **begun}


def taken_over(seed: Entry, place: Mapping[str, Any], now: float) -> Entry:
    """Return the entry of a reply taken over at `place`: it takes nothing here, and says what it took."""
    was = seed.get("was") or {name: seed[name] for name in _TAKEN}
    free = {"in": 0, "out": 0, "cached": 0, "max_in": 0, "usd": 0.0, "seconds": 0.0}
    return {**seed, **place, **free, "at": round(now, 3), "was": was}


def taken_calls(entries: Iterable[Entry]) -> Counter[tuple[str, str, str]]:
    """Return the number of replies by kind of phase, agent and model."""
    return Counter((entry["phase"], entry["agent"], entry["model"]) for entry in entries)


def _identity(entry: Mapping[str, Any]) -> tuple[str, str]:
    return origin(entry), str(entry.get("id"))
