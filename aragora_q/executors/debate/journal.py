"""The journal of a debate: every finished call and every decision, stored with the job.

So no call is paid for twice, and a resumed debate is the same debate. Stored as checkpoints of the
attempt: fenced, limited in size, deleted with the job's data. An entry counts where the digest of its
exact prompt matches, so calls made with other prompts are never mixed in. Used by the protocol and the
participants.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aragora_q.context import AttemptContext

MAX_BYTES = 3_000_000
"""Maximum size of all texts of a debate; well below the limit of a job's checkpoints."""

RETURNED = -1
"""Instead of a step, in the note of a seat that dropped out and came back."""

Entry = dict[str, Any]
"""A call: `agent`, `model` (configured), `answered_by`, `settings` and `prompt` (digests), `phase`, `round`,
`seat`, `step` (ordinal of the phase), `in`, `out` and `cached` (tokens), `usd` (None: unknown), `seconds`,
`running` (running seconds of the debate at its end), `life`; `value`, the reply with seats instead of
labels (None: `unusable` or `refused` says why); `limited` (cut by the agent's token limit), `prose` (no JSON).
"""


class Journal:
    """The calls and decisions of this and earlier attempts. Its length is the number of calls.

    A *life* is the time between enqueue, or requeue, and the end of a job. A requeue deletes checkpoints
    named `life/…`: the clock restarts, and unusable replies of the phase where the debate ended are asked
    for again.
    """

    def __init__(self, attempt: AttemptContext, attempt_started_at: float | None) -> None:
        self._attempt = attempt
        now = time.time() if attempt_started_at is None else attempt_started_at
        self._clock_offset = now - time.monotonic()
        self._began = time.monotonic()
        self._earlier_seconds: float | None = None
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        self._notes: dict[str, Entry] = {}

    async def open(self, begin: Callable[[], Mapping[str, Any]]) -> None:
        """Read what earlier attempts stored. If it is the first one, store what `begin` returns."""
        found = await self._attempt.checkpoints()
        self._entries.clear()
        for name in sorted(found, key=_number_of_try):
            kind, _, rest = name.partition("/")
            if kind == "call":
                self._entries[rest.rpartition(".")[0]].append(found[name])
        self._notes = {name: note for name, note in found.items() if not name.startswith("call/")}
        if "begun" not in self._notes:
            await self.note("begun", {"at": self.now(), **begin()})
        if "life/begun" not in self._notes:
            await self.note("life/begun", {"id": secrets.token_hex(4), "at": self.now()})
        if self._earlier_seconds is None:
            running = [entry["running"] for entry in self.entries() if entry["life"] == self.life]
            self._earlier_seconds = max(running, default=0.0)

    @property
    def begun(self) -> Entry:
        """What was stored when the debate began: `at`, `nonce`, `version`, `prompt_version`."""
        return self._notes["begun"]

    @property
    def life(self) -> str:
        """The id of this life."""
        return str(self._notes["life/begun"]["id"])

    def running_seconds(self) -> float:
        """Return the running time of the debate in this life: of all attempts, without waits between them.

        What an attempt did after its last finished call is not known, and not counted, if it crashed.
        """
        return (self._earlier_seconds or 0.0) + time.monotonic() - self._began

    def now(self) -> float:
        """Return the time of the server's clock, which all attempts share, in Unix seconds."""
        return time.monotonic() + self._clock_offset

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def entries(self) -> Iterator[Entry]:
        """Yield every call, also those whose replies are not used."""
        for entries in self._entries.values():
            yield from entries

    def tries(self, call: str, prompt: str) -> list[Entry]:
        """Return the replies to that exact prompt, oldest first.

        Unusable ones of an earlier life count only if a later phase followed: it was asked with the
        usable ones, and must not be asked again.
        """
        return [
            entry
            for entry in self._entries[call]
            if entry["prompt"] == prompt
            and (
                entry["value"] is not None
                or entry["life"] == self.life
                or self.has_passed(entry["step"])
            )
        ]

    def has_begun(self, phase_prefix: str) -> bool:
        """Return True if a call is finished whose phase begins with `phase_prefix`."""
        return any(
            entries and call.startswith(phase_prefix) for call, entries in self._entries.items()
        )

    def has_passed(self, step: int) -> bool:
        """Return True if a call of a later phase is finished."""
        return any(entry["step"] > step for entry in self.entries())

    async def put(self, call: str, entry: Entry) -> None:
        """Store a finished call."""
        entry = {**entry, "running": round(self.running_seconds(), 3), "life": self.life}
        number = len(self._entries[call])
        self._entries[call].append(entry)
        await self._attempt.checkpoint(f"call/{call}.{number}", entry)

    def find_note(self, name: str) -> Entry | None:
        """Return what was stored under that name, or None."""
        return self._notes.get(name)

    async def note(self, name: str, value: Entry) -> None:
        """Store a decision before it takes effect. One named `life/…` ends with this life."""
        self._notes[name] = value
        await self._attempt.checkpoint(name, value)

    async def drop(self, seat: int, phase: str, step: int, reason: str) -> None:
        """Store that a seat dropped out of the debate."""
        note = {"phase": phase, "step": step, "why": reason, "life": self.life}
        await self.note(f"dropped/{seat}", note)

    async def dropped_in(self, step: int) -> dict[int, str]:
        """Return the seats that dropped out in that phase earlier and stay out, and the reasons.

        After a requeue, those return that dropped out in the phase where the debate ended. The others
        missed phases, and must not judge what they did not see.
        """
        dropped = {}
        for name, note in list(self._notes.items()):
            if not name.startswith("dropped/") or note["step"] != step:
                continue
            if note["life"] == self.life or self.has_passed(step):
                dropped[int(name.removeprefix("dropped/"))] = str(note["why"])
            else:
                await self.note(name, {**note, "step": RETURNED})
        return dropped

    def tokens(self) -> int:
        """Return the tokens of all calls, input and output."""
        return sum(entry["in"] + entry["out"] for entry in self.entries())

    def cost_usd(self) -> float:
        """Return the price of all calls with a known price."""
        return float(sum(entry["usd"] or 0.0 for entry in self.entries()))

    def usage(self) -> dict[str, int]:
        """Return `input_tokens`, `output_tokens`, `requests`, and the same per agent as `<agent>.<name>`."""
        usage = {"input_tokens": 0, "output_tokens": 0, "requests": 0}
        for entry in self.entries():
            counts = {"input_tokens": entry["in"], "output_tokens": entry["out"], "requests": 1}
            for name, count in counts.items():
                agent_name = f"{entry['agent']}.{name}"
                usage[name] += count
                usage[agent_name] = usage.get(agent_name, 0) + count
        return usage


def _number_of_try(name: str) -> tuple[str, int]:
    call, _, number = name.rpartition(".")
    return call, int(number) if number.isdigit() else 0
