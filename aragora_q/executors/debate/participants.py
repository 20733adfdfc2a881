"""The seats of one debate: ask all of them at once, keep what they say, see who drops out.

Used by the protocol, which says what is asked. Every call goes through `ask`: one that an earlier
attempt has finished is taken from the journal and costs nothing. Knows agents and the journal; must
not know what a phase is for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aragora_q.base import Job
from aragora_q.context import AttemptContext
from aragora_q.errors import AgentUnavailable, AragoraQError, LeaseLost, PermanentError, RetryLater
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.journal import Journal
from aragora_q.executors.debate.prompts import MAX_POINTS_CHARS
from aragora_q.executors.debate.requests import Agent, Task

logger = logging.getLogger(__name__)

MAX_LOGGED_CHARS = 280
"""How much of a reply the progress report shows."""

Value = dict[str, Any]
"""A reply as the journal keeps it: numbers of answers instead of their labels, texts cut."""

AgentFault = PermanentError | RetryLater | AgentUnavailable


@dataclass(frozen=True)
class Phase:
    """A step of the debate in which every seat is asked once. Round 0: outside the rounds."""

    name: str
    round: int = 0

    def __str__(self) -> str:
        return f"r{self.round}.{self.name}" if self.round else self.name


class Participants:
    """Who sits in a debate. `live` are the numbers of those still in it."""

    def __init__(
        self,
        job: Job,
        names: list[str],
        rounds: int,
        roster: AgentRegistry,
        attempt: AttemptContext,
        journal: Journal,
        answer_bytes: int,
    ) -> None:
        self.names = names
        self.live = list(range(len(names)))
        self.troubles: list[str] = []
        """Who dropped out and why, for the result's `error`."""
        self.transcript: list[dict[str, Any]] = []
        self._quorum = max(2, (len(names) + 1) // 2)
        self._job = job
        self._rounds = rounds
        self._roster = roster
        self._attempt = attempt
        self._journal = journal
        self._answer_bytes = answer_bytes

    async def ask_all(
        self, phase: Phase, tasks: Mapping[int, Task], labels: Mapping[str, int]
    ) -> dict[int, Value | None]:
        """The replies of all seats that are still in the debate after this phase.

        `labels` are those in the tasks, and the answers they stand for. All seats are heard before
        faults are judged, so that nothing that was paid is lost to somebody else's fault.
        """
        started_at, finished_before = time.monotonic(), len(self._journal)
        gone = self._journal.dropped_in(str(phase))
        asked = [seat for seat in self.live if seat not in gone]
        done: list[int] = []

        async def ask(seat: int) -> Value | None:
            known = len(self._journal)
            agent = await self._roster.agent(self.names[seat], seat)
            value = await self.ask(f"{phase}.{seat}", agent, tasks[seat], labels)
            done.append(seat)
            if len(self._journal) > known:
                await self._show(phase, len(done), seat, value)
            return value

        heard = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        replies = {
            n: r for n, r in zip(asked, heard, strict=True) if not isinstance(r, BaseException)
        }
        faults = {n: r for n, r in zip(asked, heard, strict=True) if isinstance(r, BaseException)}
        for seat, why in gone.items():
            self._leave(seat, phase, why)
        await self._judge(phase, faults)
        self._record(phase, replies)
        if len(self._journal) > finished_before:
            self._log(phase, time.monotonic() - started_at)
        return replies

    async def ask(
        self, call: str, agent: Agent, task: Task, labels: Mapping[str, int]
    ) -> Value | None:
        """One agent's reply to one task, from the journal if it is there. Raises as `Agent.reply`."""
        entry = self._journal.get(call)
        if entry is None:
            reply = await agent.reply(task)
            entry = {
                "agent": agent.name,
                "in": reply.input_tokens,
                "out": reply.output_tokens,
                "usd": reply.cost_usd,
                "value": reply.value and self._decoded(reply.value, labels),
            }
            await self._journal.put(call, entry)
        value: Value | None = entry["value"]
        return value

    def _decoded(self, value: Value, labels: Mapping[str, int]) -> Value:
        value = dict(value)
        for name in ("best", "choice"):
            if value.get(name) is not None:
                value[name] = labels[value[name]]
        if "text" in value:
            value["text"] = _cut(value["text"], self._answer_bytes)
        if "points" in value:
            value["points"] = _cut(value["points"], MAX_POINTS_CHARS)
        return value

    async def _judge(self, phase: Phase, faults: Mapping[int, BaseException]) -> None:
        """Seats with a permanent fault leave, on the last attempt those with any; else try again."""
        for error in faults.values():
            if not isinstance(error, AgentFault):
                raise error
        passing = {n: e for n, e in faults.items() if not isinstance(e, PermanentError)}
        if passing and not self._attempt.is_last_attempt:
            raise self._to_retry(passing)
        if len(self.live) - len(faults) < self._quorum:
            if passing:
                raise self._to_retry(passing)
            reasons = "; ".join(f"{self.names[n]}: {_reason(error)}" for n, error in faults.items())
            raise PermanentError(
                f"{len(self.live) - len(faults)} of {len(self.names)} agents are left, "
                f"a debate needs {self._quorum}: {reasons}; {'; '.join(self.troubles)}".rstrip("; ")
            )
        for seat, fault in faults.items():
            await self._journal.drop(seat, str(phase), _reason(fault))
            self._leave(seat, phase, _reason(fault))

    def _to_retry(self, faults: Mapping[int, BaseException]) -> AragoraQError:
        """One error for all that may pass: later, if a provider said so, and as late as it said."""
        reasons = "; ".join(f"{self.names[n]}: {_reason(error)}" for n, error in faults.items())
        delays = [e.delay_seconds for e in faults.values() if isinstance(e, RetryLater)]
        if delays:
            return RetryLater(reasons, delay_seconds=max(delays))
        return AgentUnavailable(reasons)

    def _leave(self, seat: int, phase: Phase, why: str) -> None:
        self.live.remove(seat)
        where = f"round {phase.round}, {phase.name}" if phase.round else phase.name
        self.troubles.append(f"{self.names[seat]} dropped out ({where}): {why}")
        logger.warning("agent dropped out", extra={**self._facts(phase), "reason": why})

    def _record(self, phase: Phase, replies: Mapping[int, Value | None]) -> None:
        self.transcript += [
            {
                "phase": phase.name,
                "round": phase.round,
                "seat": n,
                "agent": self.names[n],
                "said": value,
            }
            for n, value in replies.items()
        ]

    async def _show(self, phase: Phase, done: int, seat: int, value: Value | None) -> None:
        """Report progress. Nobody may be able to hear it, and no harm is done."""
        progress = {
            "phase": phase.name,
            "round": phase.round,
            "rounds": self._rounds,
            "agents_done": done,
            "agents": len(self.live),
            "calls": len(self._journal),
            "tokens": self._journal.tokens(),
            "agent": self.names[seat],
            "seat": seat,
            "said": _shown(value),
        }
        try:
            await self._attempt.report_progress(progress)
        except LeaseLost:
            raise
        except AragoraQError as error:
            logger.debug("progress not shown", extra={"error": str(error)})

    def _log(self, phase: Phase, seconds: float) -> None:
        facts = {**self._facts(phase), "agents": len(self.live), "seconds": seconds}
        logger.info("debate phase done", extra={**facts, "tokens": self._journal.tokens()})

    def _facts(self, phase: Phase) -> dict[str, Any]:
        return {"job": self._job.id, "attempt": self._job.attempts, "phase": str(phase)}


def _reason(error: BaseException) -> str:
    """What went wrong, and what can be done about it."""
    hint = getattr(error, "hint", "")
    return f"{error} ({hint})" if hint else str(error)


def _cut(text: str, most_bytes: int) -> str:
    return text.encode(errors="replace")[:most_bytes].decode(errors="ignore")


def _shown(value: Value | None) -> str:
    """A reply in a few words."""
    match value:
        case None:
            return "(abstains: the reply was not in the form asked for)"
        case {"choice": choice}:
            return f"votes for the answer of seat {choice + 1}"
        case {"text": text} | {"points": text}:
            return _cut(str(text), MAX_LOGGED_CHARS)
    return ""
