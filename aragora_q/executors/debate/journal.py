"""The journal of a debate: every call and every decision, stored with the job.

So no reply is paid for twice, and a resumed debate is the same debate. Stored as checkpoints of the
attempt: fenced, limited in size, deleted with the job's data. An entry counts where the digest of its
exact prompt and of the seats that it labels matches, so calls made with other prompts are never mixed in.
Used by the protocol and the participants.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from aragora_q import loose
from aragora_q.context import AttemptContext
from aragora_q.errors import PermanentError
from aragora_q.executors.debate.seeds import BEGUN, SEED, Seeds, origin, taken_over
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

MAX_BYTES = 3_000_000
"""Maximum size of all texts of a debate; well below the limit of a job's checkpoints."""

RETURNED = -1
"""Instead of a step, in the note of a seat that dropped out and came back."""

Entry = dict[str, Any]
"""A call that brought a reply, `call/<call>.<try>`: `id` (of the call, for the gates), `agent`, `provider`,
`account`, `model` (configured), `service_tier` (asked for, if one was), `answered_by`, `served_in` (the tier
that the reply names, if it does), `settings` and `prompt` (digests), `own_settings` (those that are not at
their default), `phase`, `round`, `seat`, `step` (ordinal of the phase), `in`, `out` and `cached` (tokens),
`max_in` (the bound of `in`), `usd` (None: unknown), `outcome` (a `CallOutcome`), `at` (its end, Unix
seconds), `seconds`, `running` (running seconds of the debate at its end), `life`; `value`, the reply with
seats instead of labels (None: `unusable` or `refused` says why, `said` how it began); `limited` (cut by a
token limit), `clipped` (by one below the agent's), `prose` (no JSON), `closed` (why the agent of the seat was
not asked: `agent` is one of its fallbacks).

One that was taken over from another debate has `from` (the id of the job that paid for it) and `was` (what it
took there); it took nothing here. One named `past/…` was discarded by `requeue --from`: it counts only for
what it took.

A call that brought none, `fault/<call>.<n>`: the same up to `seconds`, without `settings` and `prompt`, and
`why`. It counts for what it took, and changes nothing else.
"""

_NUMBER = (int, float)
_FAULT = {
    **dict.fromkeys(
        ("id", "agent", "provider", "account", "model", "answered_by", "outcome", "phase"), str
    ),
    **dict.fromkeys(("round", "seat", "step", "in", "max_in", "out", "cached"), int),
    **dict.fromkeys(("at", "seconds"), _NUMBER),
    "usd": (*_NUMBER, type(None)),
}
_CALL = {
    **_FAULT,
    **dict.fromkeys(("settings", "prompt", "life"), str),
    "running": _NUMBER,
}
_WAS = {name: _FAULT[name] for name in ("in", "out", "cached", "max_in", "usd", "seconds", "at")}
_OPTIONAL_INT = (int, type(None))
_ANSWER = {"answer": object, "reasons": str}
_REVIEW = {"points": str, "best": _OPTIONAL_INT, "stop": bool}
_BALLOT = {"reason": str, "choice": int, "confidence": _OPTIONAL_INT, "same_as": list}
_VALUES: Mapping[str, Mapping[str, Any]] = {
    "propose": _ANSWER,
    "review": {**_REVIEW, "same_as": list},
    "revise": {**_ANSWER, "changed": bool},
    "discuss": {**_REVIEW, **_ANSWER},
    "vote": _BALLOT,
    "judge": _BALLOT,
    "synthesize": {"text": str},
}
_NOTES: Mapping[str, Mapping[str, Any]] = {
    "begun": {"at": _NUMBER, "nonce": str, "version": str, "prompt_version": str},
    "life/begun": {"id": str, "at": _NUMBER},
    "life/time_up": {},
    "life/running": {"seconds": _NUMBER},
    "life/overloads": {"count": int, "calls": dict},
    "decision": {
        "ended_by": (str, type(None)),
        "max_output": (int, type(None)),
        "shown": (int, type(None)),
    },
    "given_up": {"why": str, "limit": (str, type(None))},
    "dropped": {"phase": str, "step": int, "why": str, "life": str},
}
"""What calls and notes hold. Others, such as those of another version, do not count."""


