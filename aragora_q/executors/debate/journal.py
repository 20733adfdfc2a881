"""The journal of a debate: every finished call, kept with the job, so that no attempt pays it twice.

Kept through the attempt's checkpoints: fenced, bounded, gone when the job's data goes. Entries are
keyed by payload and wording of the prompts (`edition`), so that one of another wording is never
mixed in. Used by the protocol and the seats.
"""

from __future__ import annotations

import time
from typing import Any

from aragora_q.context import AttemptContext

MAX_BYTES = 3_000_000
"""What the texts of a debate may come to: well below what a job's checkpoints may hold."""

STARTED = "life/started"
"""When the debate began. A requeue begins its clock anew, and takes seats that dropped out in again."""

Entry = dict[str, Any]
"""A finished call: `agent`; `in` and `out`, tokens; `usd`, its price; `value`, its reply (None: unusable)."""


class Journal:
    """What earlier attempts and this one have finished. `len` is the number of calls."""

    def __init__(self, attempt: AttemptContext, edition: str) -> None:
        self._attempt = attempt
        self._edition = edition
        self._calls: dict[str, Entry] = {}
        self._dropped: dict[int, Entry] = {}
        self.started_at = 0.0
        """When the debate began, in the first attempt of this life; Unix seconds."""

    async def open(self) -> None:
        """Read what earlier attempts have left; the first one begins the debate's clock."""
        kept = await self._attempt.checkpoints()
        if STARTED not in kept:
            kept[STARTED] = {"at": time.time()}
            await self._attempt.checkpoint(STARTED, kept[STARTED])
        self.started_at = kept[STARTED]["at"]
        for name, entry in kept.items():
            match name.split("/"):
                case [self._edition, "call", call]:
                    self._calls[call] = entry
                case ["life", self._edition, "dropped", seat]:
                    self._dropped[int(seat)] = entry

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, call: str) -> Entry | None:
        """The finished call of that name, or None."""
        return self._calls.get(call)

    def has_begun(self, phase_stem: str) -> bool:
        """Whether a call of a phase whose name begins like this is finished."""
        return any(call.startswith(phase_stem) for call in self._calls)

    async def put(self, call: str, entry: Entry) -> None:
        """Keep a finished call."""
        self._calls[call] = entry
        await self._attempt.checkpoint(f"{self._edition}/call/{call}", entry)

    async def drop(self, seat: int, phase: str, why: str) -> None:
        """Keep that a seat is out of the debate."""
        self._dropped[seat] = {"phase": phase, "why": why}
        await self._attempt.checkpoint(f"life/{self._edition}/dropped/{seat}", self._dropped[seat])

    def dropped_in(self, phase: str) -> dict[int, str]:
        """Seats that an earlier attempt saw leave in that phase, and why."""
        return {n: entry["why"] for n, entry in self._dropped.items() if entry["phase"] == phase}

    def tokens(self) -> int:
        """Tokens of all finished calls."""
        return sum(entry["in"] + entry["out"] for entry in self._calls.values())

    def cost_usd(self) -> float:
        """Price of all finished calls, as far as it is known."""
        return float(sum(entry["usd"] for entry in self._calls.values()))

    def usage(self) -> dict[str, int]:
        """`input_tokens`, `output_tokens`, `requests`, and the same per agent as `<agent>.<name>`."""
        usage = {"input_tokens": 0, "output_tokens": 0, "requests": 0}
        for entry in self._calls.values():
            counts = {"input_tokens": entry["in"], "output_tokens": entry["out"], "requests": 1}
            for name, number in counts.items():
                own = f"{entry['agent']}.{name}"
                usage[name] += number
                usage[own] = usage.get(own, 0) + number
        return usage
