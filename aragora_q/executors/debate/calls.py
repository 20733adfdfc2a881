"""The calls of one debate: each is granted, sent, written to the journal and settled, here and nowhere else.

Used by the participants. A call is one request to a provider; asking a seat once may take several, if the
provider rejects how it was asked. Knows agents, the journal and the hooks of the attempt; must not know
what a phase is for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from aragora_q import ledger, tracing
from aragora_q.context import AttemptContext, Call
from aragora_q.errors import (
    AgentUnavailable,
    AragoraQError,
    GateClosed,
    PermanentError,
    RetryLater,
    WorkerUnable,
)
from aragora_q.executors.debate.entries import fault_entry_of
from aragora_q.executors.debate.journal import Entry, Journal
from aragora_q.executors.debate.limits import Limits
from aragora_q.executors.debate.requests import PLAIN, Agent, AgentRequest, CallFault, Manner, Reply
from aragora_q.retry import describe

T = TypeVar("T")

ReadReply = Callable[[Manner, Reply], Entry]
"""Makes a reply an entry of the journal."""


class BudgetSpent(PermanentError):
    """A budget that fails jobs has no room: the job fails, whatever its other seats could do."""


class Asked(NamedTuple):
    """A request to an agent, which may take several calls."""

    agent: Agent
    name: str
    """Of its entry in the journal."""
    request: AgentRequest
    read: ReadReply
    place: Mapping[str, Any]
    """Where in the debate it belongs, and, of a fallback, why it is asked (`closed`)."""
    phase_span: tracing.LazySpan
    """The parent of the spans of its calls."""


AskAgent = Callable[[Asked, Manner], Awaitable[Entry]]
"""Asks an agent, and returns the entry of its reply, as `CallBook.ask`."""


class CallBook:
    """Sends the calls of one attempt, and books them.

    `max_tokens` and `max_cost_usd` are the job's limits; `least_usd` is what it needs at least (None: unknown).
    """

    def __init__(
        self,
        attempt: AttemptContext,
        journal: Journal,
        limits: Limits,
        *,
        max_tokens: int | None = None,
        max_cost_usd: float | None = None,
        least_usd: float | None = None,
    ) -> None:
        self._attempt = attempt
        self._journal = journal
        self._limits = limits
        self._max_tokens = max_tokens
        self._max_cost_usd = max_cost_usd
        self._least_usd = least_usd
        self._begins = asyncio.Lock()
        self._has_begun = False
        self._must_wait: GateClosed | None = None
        """Why the turn of the first call did not come: the attempt ends, so others do not wait for theirs."""

    async def ask(self, asked: Asked, manner: Manner) -> Entry:
        """Ask an agent, and return the entry of its reply, which is in the journal then.

        Raises:
            LeaseLost: the reply is settled, but not kept.
            BudgetSpent: a budget that fails jobs has no room.
            Others as `AttemptContext.acquire`, and the errors of `CallFault`.

        """
        seat, agent = asked.place["seat"], asked.agent.name
        clip = self._limits.take(asked.name, seat, agent, asked.request, manner)
        try:
            return await in_any_way(partial(self._send, asked, clip), manner)
        finally:
            self._limits.end(asked.name)

    async def settle_again(self) -> None:
        """Settle the recent calls in the journal: whether earlier attempts did is not known."""
        await ledger.settle_again(
            self._attempt,
            list(self._journal.ledger()),
            self._journal.now(),
            job_max_tokens=self._max_tokens,
            job_max_cost_usd=self._max_cost_usd,
        )

    async def _send(self, asked: Asked, clip: int | None, manner: Manner) -> Entry:
        """Send one call; `clip` is the output limit that the job's own limits leave, None: the agent's."""
        agent = asked.agent
        limit = agent.larger_output_tokens if manner.larger else agent.max_output_tokens
        if clip is not None and clip >= limit:
            clip = None
        call = self._call(asked, manner, clip or limit)
        attributes = {
            "aragora_q.agent": agent.name,
            "aragora_q.seat": asked.place["seat"],
            "aragora_q.call": call.id,
            "aragora_q.fallback": call.is_fallback,
        }
        with asked.phase_span.span(f"call {agent.name}", attributes=attributes) as span:
            entry, fault = await self._make(call, asked, manner, clip)
            span.set({"aragora_q.outcome": entry["outcome"]})
            if entry["usd"] is not None:
                span.set({"aragora_q.cost_usd": entry["usd"]})
            if fault is not None:
                span.fail(type(fault.error).__qualname__)
        if fault is not None:
            raise fault
        return entry

    async def _make(
        self, call: Call, asked: Asked, manner: Manner, clip: int | None
    ) -> tuple[Entry, CallFault | None]:
        """Make a call once it is granted, journal and settle it; return what `_request` returned."""
        await self._acquire(call)
        started_at = time.monotonic()
        entry, fault = await _request(asked, manner, clip)
        if fault is not None and isinstance(fault.error, WorkerUnable):
            await ledger.settle(self._attempt, call, ledger.NOT_SENT)
            return entry, fault
        entry |= {
            **asked.place,
            "id": call.id,
            "max_in": call.max_input_tokens,
            "seconds": round(time.monotonic() - started_at, 3),
            "at": round(self._journal.now(), 3),
        }
        settlement = ledger.settlement_of(entry)
        try:
            if fault is None:
                entry = await self._journal.put(asked.name, entry)
            else:
                settlement = replace(settlement, retry_after_seconds=fault.retry_after_seconds)
                if fault.outcome != "no_capacity":  # else long waits would fill the journal
                    await self._journal.put_fault(asked.name, entry)
        finally:
            await ledger.settle(self._attempt, call, settlement)
        return entry, fault

    def _call(self, asked: Asked, manner: Manner, max_output_tokens: int) -> Call:
        agent = asked.agent
        max_input_tokens = agent.max_input_tokens(asked.request, manner)
        worst_usd = None
        if agent.price is not None:
            worst_usd = agent.price.worst_usd(max_input_tokens, max_output_tokens)
        return Call(
            id=self._attempt.call_id(self._journal.next_request(asked.name)),
            agent=agent.name,
            provider=agent.provider,
            account=agent.account,
            model=agent.model,
            max_input_tokens=max_input_tokens,
            max_output_tokens=max_output_tokens,
            max_cost_usd=worst_usd,
            timeout_seconds=agent.call_timeout_seconds,
            job_max_tokens=self._max_tokens,
            job_max_cost_usd=self._max_cost_usd,
            least_usd=None if self._has_entries() else self._least_usd,
            is_fallback="closed" in asked.place,
        )

    def _has_entries(self) -> bool:
        return any(self._journal.ledger()) or any(self._journal.entries())

    async def _acquire(self, call: Call) -> None:
        try:
            # Other seats must not reserve some of what the first call asks for.
            async with self._begins:
                if not self._has_begun and not any(self._journal.ledger()):
                    await self._begin(call)
                    return
            await ledger.acquire(self._attempt, call)
        except PermanentError as error:
            raise BudgetSpent(str(error), hint=error.hint) from error

    async def _begin(self, call: Call) -> None:
        """Acquire the first call, which asks for room for the whole debate."""
        if self._must_wait is not None:
            raise self._must_wait
        try:
            first = replace(call, expected_usd=self._journal.quote_usd)
            await ledger.acquire(self._attempt, first)
        except GateClosed as error:
            if not error.by:  # else its account is closed, and that of another agent may be open
                self._must_wait = error
            raise
        self._has_begun = True


async def in_any_way(send: Callable[[Manner], Awaitable[T]], manner: Manner) -> T:
    """Send a request, again if its provider may take it in another way; raise the error of the last fault."""
    while True:
        try:
            return await send(manner)
        except CallFault as fault:
            if fault.other_way is None:
                raise fault.error from fault
            manner = replace(manner, other_way=fault.other_way)


async def ask(agent: Agent, request: AgentRequest, manner: Manner = PLAIN) -> Reply:
    """Ask an agent outside a debate: nothing is booked. Raises the errors of `CallFault`."""

    async def send(manner: Manner) -> Reply:
        return await agent.reply(request, manner)

    return await in_any_way(send, manner)


async def _request(
    asked: Asked, manner: Manner, clip: int | None
) -> tuple[Entry, CallFault | None]:
    """Send a request, and return the entry of its reply or its fault, and the fault."""
    agent = asked.agent
    try:
        reply = await agent.reply(asked.request, manner, clip)
    except Exception as error:  # noqa: BLE001 - whatever it is: of this seat, not of the debate
        fault = _fault_of(error, agent)
        return fault_entry_of(agent, fault), fault
    try:
        entry = asked.read(manner, reply)
    except Exception as error:  # noqa: BLE001 - it was paid for, whatever is wrong with it
        fault = _unreadable(reply, error)
        return fault_entry_of(agent, fault), fault
    return (entry if clip is None or not reply.is_cut else {**entry, "clipped": True}), None


def _fault_of(error: Exception, agent: Agent) -> CallFault:
    """Return the fault of an error that an agent raised."""
    if isinstance(error, CallFault):
        return error
    cost_usd = 0.0 if agent.price is not None and agent.price.is_free else None
    match error:
        case PermanentError():
            return CallFault(error, "rejected", cost_usd=0.0)
        case RetryLater():
            delay = error.delay_seconds or None
            return CallFault(error, "rate_limited", cost_usd=0.0, retry_after_seconds=delay)
        case AragoraQError():
            return CallFault(error, "unavailable", cost_usd=cost_usd)
    return CallFault(_unusable(error), "unavailable", cost_usd=cost_usd)


def _unreadable(reply: Reply, error: Exception) -> CallFault:
    return CallFault(
        _unusable(error),
        "unusable",
        model=reply.model,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        cached_tokens=reply.cached_tokens,
        cost_usd=reply.cost_usd,
    )


def _unusable(error: Exception) -> AgentUnavailable:
    unusable = AgentUnavailable(f"unusable reply: {describe(error)}")
    unusable.__cause__ = error
    return unusable