class Journal:
    """The calls and decisions of this and earlier attempts. Its length is the number of calls with a reply.

    A *life* is the time between enqueue, or requeue, and the end of a job. A requeue deletes checkpoints
    named `life/…`: the clock restarts, and unusable replies of the phase where the debate ended are asked
    for again.
    """

    def __init__(self, attempt: AttemptContext, attempt_started_at: float | None) -> None:
        self.is_full = False
        """True: what is new is in memory only, because the job has no room for more checkpoints."""
        self._attempt = attempt
        now = time.time() if attempt_started_at is None else attempt_started_at
        self._clock_offset = now - time.monotonic()
        self._began = time.monotonic()
        self._earlier_seconds = 0.0
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        self._past: list[Entry] = []
        self._next_try: dict[str, int] = defaultdict(int)
        self._seeds = Seeds()
        self._faults: dict[str, list[Entry]] = defaultdict(list)
        self._next_fault: dict[str, int] = defaultdict(int)
        self._next_request: dict[str, int] = defaultdict(int)
        self._notes: dict[str, Entry] = {}
        self._unsaved: dict[str, Entry] = {}
        self._count = self._tokens = self._last_step = 0
        self._cost_usd: float | None = None
        self._unpriced_calls = 0
        self._first_prose: dict[tuple[str, str], int] = {}

    async def open(self, begin: Callable[[str | None], Awaitable[Mapping[str, Any]]]) -> None:
        """Read what earlier attempts stored. If none has asked anything, store what `begin` returns.

        `begin` takes the nonce of the debate whose calls may be taken over; None if there is none.

        A debate that was held is quoted again so: others have ended meanwhile. Its nonce stays.
        """
        found = await self._attempt.checkpoints()
        names = sorted(found, key=_number_of_try)
        ignored = [name for name in names if not self._read(name, found[name])]
        if ignored:
            logger.warning("checkpoints of another form ignored", extra={"names": ignored[:10]})
        begun = self._notes.get("begun")
        if begun is None or not any(self.ledger()):
            kept = {"nonce": begun["nonce"]} if begun else {}
            await self.note("begun", {"at": self.now(), **await begin(self._seeds.nonce), **kept})
        if "life/begun" not in self._notes:
            await self.note("life/begun", {"id": secrets.token_hex(4), "at": self.now()})
        running = [entry["running"] for entry in self.entries() if entry["life"] == self.life]
        ended = self._notes.get("life/running", {"seconds": 0.0})
        self._earlier_seconds = max(ended["seconds"], *running, 0.0)

    def _read(self, name: str, value: Entry) -> bool:
        """Take over a checkpoint. Return False if it is not one of the forms that are stored here."""
        kind, _, rest = name.partition("/")
        if kind == SEED:
            return self._read_seed(name, rest, value)
        if kind not in ("call", "past", "fault"):
            is_known = _is_note(name, value)
            if is_known:
                self._notes[name] = value
            return is_known
        call, number = _number_of_try(rest)
        self._next_request[call] += 1
        is_reply = kind != "fault"
        next_number = self._next_try if is_reply else self._next_fault
        next_number[call] = max(next_number[call], number + 1)
        is_known = _is_call(value) if is_reply else _has(value, _FAULT)
        if is_known:
            {"call": self._add, "past": self._add_past, "fault": self._add_fault}[kind](call, value)
        return is_known

    def _read_seed(self, name: str, rest: str, value: Entry) -> bool:
        holder, _, of = rest.partition("/")
        kind, _, of = of.partition("/")
        if name == BEGUN:
            self._seeds.begun = value
            return True
        is_known = kind == "call" and _is_call(value)
        if is_known:
            self._seeds.add(holder, _number_of_try(of)[0], value)
        return is_known

    @property
    def begun(self) -> Entry:
        """What was stored when the debate began: `at`, `nonce`, `version`, `prompt_version`, `quote_usd`."""
        return self._notes["begun"]

    @property
    def quote_usd(self) -> float | None:
        """What the debate was expected to cost before its first call; None: that is not known."""
        return loose.number_or_none(self.begun.get("quote_usd"))

    @property
    def life(self) -> str:
        """The id of this life."""
        return str(self._notes["life/begun"]["id"])

    def running_seconds(self) -> float:
        """Return the running time of the debate in this life: of all attempts, without waits between them or
        at gates.

        What an attempt did after its last finished call is not known, and not counted, if its worker ended.
        """
        waited = self._attempt.waits.seconds
        return self._earlier_seconds + time.monotonic() - self._began - waited

    async def note_running(self) -> None:
        """Store the running time at the end of an attempt."""
        await self.note("life/running", {"seconds": round(self.running_seconds(), 3)})

    def now(self) -> float:
        """Return the time of the server's clock, which all attempts share, in Unix seconds."""
        return time.monotonic() + self._clock_offset

    def __len__(self) -> int:
        return self._count

    def entries(self) -> Iterator[Entry]:
        """Yield every call that brought a reply, also one that is not used; not discarded ones."""
        for entries in self._entries.values():
            yield from entries

    def ledger(self) -> Iterator[Entry]:
        """Yield every call that was paid for here, whatever became of it."""
        for entries in (*self._entries.values(), self._past, *self._faults.values()):
            yield from (entry for entry in entries if not origin(entry))

    def taken_over(self) -> Iterator[Entry]:
        """Yield every call that was taken over from another debate, and counts."""
        yield from filter(origin, self.entries())

    @property
    def has_seeds(self) -> bool:
        """True if there are calls of another debate that may be taken over."""
        return bool(self._seeds)

    async def take_over(
        self,
        call: str,
        tries: Sequence[Entry],
        place: Mapping[str, Any],
        matches: Callable[[Entry], bool],
        may_stand_in: Callable[[Entry], bool],
    ) -> list[Entry]:
        """Store the replies of another debate to `call` that match as this one's; return them, oldest first.

        `tries` are those that were taken over before. The rest as `Seeds.take`.
        """
        found = self._seeds.take(call, tries, matches, may_stand_in)
        return [await self.put(call, taken_over(seed, place, self.now())) for seed in found]

    def tries(self, call: str, prompts: Collection[str]) -> list[Entry]:
        """Return the replies to that exact prompt, oldest first: `prompts` are its digests, by any agent.

        Unusable ones of an earlier life count only if a later phase followed: it was asked with the
        usable ones, and must not be asked again.
        """
        return [
            entry
            for entry in self._entries[call]
            if entry["prompt"] in prompts
            and (
                entry["value"] is not None
                or entry["life"] == self.life
                or self.has_passed(entry["step"])
            )
        ]

    def has_passed(self, step: int) -> bool:
        """Return True if a call of a later phase is finished, or was before it was discarded."""
        if self._last_step > step:
            return True
        is_kept = any(entry["step"] == step for entry in self.entries())
        return is_kept and any(entry["step"] > step for entry in self._past)

    def first_prose(self, agent: str, settings: str) -> int | None:
        """Return the step in which the agent first replied with prose instead of JSON; None if in none."""
        return self._first_prose.get((agent, settings))

    def repliers(self, call: str) -> set[str]:
        """Return the names of the agents that have replied to a call, here or in another debate."""
        return {entry["agent"] for entry in self._entries[call]} | self._seeds.repliers(call)

    def has_tries(self, call: str) -> bool:
        """Return True if a call brought a reply."""
        return bool(self._entries.get(call))

    async def give_up(self, call: str, reason: str, limit: str | None = None) -> None:
        """Store that a call, or another try of it, failed or was forbidden by the job's `limit`."""
        await self.note(self._given_up(call), {"why": reason, "limit": limit})

    def given_up(self, call: str) -> Entry | None:
        """Return why a call is not tried again, as `why` and `limit`; None if it may be."""
        return self.find_note(self._given_up(call))

    def _given_up(self, call: str) -> str:
        return f"given_up/{call}.{self._next_try[call]}"

    def next_request(self, call: str) -> str:
        """Return a key for the next request of a call, unique within the attempt."""
        number = self._next_request[call]
        self._next_request[call] += 1
        return f"{call}.{number}"

    async def put(self, call: str, entry: Entry) -> Entry:
        """Store and return a call that brought a reply. It counts even if the journal has no room for it."""
        entry = {**entry, "running": round(self.running_seconds(), 3), "life": self.life}
        number = self._next_try[call]
        self._next_try[call] += 1
        self._add(call, entry)
        await self._store(f"call/{call}.{number}", entry)
        return entry

    async def put_fault(self, call: str, entry: Entry) -> None:
        """Store a call that brought no reply, for what it took."""
        number = self._next_fault[call]
        self._next_fault[call] += 1
        self._add_fault(call, entry)
        await self._store(f"fault/{call}.{number}", entry)

    def _add_past(self, _call: str, entry: Entry) -> None:
        self._past.append(entry)
        self._seeds.note_taken(entry)
        self._book(entry)

    def _add_fault(self, call: str, entry: Entry) -> None:
        self._faults[call].append(entry)
        self._book(entry)

    def _book(self, entry: Entry) -> None:
        self._tokens += entry["in"] + entry["out"]
        if entry["usd"] is None:
            self._unpriced_calls += 1
        else:
            self._cost_usd = (self._cost_usd or 0.0) + entry["usd"]

    def _add(self, call: str, entry: Entry) -> None:
        self._entries[call].append(entry)
        self._count += 1
        self._seeds.note_taken(entry)
        self._book(entry)
        self._last_step = max(self._last_step, entry["step"])
        if entry.get("prose"):
            key = entry["agent"], entry["settings"]
            self._first_prose[key] = min(entry["step"], self._first_prose.get(key, entry["step"]))

    async def _store(self, name: str, value: Entry) -> None:
        if self.is_full:
            return
        self._unsaved[name] = value
        try:
            await self._attempt.checkpoint(name, value)
        except PermanentError as error:
            self.is_full = True
            logger.warning("the debate's journal is full", extra={"reason": str(error)})
        self._unsaved.pop(name, None)

    async def save(self) -> None:
        """Store what was not stored because the debate was cancelled meanwhile."""
        for name, value in list(self._unsaved.items()):
            await self._store(name, value)

    def find_note(self, name: str) -> Entry | None:
        """Return what was stored under that name, or None."""
        return self._notes.get(name)

    async def note(self, name: str, value: Entry) -> None:
        """Store a decision before it takes effect. One named `life/…` ends with this life."""
        self._notes[name] = value
        await self._store(name, value)

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
        return self._tokens

    def cost_usd(self) -> float | None:
        """Return the price of all calls with a known price; None if no call has one."""
        return self._cost_usd

    def unpriced_calls(self) -> int:
        """Return the number of calls whose price is not known."""
        return self._unpriced_calls

    def usage(self) -> dict[str, int]:
        """Return `input_tokens`, `output_tokens`, `requests`, and the same per agent as `<agent>.<name>`."""
        usage = {"input_tokens": 0, "output_tokens": 0, "requests": 0}
        for entry in self.ledger():  # what was taken over took nothing
            counts = {"input_tokens": entry["in"], "output_tokens": entry["out"], "requests": 1}
            for name, count in counts.items():
                agent_name = f"{entry['agent']}.{name}"
                usage[name] += count
                usage[agent_name] = usage.get(agent_name, 0) + count
        return usage


def _number_of_try(name: str) -> tuple[str, int]:
    call, _, number = name.rpartition(".")
    return call, int(number) if number.isdecimal() else 0


def _is_call(entry: Entry) -> bool:
    if not _has(entry, _CALL):
        return False
    if {"from", "was"} & entry.keys() and not (
        origin(entry) and _has(loose.mapping(entry.get("was")), _WAS)
    ):
        return False
    value, needed = entry.get("value"), _VALUES.get(entry["phase"])
    if isinstance(value, dict):
        return needed is not None and _has(value, needed)
    return value is None and any(isinstance(entry.get(why), str) for why in ("unusable", "refused"))


def _is_note(name: str, note: Entry) -> bool:
    kind, _, rest = name.partition("/")
    fields = _NOTES.get(name, _NOTES.get(kind))
    return fields is not None and (kind != "dropped" or rest.isdecimal()) and _has(note, fields)


def _has(value: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return all(
        name in value and isinstance(value[name], expected) for name, expected in fields.items()
    )
