"""Roles of the console. Each is a Redis user: a bug in a route cannot do what Redis refuses to that user."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What someone may do, from least to most: read; enqueue, too; act on jobs, too."""

    VIEWER = "viewer"
    PRODUCER = "producer"
    OPERATOR = "operator"

    def includes(self, other: Role) -> bool:
        """Return True if this role may do all that `other` may do."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who sent a request. `role` None: not logged in."""

    name: str
    role: Role | None
    address: str
    """The client's address."""

    @property
    def by(self) -> str:
        """The actor as the history of a job names it."""
        return f"{self.name} from {self.address}"


ANONYMOUS = "anonymous"
"""Name of an actor without a token, where reading needs none."""
