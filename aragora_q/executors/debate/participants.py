"""The participants of one debate: ask all seats, store their replies, drop seats that fail.

Used by the protocol, which decides what to ask. Every call goes through `ask`: a call that an earlier
attempt finished is read from the journal and costs nothing. Knows agents and the journal; must not
know what a phase is for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aragora_q.base import Job
from aragora_q.context import AttemptContext
from aragora_q.errors import AgentUnavailable, AragoraQError, LeaseLost, PermanentError, RetryLater
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.journal import Journal
from aragora_q.executors.debate.prompts import MAX_POINTS_CHARS
from aragora_q.executors.debate.requests import Agent, AgentRequest
from aragora_q.job import DebateJobPayload
from aragora_q.observability.logs import get_logger
from aragora_q.retry import describe

logger = get_logger(__name__)

MAX_SUMMARY_BYTES = 280
"""Maximum size of a reply in a progress report."""

StoredReply = dict[str, Any]
"""A reply as the journal stores it: seats instead of labels, texts cut to their maximum size."""

AgentFault = PermanentError | RetryLater | AgentUnavailable


@dataclass(frozen=True)
class Phase:
    """A step of the debate in which every seat is asked once. `round` is 0 outside the rounds."""

    name: str
    round: int = 0

    def __str__(self) -> str:
        return f"r{self.round}.{self.name}" if self.round else self.name


class Participants:
    """The seats of a debate. `active` holds the numbers of those that have not dropped out."""

    def __init__(
        self,
        job: Job,
        payload: DebateJobPayload,
        registry: AgentRegistry,
        attempt: AttemptContext,
        journal: Journal,
        max_answer_bytes: int,
    ) -> None:
        self.names = payload.agents
        self.active = list(range(len(self.names)))
        self.dropouts: list[str] = []
        """Which seats dropped out and why, for the result's `error`."""
        self.transcript: list[dict[str, Any]] = []
        self._quorum = max(2, (len(self.names) + 1) // 2)
        self._job = job
        self._rounds = payload.rounds
        self._registry = registry
        self._attempt = attempt
        self._journal = journal
        self._max_answer_bytes = max_answer_bytes

    async def ask_all(
        self, phase: Phase, requests: Mapping[int, AgentRequest], labels: Mapping[str, int]
    ) -> dict[int, StoredReply | None]:
        """Ask all active seats and return the replies of those that did not drop out, by seat.

        `labels` maps the labels in `requests` to seats. All seats finish before faults are handled,
        so that no paid reply is lost because another seat failed.

        Raises:
            PermanentError: too few seats are left.
            RetryLater, AgentUnavailable: a fault that may be temporary. On the last attempt, only if
                too few seats are left.

        """
        started_at, calls_before = time.monotonic(), len(self._journal)
        dropped = self._journal.dropped_in(str(phase))
        seats = [seat for seat in self.active if seat not in dropped]
        replies, faults = await self._gather(phase, seats, requests, labels)
        for seat, reason in dropped.items():
            self._drop(seat, phase, reason)
        await self._handle_faults(phase, faults)
        self._record(phase, replies)
        if len(self._journal) > calls_before:
            self._log_phase(phase, time.monotonic() - started_at)
        return replies

    async def _gather(
        self,
        phase: Phase,
        seats: Sequence[int],
        requests: Mapping[int, AgentRequest],
        labels: Mapping[str, int],
    ) -> tuple[dict[int, StoredReply | None], dict[int, BaseException]]:
        """Ask `seats` at the same time; return replies and faults by seat."""
        finished: list[int] = []

        async def ask(seat: int) -> StoredReply | None:
            calls_before = len(self._journal)
            agent = await self._registry.agent(self.names[seat], seat)
            reply = await self.ask(f"{phase}.{seat}", agent, requests[seat], labels)
            finished.append(seat)
            if len(self._journal) > calls_before:
                await self._report_progress(phase, len(finished), seat, reply)
            return reply

        replies: dict[int, StoredReply | None] = {}
        faults: dict[int, BaseException] = {}
        outcomes = await asyncio.gather(*map(ask, seats), return_exceptions=True)
        for seat, outcome in zip(seats, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                faults[seat] = outcome
            else:
                replies[seat] = outcome
        return replies, faults

    async def ask(
        self, call: str, agent: Agent, request: AgentRequest, labels: Mapping[str, int]
    ) -> StoredReply | None:
        """Return an agent's reply to one request, from the journal if it is there.

        None means that the reply was not in the requested form. Raises as `Agent.reply`.
        """
        entry = self._journal.get(call)
        if entry is None:
            try:
                reply = await agent.reply(request)
                entry = {
                    "agent": agent.name,
                    "in": reply.input_tokens,
                    "out": reply.output_tokens,
                    "usd": reply.cost_usd,
                    "value": reply.value and self._to_stored(reply.value, labels),
                }
            except AragoraQError:
                raise
            except Exception as error:  # whatever it is: of this seat, not of the debate
                raise AgentUnavailable(f"unusable reply: {describe(error)}") from error
            await self._journal.put(call, entry)
        stored: StoredReply | None = entry["value"]
        return stored

    def _to_stored(self, value: Mapping[str, Any], labels: Mapping[str, int]) -> StoredReply:
        stored = dict(value)
        for name in ("best", "choice"):
            if stored.get(name) is not None:
                stored[name] = labels[stored[name]]
        if "text" in stored:
            stored["text"] = _cut(stored["text"], self._max_answer_bytes)
        if "points" in stored:
            stored["points"] = _cut(stored["points"], MAX_POINTS_CHARS)
        return stored

    async def _handle_faults(self, phase: Phase, faults: Mapping[int, BaseException]) -> None:
        """Drop the seats with a permanent fault, or raise if the attempt must end.

        Transient faults end the attempt so that it is retried; on the last attempt, their seats are
        dropped, too, if enough others are left.
        """
        for error in faults.values():
            if not isinstance(error, AgentFault):
                raise error
        transient = {
            seat: error for seat, error in faults.items() if not isinstance(error, PermanentError)
        }
        remaining = len(self.active) - len(faults)
        if transient and (not self._attempt.is_last_attempt or remaining < self._quorum):
            raise self._retry_error(transient)
        if remaining < self._quorum:
            reasons = "; ".join(filter(None, [self._reasons(faults), *self.dropouts]))
            raise PermanentError(
                f"{remaining} of {len(self.names)} agents are left, but a debate needs "
                f"{self._quorum}: {reasons}"
            )
        for seat, error in faults.items():
            await self._journal.drop(seat, str(phase), _reason(error))
            self._drop(seat, phase, _reason(error))

    def _retry_error(self, faults: Mapping[int, BaseException]) -> AragoraQError:
        """Return one error for all transient faults: RetryLater with the longest delay, if one has a delay."""
        delays = [error.delay_seconds for error in faults.values() if isinstance(error, RetryLater)]
        if delays:
            return RetryLater(self._reasons(faults), delay_seconds=max(delays))
        return AgentUnavailable(self._reasons(faults))

    def _reasons(self, faults: Mapping[int, BaseException]) -> str:
        return "; ".join(f"{self.names[seat]}: {_reason(error)}" for seat, error in faults.items())

    def _drop(self, seat: int, phase: Phase, reason: str) -> None:
        self.active.remove(seat)
        where = f"round {phase.round}, {phase.name}" if phase.round else phase.name
        self.dropouts.append(f"{self.names[seat]} dropped out ({where}): {reason}")
        logger.warning("agent dropped out", extra={**self._log_fields(phase), "reason": reason})

    def _record(self, phase: Phase, replies: Mapping[int, StoredReply | None]) -> None:
        self.transcript += [
            {
                "phase": phase.name,
                "round": phase.round,
                "seat": seat,
                "agent": self.names[seat],
                "said": reply,
            }
            for seat, reply in replies.items()
        ]

    async def _report_progress(
        self, phase: Phase, finished: int, seat: int, reply: StoredReply | None
    ) -> None:
        """Report progress. If it cannot be sent, it is dropped and the debate goes on."""
        progress = {
            "phase": phase.name,
            "round": phase.round,
            "rounds": self._rounds,
            "agents_done": finished,
            "agents": len(self.active),
            "calls": len(self._journal),
            "tokens": self._journal.tokens(),
            "agent": self.names[seat],
            "seat": seat,
            "said": _summarize(reply),
        }
        try:
            await self._attempt.report_progress(progress)
        except LeaseLost:
            raise
        except AragoraQError as error:
            logger.debug("progress not reported", extra={"error": str(error)})

    def _log_phase(self, phase: Phase, seconds: float) -> None:
        counts = {"agents": len(self.active), "seconds": seconds, "tokens": self._journal.tokens()}
        logger.info("debate phase done", extra={**self._log_fields(phase), **counts})

    def _log_fields(self, phase: Phase) -> dict[str, Any]:
        return {"job": self._job.id, "attempt": self._job.attempts, "phase": str(phase)}


def _reason(error: BaseException) -> str:
    """Return the error's message, with its hint if it has one."""
    hint = getattr(error, "hint", "")
    return f"{error} ({hint})" if hint else str(error)


def _cut(text: str, max_bytes: int) -> str:
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")


def _summarize(reply: StoredReply | None) -> str:
    """Return a reply as one short text."""
    match reply:
        case None:
            return "(abstains: the reply was not in the requested form)"
        case {"choice": choice}:
            return f"votes for the answer of seat {choice + 1}"
        case {"text": text} | {"points": text}:
            return _cut(str(text), MAX_SUMMARY_BYTES)
    return ""
