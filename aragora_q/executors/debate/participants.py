"""The participants of one debate: ask seats, judge and store their replies, drop seats that fail.

Used by the protocol, which decides what to ask. Everything goes through `ask`: a reply that an earlier
attempt received is read from the journal and costs nothing; other calls are made by `calls.py`. Knows
agents and the journal; must not know what a phase is for.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from aragora_q import tracing
from aragora_q.base import Job
from aragora_q.context import AttemptContext
from aragora_q.errors import (
    AgentUnavailable,
    AragoraQError,
    GateClosed,
    HoldJob,
    JobLimitReached,
    LeaseLost,
    PermanentError,
    RetryLater,
)
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.calls import AskAgent, Asked, BudgetSpent, ReadReply
from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.entries import entry_of, reason_of
from aragora_q.executors.debate.fallbacks import closed_seconds
from aragora_q.executors.debate.journal import Entry, Journal
from aragora_q.executors.debate.leads import Leads
from aragora_q.executors.debate.overloads import delay_after
from aragora_q.executors.debate.replies import Value
from aragora_q.executors.debate.requests import Agent, AgentRequest, Manner, Reply
from aragora_q.executors.debate.seeds import origin
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

MAX_SUMMARY_CHARS = 280
"""Maximum length of a reply in a progress report, and of the reason why a fallback was asked."""

AgentFault = PermanentError | RetryLater | AgentUnavailable


@dataclass(frozen=True)
class Phase:
    """A step of the debate in which seats are asked once. `round` is 0 outside the rounds."""

    name: str
    round: int = 0

    def __str__(self) -> str:
        return f"r{self.round}.{self.name}" if self.round else self.name

    @property
    def title(self) -> str:
        """The phase for people."""
        return f"round {self.round}, {self.name}" if self.round else self.name


class _Refusal(NamedTuple):
    """Why an agent of a seat does not answer a request."""

    wait_seconds: float
    """For how long its provider takes no calls; infinite: until someone acts, or it is another fault."""
    is_of_fallback: bool
    error: AragoraQError


class Participants:
    """The seats of a debate. `active` holds the numbers of those that have joined and not dropped out."""

    def __init__(
        self,
        job: Job,
        agents: Sequence[tuple[str, Iterable[str]]],
        registry: AgentRegistry,
        attempt: AttemptContext,
        journal: Journal,
        ask_agent: AskAgent,
        *,
        rounds: int,
        is_strict: bool,
        is_closing: bool,
    ) -> None:
        self.names = [name for name, _ in agents]
        """The agents by seat; the last one may be a judge's, which is not a seat."""
        self.active: list[int] = []
        self.dropped: dict[int, str] = {}
        """Where and why seats dropped out, such as `round 1, review: no such model`."""
        self.abstained: dict[int, str] = {}
        """Why the last reply of a seat was unusable."""
        self.transcript: list[dict[str, Any]] = []
        self.used: dict[int, list[Entry]] = {}
        """The replies that are used, by seat."""
        self.incomplete = ""
        """Why a reply is missing that was not asked for: `timeout`, `journal_full`, `max_tokens` or
        `max_cost`; blank if none is.
        """
        self.why_incomplete = "no time was left to ask"
        self._job = job
        self._candidates = [(name, *fallbacks) for name, fallbacks in agents]
        """The agent of each seat and its fallbacks."""
        self._rounds = rounds
        self._registry = registry
        self._attempt = attempt
        self._journal = journal
        self._ask_agent = ask_agent
        self._is_strict = is_strict
        self._is_closing = is_closing
        self._service_tier = job.payload.get("service_tier")
        self._leads = Leads()
        self._logged: set[tuple[int, str]] = set()
        self._quorum = 0
        self._step = 0
        self._phase_span: tracing.LazySpan
        """The span of the current step."""
        self._asked: set[int] = set()
        """The seats that this attempt has asked in the current step."""

    def join(self, seats: Sequence[int]) -> None:
        """Add seats to the debate. Those that join later do not raise its quorum: it could do without them."""
        if not self._quorum:
            self._quorum = max(min(2, len(seats)), (len(seats) + 1) // 2)
        self.active = sorted({*self.active, *seats})

    async def ask_all(
        self,
        phase: Phase,
        requests: Mapping[int, AgentRequest],
        labels: Mapping[int, Mapping[str, int]] = MappingProxyType({}),
        take: Callable[[int, Value], object] = lambda _seat, _value: None,
        *,
        lead_seconds: float = 0.0,
    ) -> dict[int, Value | None]:
        """Ask the seats in `requests` and return the replies of those that did not drop out, by seat.

        None means that a reply was unusable, even after one repair; `abstained` says why. `labels` maps the
        labels in each seat's request to seats. All seats finish, and `take` gets their usable replies, before
        faults are handled, so that no paid reply is lost because another seat failed. With `lead_seconds`, one
        call goes ahead of the others of its model, which follow when it has ended, or after that time.

        Raises:
            PermanentError: too few seats are left, or a budget that fails jobs has no room.
            RetryLater: providers are overloaded, or a gate is closed.
            HoldJob: a budget has no room, or a provider takes no calls until someone acts.
            AgentUnavailable: another fault that may be temporary; not on the last attempt.

        """
        with self.step(phase):
            started_at, calls_before = time.monotonic(), len(self._journal)
            dropped = await self._journal.dropped_in(self._step)
            seats = [seat for seat in requests if seat in self.active and seat not in dropped]
            self._phase_span.attributes["aragora_q.seats"] = len(seats)
            found, faults = await self._gather(phase, seats, requests, labels, lead_seconds)
            answered = {seat for seat, value in found.items() if value is not None}
            self._phase_span.attributes |= {
                "aragora_q.seats_answered": len(answered),
                "aragora_q.seats_journaled": len(answered - self._asked),
                "aragora_q.seats_failed": len(faults),
            }
            for seat, reason in dropped.items():
                if seat in self.active:  # else it was dropped when the debate took another course
                    self._drop(seat, phase, reason)
            self._record(phase, found)
            for seat, value in found.items():
                if value is not None:
                    take(seat, value)
            await self._handle_faults(phase, faults)
            if len(self._journal) > calls_before:
                self._log_phase(phase, time.monotonic() - started_at)
            return found

    async def require(self, phase: Phase, found: Mapping[int, object]) -> None:
        """Drop the active seats that are missing in `found`. Raises PermanentError if too few are left."""
        missing = {
            seat: PermanentError(f"no usable answer: {self.abstained.get(seat, 'no reply')}")
            for seat in self.active
            if seat not in found
        }
        await self._handle_faults(phase, missing)

    async def ask_one(
        self,
        phase: Phase,
        seat: int,
        request: AgentRequest,
        labels: Mapping[str, int],
        part: str = "",
    ) -> Value | None:
        """Ask one agent that is not a seat, within `step`. Raises as `ask_all`."""
        try:
            value = await self.ask(phase, seat, request, labels, part)
        except GateClosed:
            raise
        except RetryLater as error:
            delay = await delay_after({f"{phase}{part}.{seat}": error}, self._journal)
            if delay is None:
                raise PermanentError(str(error)) from error
            raise RetryLater(f"{self.names[seat]}: {error}", delay_seconds=delay) from error
        self._record(phase, {seat: value})
        return value

    def is_final(self, error: PermanentError | AgentUnavailable) -> bool:
        """Return True if the call is not made again: the fault is permanent, or no attempt is left.

        A budget that is spent is not a fault of the call: it ends the job.
        """
        if isinstance(error, BudgetSpent):
            return False
        return isinstance(error, PermanentError) or self._attempt.is_last_attempt

    @contextmanager
    def step(self, phase: Phase) -> Iterator[None]:
        """Run a phase in the body. It has a span if it makes a call."""
        self._step += 1
        self._asked.clear()
        with tracing.LazySpan(f"debate {phase}") as self._phase_span:
            yield

    async def _gather(
        self,
        phase: Phase,
        seats: Sequence[int],
        requests: Mapping[int, AgentRequest],
        labels: Mapping[int, Mapping[str, int]],
        lead_seconds: float,
    ) -> tuple[dict[int, Value | None], dict[int, BaseException]]:
        """Ask `seats` at the same time, or the first one of each model before the others; return replies and
        faults by seat.
        """
        finished: list[int] = []

        async def ask(seat: int) -> Value | None:
            if not lead_seconds:
                return await ask_now(seat)
            agent = await self._registry.agent(self.names[seat], seat, self._service_tier)
            async with self._leads.turn(agent, lead_seconds):
                return await ask_now(seat)

        async def ask_now(seat: int) -> Value | None:
            calls_before = len(self._journal)
            value = await self.ask(phase, seat, requests[seat], labels.get(seat, {}))
            finished.append(seat)
            if len(self._journal) > calls_before:
                await self._report_progress(phase, len(finished), seat, value)
            return value

        found: dict[int, Value | None] = {}
        faults: dict[int, BaseException] = {}
        outcomes = await asyncio.gather(*map(ask, seats), return_exceptions=True)
        for seat, outcome in zip(seats, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                faults[seat] = outcome
            else:
                found[seat] = outcome
        return found, faults

    async def ask(
        self,
        phase: Phase,
        seat: int,
        request: AgentRequest,
        labels: Mapping[str, int],
        part: str = "",
    ) -> Value | None:
        """Return an agent's reply to one request, from the journal if it is there; None: unusable.

        A reply that was cut by the agent's token limit is asked for once more with a larger one; an
        unusable one that was not cut, once more with the reason. If that fails, the replies so far count.
        `part` tells several requests of one seat apart. Raises as `Agent.reply`.
        """
        call = f"{phase}{part}.{seat}"
        agents = await self._agents_of(seat, call)
        tries = self._tries(call, request, labels, agents)
        place = {"phase": phase.name, "round": phase.round, "seat": seat, "step": self._step}
        if self._journal.has_seeds and all(map(origin, tries)):
            tries += await self._take_over(call, request, labels, tries, agents, place)
        while self._next_manner(tries, agents) and self._may_ask(call, tries):
            self._asked.add(seat)
            try:
                entry = await self._ask_any(agents, call, request, labels, tries, place)
            except JobLimitReached as error:
                limit = error.limit.removesuffix("_usd")  # as `ended_by` says it
                await self._journal.give_up(call, str(error), limit)
                self._miss(tries, limit, str(error))
                break
            except (PermanentError, AgentUnavailable) as error:
                if not (tries and self.is_final(error)):
                    raise
                await self._journal.give_up(call, reason_of(error))
                break
            tries.append(entry)
        return self._best(tries, seat)

    async def _agents_of(self, seat: int, call: str) -> dict[str, Agent]:
        """Return the agent of a seat, then those of its fallbacks that have replied to `call`, by name."""
        own, *fallbacks = self._candidates[seat]
        agents = {own: await self._registry.agent(own, seat, self._service_tier)}
        for name in fallbacks:
            if name in self._journal.repliers(call):
                with suppress(AragoraQError):  # its replies count, but it cannot be asked again
                    agents[name] = await self._registry.agent(name, seat, self._service_tier)
        return agents

    def _tries(
        self,
        call: str,
        request: AgentRequest,
        labels: Mapping[str, int],
        agents: Mapping[str, Agent],
    ) -> list[Entry]:
        """Return the replies to `request` that count, oldest first."""
        known = {(agent.name, agent.model, agent.settings) for agent in agents.values()}
        prompts = {_digest(agent, request, labels) for agent in agents.values()}
        return [
            entry
            for entry in self._journal.tries(call, prompts)
            if not self._is_strict or (entry["agent"], entry["model"], entry["settings"]) in known
        ]

    async def _take_over(
        self,
        call: str,
        request: AgentRequest,
        labels: Mapping[str, int],
        tries: Sequence[Entry],
        agents: Mapping[str, Agent],
        place: Mapping[str, Any],
    ) -> list[Entry]:
        """Return replies of another debate to exactly this request, by agents with exactly these settings.

        One that the limits of the other debate cut short was asked for in another way.

        A proposal may be one of another seat, unless that seat has the same agent here, too: its prompt is that
        of all seats, and it names none.
        """
        known = {
            (agent.name, agent.model, agent.settings): _digest(agent, request, labels)
            for agent in agents.values()
        }
        own, seat = self.names[place["seat"]], place["seat"]

        def matches(entry: Entry) -> bool:
            who = entry["agent"], entry["model"], entry["settings"]
            is_exact: bool = known.get(who) == entry["prompt"]
            return is_exact and entry["phase"] == place["phase"] and "clipped" not in entry

        def may_stand_in(entry: Entry) -> bool:
            if not (entry["phase"] == place["phase"] == "propose" and entry["agent"] == own):
                return False
            other = entry["seat"]
            is_seat = 0 <= other < len(self.names)
            return other != seat and not (is_seat and self.names[other] == own)

        return await self._journal.take_over(call, tries, place, matches, may_stand_in)

    async def _ask_any(
        self,
        agents: dict[str, Agent],
        call: str,
        request: AgentRequest,
        labels: Mapping[str, int],
        tries: Sequence[Entry],
        place: Mapping[str, Any],
    ) -> Entry:
        """Ask the agent that replied last, else that of the seat; if its provider takes no calls, the next.

        `agents` are those of `_agents_of`; the agent that is asked is added. If none takes calls, the error
        with the shortest wait is raised. No other fault of a fallback counts: the job would wait without it.
        """
        seat = place["seat"]
        own, last = self.names[seat], tries[-1] if tries else {}
        why: str = last.get("closed", "")
        refusals: list[_Refusal] = []
        for name in sorted(self._candidates[seat], key=lambda name: name != last.get("agent")):
            try:
                agent = agents[name] = await self._registry.agent(name, seat, self._service_tier)
                if (manner := self._next_manner(tries, agents, name)) is None:
                    continue
                at = place
                if name != own:
                    at = {**place, "closed": why}
                    self._log_fallback(seat, name, why)
                read = _reader(agent, request, labels)
                return await self._ask_agent(
                    Asked(agent, call, request, read, at, self._phase_span), manner
                )
            except AragoraQError as error:
                seconds = closed_seconds(error)
                is_passed = name != own and isinstance(
                    error, AgentFault | HoldJob | JobLimitReached
                )
                if seconds is None and not is_passed:
                    raise
                wait_seconds = math.inf if seconds is None else seconds
                refusals.append(_Refusal(wait_seconds, name != own, error))
                reason = _with_account(agents.get(name), reason_of(error))
                if name == own:
                    why = reason
                elif seconds is None:
                    logger.warning("fallback failed", extra={"agent": name, "reason": reason})
        raise min(refusals, key=lambda each: (each.wait_seconds, each.is_of_fallback)).error

    def _log_fallback(self, seat: int, name: str, why: str) -> None:
        """Log once in an attempt that a fallback is asked instead of the agent of a seat."""
        if (seat, name) not in self._logged:
            self._logged.add((seat, name))
            job = {"job": self._job.id, "attempt": self._job.attempts}
            names = {"agent": self.names[seat], "fallback": name}
            logger.warning("fallback asked", extra={**job, **names, "reason": why})

    def _may_ask(self, call: str, tries: Sequence[Entry]) -> bool:
        """Return False if a call is not made, or not made again, whatever its replies so far are."""
        given_up = self._journal.given_up(call)
        if given_up and (tries or given_up["limit"]):
            self._miss(tries, given_up["limit"], given_up["why"])
            return False
        if self._journal.is_full:
            self.incomplete = "journal_full"
            self.why_incomplete = "no room in its journal was left to ask"
        elif self._is_closing:
            self.incomplete = "timeout"
        else:
            return True
        return False

    def _miss(self, tries: Sequence[Entry], limit: str | None, why: str) -> None:
        """Remember that a reply is missing because of the job's `limit`, if it is."""
        if limit and not tries:
            self.incomplete, self.why_incomplete = limit, why

    def _next_manner(
        self, tries: Sequence[Entry], agents: Mapping[str, Agent], name: str = ""
    ) -> Manner | None:
        """Return how to ask the agent called `name` next, else the one that replied last, else the first.

        None if the last reply is final.
        """
        first = next(iter(agents.values()))
        agent = agents.get(name or (tries[-1]["agent"] if tries else ""), first)
        is_prompted = self._ignores_schemas(agent)
        if not tries:
            return Manner(prompted=is_prompted)
        last = tries[-1]
        if "refused" in last or last.get("clipped"):
            return None
        can_be_larger = agent.larger_output_tokens > agent.max_output_tokens
        if last.get("limited") and can_be_larger and not any(map(_is_larger, tries)):
            return Manner(prompted=is_prompted, larger=True)
        was_repaired = any(entry.get("repair") for entry in tries)
        if last["value"] is None and not (was_repaired or last.get("limited")):
            is_larger = bool(last.get("larger"))
            return Manner(prompted=is_prompted, larger=is_larger, repair=last["unusable"])
        return None

    def _ignores_schemas(self, agent: Agent) -> bool:
        """Return True if the agent replied with prose where JSON was asked for, in an earlier phase."""
        step = self._journal.first_prose(agent.name, agent.settings)
        return step is not None and step < self._step

    def _best(self, tries: Sequence[Entry], seat: int) -> Value | None:
        """Return the last usable reply; raise PermanentError if the last one was refused."""
        if tries and "refused" in tries[-1]:
            raise PermanentError(tries[-1]["refused"])
        for entry in reversed(tries):
            if entry["value"] is not None:
                self.used.setdefault(seat, []).append(entry)
                self.abstained.pop(seat, None)
                value: Value = entry["value"]
                return value
        self.abstained[seat] = tries[-1]["unusable"] if tries else self.why_incomplete
        return None

    async def _handle_faults(self, phase: Phase, faults: Mapping[int, BaseException]) -> None:
        """Drop the seats with a permanent fault, or raise if the attempt must end.

        Overloads end the attempt, uncharged, as long as they may last. Other transient faults end it so
        that it is retried; on the last attempt, their seats are dropped, too, if enough others are left.
        """
        for error in faults.values():
            if not isinstance(error, AgentFault) or isinstance(error, BudgetSpent):
                raise error
        closed = [error for error in faults.values() if isinstance(error, GateClosed)]
        if closed:  # waiting for a gate is not limited here
            raise max(closed, key=lambda error: error.delay_seconds)
        overloads = {
            f"{phase}.{seat}": error
            for seat, error in faults.items()
            if isinstance(error, RetryLater)
        }
        delay = await delay_after(overloads, self._journal)
        if delay is not None:
            raise RetryLater(self._reasons(faults), delay_seconds=delay)
        is_transient = any(isinstance(error, AgentUnavailable) for error in faults.values())
        if is_transient and not self._attempt.is_last_attempt:
            raise AgentUnavailable(self._reasons(faults))
        remaining = len(self.active) - len(faults)
        if remaining < self._quorum and faults:
            reasons = "; ".join(filter(None, [self._reasons(faults), *self.dropouts]))
            raise PermanentError(
                f"{remaining} of {len(self.active) + len(self.dropped)} agents are left, but a debate needs "
                f"{self._quorum}: {reasons}"
            )
        for seat, error in faults.items():
            reason = reason_of(error)
            await self._journal.drop(seat, str(phase), self._step, reason)
            self._drop(seat, phase, reason)

    def _reasons(self, faults: Mapping[int, BaseException]) -> str:
        return "; ".join(
            f"{self.names[seat]}: {reason_of(error)}" for seat, error in faults.items()
        )

    @property
    def dropouts(self) -> list[str]:
        """Which seats dropped out and why, as texts."""
        texts = []
        for seat, dropped in self.dropped.items():
            where, _, why = dropped.partition(": ")
            texts.append(f"{self.names[seat]} dropped out ({where}): {why}")
        return texts

    def _drop(self, seat: int, phase: Phase, reason: str) -> None:
        self.active.remove(seat)
        silent = {"phase": phase.name, "round": phase.round, "seat": seat, "said": None}
        self.transcript = [  # a resumed debate does not ask the seat in this phase
            row for row in self.transcript if not silent.items() <= row.items()
        ]
        self.dropped[seat] = f"{phase.title}: {reason}"
        logger.warning("agent dropped out", extra={**self._log_fields(phase), "reason": reason})

    def _record(self, phase: Phase, found: Mapping[int, Value | None]) -> None:
        self.transcript += [
            {
                "phase": phase.name,
                "round": phase.round,
                "seat": seat,
                "agent": self.names[seat],
                "said": value,
            }
            for seat, value in found.items()
        ]

    async def _report_progress(
        self, phase: Phase, finished: int, seat: int, value: Value | None
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
            "cost_usd": self._journal.cost_usd(),
            "quote_usd": self._journal.quote_usd,
            "unpriced_calls": self._journal.unpriced_calls(),
            "agent": self.names[seat],
            "seat": seat,
            "said": _summarize(value),
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


def _reader(agent: Agent, request: AgentRequest, labels: Mapping[str, int]) -> ReadReply:
    prompt = _digest(agent, request, labels)

    def read(manner: Manner, reply: Reply) -> Entry:
        return {**entry_of(agent, request, manner, reply, labels), "prompt": prompt}

    return read


def _digest(agent: Agent, request: AgentRequest, labels: Mapping[str, int]) -> str:
    """Return a digest of the exact prompt of `request`, and of the seats that its `labels` stand for."""
    return stable_hash(agent.digest(request), *sorted(labels.items()))


def _with_account(agent: Agent | None, why: str) -> str:
    """Return `why` with the account of `agent`; None: it could not be built."""
    if agent is not None and not why.startswith(agent.account):
        why = f"{agent.account}: {why}"
    return why[:MAX_SUMMARY_CHARS]


def _is_larger(entry: Entry) -> bool:
    return bool(entry.get("larger"))


def _summarize(value: Value | None) -> str:
    """Return a reply as one short text."""
    match value:
        case None:
            return "(abstains: the reply was not usable)"
        case {"choice": choice}:
            return f"votes for the answer of seat {choice + 1}"
        case {"answer": text} | {"text": text} | {"points": text}:
            return str(text)[:MAX_SUMMARY_CHARS]
    return ""
