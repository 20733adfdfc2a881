"""What is wrong with the input of an experiment: all of it in one error, so that one look is enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aragora_q.errors import InvalidPayload
from aragora_q.formats import count

MAX_SHOWN = 20
"""Reasons in an error; the others are counted."""


class Refusals:
    """Collects what is refused, each reason once. Nothing is raised before `check`."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        """Where each reason was met first."""
        self._counts: dict[str, int] = {}

    @contextmanager
    def collect(self, where: str) -> Iterator[None]:
        """Note InvalidPayload, raised in the block, as one refusal; `where` is, for example, `line 3`."""
        try:
            yield
        except InvalidPayload as error:
            reason = f"{error} ({error.hint})" if error.hint else str(error)
            self._first.setdefault(reason, where)
            self._counts[reason] = self._counts.get(reason, 0) + 1

    def check(self, singular: str) -> None:
        """Raise InvalidPayload if anything was refused; `singular` is what it is called, such as `line`."""
        texts = []
        for reason, where in self._first.items():
            more = self._counts[reason] - 1
            texts.append(f"{where}: {reason}" + (f"; and {more:,} more" if more else ""))
        if len(texts) > MAX_SHOWN:
            texts[MAX_SHOWN:] = [f"and {len(texts) - MAX_SHOWN:,} more reasons"]
        if len(texts) > 1:
            texts.insert(0, f"{count(sum(self._counts.values()), singular)} refused")
        if texts:
            raise InvalidPayload("\n".join(texts), hint="nothing was enqueued")
