"""The journal of a debate: every finished call, stored with the job, so that no call is paid twice.

Stored as checkpoints of the attempt: fenced, limited in size, deleted with the job's data. Keys contain a
digest of the payload and the prompts (`version`), so that calls made with other prompts are ignored.
Used by the protocol and the participants.
"""

from __future__ import annotations

import time
from typing import Any

from aragora_q.context import AttemptContext

MAX_BYTES = 3_000_000
"""Maximum size of all texts of a debate; well below the limit of a job's checkpoints."""

STARTED = "life/started"
"""When the debate began. A requeue deletes `life/…`: the clock restarts and dropped seats return."""

Entry = dict[str, Any]
"""A finished call: `agent`; `in` and `out`, tokens; `usd`, its price; `value`, its reply (None: unusable)."""


class Journal:
    """The finished calls of this and earlier attempts. Its length is their number."""

    def __init__(
        self, attempt: AttemptContext, version: str, attempt_started_at: float | None
    ) -> None:
        self._attempt = attempt
        self._version = version
        now = time.time() if attempt_started_at is None else attempt_started_at
        self._clock_offset = now - time.monotonic()
        self._calls: dict[str, Entry] = {}
        self._dropped: dict[int, Entry] = {}
        self._started_at = 0.0

    async def open(self) -> None:
        """Read what earlier attempts stored; the first attempt stores when the debate began."""
        checkpoints = await self._attempt.checkpoints()
        if STARTED not in checkpoints:
            checkpoints[STARTED] = {"at": self._now()}
            await self._attempt.checkpoint(STARTED, checkpoints[STARTED])
        self._started_at = checkpoints[STARTED]["at"]
        for name, entry in checkpoints.items():
            match name.split("/"):
                case [self._version, "call", call]:
                    self._calls[call] = entry
                case ["life", self._version, "dropped", seat]:
                    self._dropped[int(seat)] = entry

    def elapsed_seconds(self) -> float:
        """Return the seconds since the first attempt since enqueue or requeue began the debate."""
        return self._now() - self._started_at

    def _now(self) -> float:
        """Return the time of the server's clock, which all attempts share, whatever this machine's says."""
        return time.monotonic() + self._clock_offset

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, call: str) -> Entry | None:
        """Return the finished call of that name, or None."""
        return self._calls.get(call)

    def has_begun(self, phase_prefix: str) -> bool:
        """Return True if a call is finished whose phase begins with `phase_prefix`."""
        return any(call.startswith(phase_prefix) for call in self._calls)

    async def put(self, call: str, entry: Entry) -> None:
        """Store a finished call."""
        self._calls[call] = entry
        await self._attempt.checkpoint(f"{self._version}/call/{call}", entry)

    async def drop(self, seat: int, phase: str, reason: str) -> None:
        """Store that a seat dropped out of the debate."""
        self._dropped[seat] = {"phase": phase, "why": reason}
        await self._attempt.checkpoint(f"life/{self._version}/dropped/{seat}", self._dropped[seat])

    def dropped_in(self, phase: str) -> dict[int, str]:
        """Return the seats that dropped out in that phase of an earlier attempt, and the reasons."""
        return {n: entry["why"] for n, entry in self._dropped.items() if entry["phase"] == phase}

    def tokens(self) -> int:
        """Return the tokens of all finished calls, input and output."""
        return sum(entry["in"] + entry["out"] for entry in self._calls.values())

    def cost_usd(self) -> float:
        """Return the price of all finished calls; those without a known price count as 0."""
        return float(sum(entry["usd"] for entry in self._calls.values()))

    def usage(self) -> dict[str, int]:
        """Return `input_tokens`, `output_tokens`, `requests`, and the same per agent as `<agent>.<name>`."""
        usage = {"input_tokens": 0, "output_tokens": 0, "requests": 0}
        for entry in self._calls.values():
            counts = {"input_tokens": entry["in"], "output_tokens": entry["out"], "requests": 1}
            for name, count in counts.items():
                agent_name = f"{entry['agent']}.{name}"
                usage[name] += count
                usage[agent_name] = usage.get(agent_name, 0) + count
        return usage
