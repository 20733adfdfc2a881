"""What an experiment notes in the metadata of its debates, so that its group alone is enough to read it back.

Written by `sweep`, read by `rows`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aragora_q.job import EXPERIMENT_NOTE
from aragora_q.loose import mapping, whole

ARM_TAG = "arm"
"""The tag with the name of the arm, by which filters find its debates."""


class Note(NamedTuple):
    """What a debate is in its experiment."""

    arm: str
    """The name of the arm."""
    number: int
    """The place of the question in its file, from 1."""
    expected: tuple[Any, ...] = ()
    """The verdicts that are right; empty: that is not known."""
    place: int = 0
    """The place of the arm among those that were swept with it, from 1; 0: not known. It is the order of
    tables: jobs that are enqueued together have the same time."""

    def to_dict(self) -> dict[str, Any]:
        """Return the note as JSON data."""
        note: dict[str, Any] = {"arm": self.arm, "number": self.number}
        if self.place:
            note["place"] = self.place
        return {**note, "expected": list(self.expected)} if self.expected else note


def note_of(payload: Mapping[str, Any]) -> Note | None:
    """Return the note in the payload of a job; None if it has none of this form: any client writes metadata."""
    note = mapping(mapping(payload.get("metadata")).get(EXPERIMENT_NOTE))
    arm, number, expected = note.get("arm"), note.get("number"), note.get("expected", [])
    if not isinstance(arm, str) or type(number) is not int or not isinstance(expected, list):
        return None
    return Note(arm, number, tuple(expected), whole(note.get("place")))
