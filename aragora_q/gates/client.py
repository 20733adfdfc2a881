"""The gates as one process uses them: ask to send a call, book it, keep the permits of calls under way.

Implements `contracts.Gates`. Nothing here decides: the scripts do, on the server's clock. This module keeps
what their answers say of accounts, so that workers do not start jobs that would only be sent back.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from aragora_q.base import Job
from aragora_q.config import QueueConfig
from aragora_q.context import Call, Settlement, call_prefix
from aragora_q.contracts import (
    HOLD_CLOSED_SECONDS,
    RENEWALS_PER_LEASE,
    AskedAgent,
    BudgetRoom,
    Closed,
    GateAnswer,
    Granted,
    OverBudget,
    PermitRenewer,
    WaitTurn,
)
from aragora_q.errors import SERVER_ERRORS, PermanentError
from aragora_q.formats import dollars
from aragora_q.gates.accounts import CLOSED_FOREVER, REASONS, read_accounts
from aragora_q.gates.call_history import learn, read_history
from aragora_q.gates.policy import declaration, holder_name
from aragora_q.history import CallHistory
from aragora_q.job import SERVICE_TIERS
from aragora_q.money import LITTLE_SHARE, MICROS, cost_micros
from aragora_q.redis.connection import Connection
from aragora_q.redis.options import COMMAND_TIMEOUT_SECONDS
from aragora_q.redis.scripts import batched

MAX_RETRY_AFTER_SECONDS = 30 * 86400.0
"""Longest time that a provider may name."""

NO_CAPACITY = b"no_capacity"
"""Why a gate of the flex tier is closed whose calls wait, without fallbacks."""

WAKE = 3
"""How many calls in line ask when one is settled in their process."""

MAX_KNOWN_AGENTS = 1_000

HISTORY_REFRESH_SECONDS = 30.0
"""How long a process uses what it has read of the history of calls."""

MIN_DECLARED_MS = 30_000
"""How long a declaration counts at least: a worker repeats it every few seconds, however short its lease."""


class _UnderWay(NamedTuple):
    """A call that may be under way: its account, and when its time is over, on the monotonic clock."""

    account: str
    ends_at: float


class RedisGates:
    """The gates of a prefix, over one connection, which `close` closes."""

    def __init__(self, connection: Connection, config: QueueConfig, worker_id: str) -> None:
        self._connection = connection
        self._config = config
        self._worker_id = f"{config.queue}/{worker_id}"  # the id is unique in its queue
        self._lease_ms = config.claim_idle_ms
        self.reconfigure(config)
        self._under_way: dict[str, _UnderWay] = {}
        """Calls that were granted and are not settled, by id; read by the keeper's thread."""
        self._accounts: dict[AskedAgent, str] = {}
        """The account of each agent, as of its latest call."""
        self._closed_until: dict[str, float] = {}
        """Of accounts that take no calls, as of the latest answer: until when, on the monotonic clock."""
        self._waited_out = set[str]()
        """Those of them whose flex tier has no capacity."""
        self._has_declared = False
        self._history = CallHistory()
        self._read_history_at = -math.inf
        self._reads_history = asyncio.Lock()
        self._line: dict[str, dict[str, asyncio.Event]] = {}
        """Calls that wait for their turn, by account and id, in the order in which they first asked."""
        self._probed: set[str] = set()
        """Accounts of which calls wait for the outcome of a probe."""

    async def acquire(self, job: Job, call: Call) -> GateAnswer:
        self._note_agent(job, call)
        job_usd, job_tokens = _job_limits(call)
        word, *details = await self._connection.run(
            "gate_acquire",
            digest=self._digest,
            **self._place(job, call),
            call_id=self._id(call),
            model=call.model,
            job=_life(job),
            usd=_micros(call.max_cost_usd),
            tokens=call.max_input_tokens + call.max_output_tokens,
            timeout_ms=round(call.timeout_seconds * 1000),
            lease_ms=self._lease_ms,
            job_usd=job_usd,
            job_tokens=job_tokens,
            least_usd=cost_micros(call.least_usd or 0.0),
            expected_usd=cost_micros(call.expected_usd or 0.0),
        )
        if word == b"undeclared":
            await self._declare(self._declaration)
            return await self.acquire(job, call)
        if word == b"used":
            raise PermanentError(
                f"call {call.id} was settled before: another call needs another id"
            )
        if word == b"wait":
            return self._waiting(call, *details)
        self._leave_line(call)
        if word == b"granted":
            ends_at = time.monotonic() + call.timeout_seconds
            self._under_way[self._id(call)] = _UnderWay(call.account, ends_at)
            self._closed_until.pop(call.account, None)
            return Granted()
        if word == b"closed":
            closed = _closed(call.account, *details)
            self._note_closed(call.account, closed.seconds, is_waited_out=closed.is_waited_out)
            return closed
        return _over_budget(call, *details)

    async def ask(self, job: Job, call: Call) -> GateAnswer:
        word, *details = await self._connection.run(
            "gate_ask",
            digest=self._digest,
            **self._place(job, call),
            usd=_micros(call.max_cost_usd),
        )
        if word == b"undeclared":
            await self._declare(self._declaration)
            return await self.ask(job, call)
        if word == b"closed":
            return _closed(call.account, *details)
        return _over_budget(call, *details) if word == b"over" else Granted()

    async def settle(self, job: Job, call: Call, settlement: Settlement) -> bool:
        self._leave_line(call)  # even if Redis does not answer
        fields = (
            self._id(call),
            call.account,
            call.provider,
            call.agent,
            call.model,
            self._config.queue,
            job.tenant or "",
            job.group or "",
            _life(job),
            settlement.outcome,
            _micros(settlement.cost_usd),
            settlement.input_tokens,
            settlement.output_tokens,
            settlement.cached_tokens,
            _named_ms(settlement.retry_after_seconds),
            *_job_limits(call),
            _micros(call.max_cost_usd),
            call.max_input_tokens + call.max_output_tokens,
            "1" if call.is_reported else "",
        )
        [result] = await self._connection.run("gate_settle", [(None, fields)])
        self._under_way.pop(self._id(call), None)
        self._wake(call.account)
        return bool(result != b"repeated")

    def end(self, job: Job) -> None:
        if not self._under_way:
            return
        ids = f"{self._config.queue}/{call_prefix(job)}"
        for call_id in list(self._under_way):  # a copy: the keeper's thread changes it, too
            if call_id.startswith(ids):
                self._under_way.pop(call_id, None)

    async def wait(self, call: Call, seconds: float) -> None:
        is_due = asyncio.Event()
        self._line.setdefault(call.account, {})[call.id] = is_due
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await is_due.wait()

    def _leave_line(self, call: Call) -> None:
        line = self._line.get(call.account, {})
        line.pop(call.id, None)
        if not line:
            self._line.pop(call.account, None)

    def _wake(self, account: str) -> None:
        """Wake the calls that have waited longest; if they waited for a probe, all.

        More than one: calls settled elsewhere may have left places that only these may take.
        """
        count = math.inf if account in self._probed else WAKE
        self._probed.discard(account)
        for event in self._line.get(account, {}).values():
            if count and not event.is_set():
                event.set()
                count -= 1

    def closed_agents(self) -> Mapping[AskedAgent, float]:
        if not self._closed_until:
            return {}
        now = time.monotonic()
        closed = {}
        for agent in self._accounts:
            seconds = min(map(self._opens_at, (agent, *self._fallbacks_of(agent)))) - now
            is_waited_out = self._accounts[agent] in self._waited_out
            if seconds > 0 and (is_waited_out or seconds <= HOLD_CLOSED_SECONDS):
                closed[agent] = seconds
        return closed

    def _fallbacks_of(self, agent: AskedAgent) -> list[AskedAgent]:
        if self._accounts[agent] in self._waited_out:
            return []
        settings = self._config.agents.get(agent.name)
        return [agent._replace(name=name) for name in settings.fallback] if settings else []

    def _opens_at(self, agent: AskedAgent) -> float:
        """Return until when the account of an agent takes no calls, monotonic; 0: it may take some."""
        return self._closed_until.get(self._accounts.get(agent, ""), 0.0)

    async def refresh(self) -> None:
        if self._declaration or self._has_declared or self._accounts:  # also to book overdue calls
            await self._declare(self._declaration)
        for account in await read_accounts(self._connection, set(self._accounts.values())):
            self._closed_until.pop(account.name, None)
            if account.is_closed:
                is_waited_out = account.closed_by == NO_CAPACITY.decode()
                self._note_closed(account.name, account.seconds, is_waited_out=is_waited_out)

    async def budget_rooms(self, budgets: Sequence[str]) -> list[BudgetRoom]:
        rooms: list[BudgetRoom] = []
        for batch in batched(budgets):
            replies = await self._connection.run("gate_room", [(None, (each,)) for each in batch])
            rooms += [
                BudgetRoom(limit / MICROS, spent / MICROS, reserved / MICROS, turns=turns_ms >= 0)
                if limit >= 0
                else BudgetRoom(None)
                for limit, spent, reserved, turns_ms in replies
            ]
        return rooms

    async def free_calls(self, accounts: Sequence[str]) -> list[int | None]:
        return [each.free_calls for each in await read_accounts(self._connection, accounts)]

    async def call_history(self) -> CallHistory:
        async with self._reads_history:  # debates that begin at the same time wait for one read
            now = time.monotonic()
            if now - self._read_history_at >= HISTORY_REFRESH_SECONDS:
                self._read_history_at = now  # if it fails, the next debates do not wait for it
                self._history = await read_history(self._connection)
        return self._history

    async def learn(self, debate: CallHistory) -> None:
        await learn(self._connection, debate)

    def reconfigure(self, config: QueueConfig) -> None:
        self._declaration = declaration(config)
        sha1 = hashlib.sha1(self._declaration, usedforsecurity=False)
        self._digest = sha1.hexdigest() if self._declaration else ""

    def permit_renewer(self) -> PermitRenewer:
        timeout_seconds = min(COMMAND_TIMEOUT_SECONDS, self._lease_ms / 1000 / RENEWALS_PER_LEASE)
        connection = self._connection.for_other_thread(timeout_seconds=timeout_seconds)
        return RedisPermitRenewer(connection, self._under_way, self._lease_ms)

    async def close(self) -> None:
        if self._has_declared:
            with suppress(*SERVER_ERRORS):  # then the declaration ends by itself
                await self._declare(b"")
            self._has_declared = False
        await self._connection.close()

    async def _declare(self, text: bytes) -> None:
        await self._connection.run(
            "gate_declare",
            worker_id=self._worker_id,
            declaration=text,
            ttl_ms=max(3 * self._lease_ms, MIN_DECLARED_MS),
        )
        self._has_declared = bool(text)

    def _place(self, job: Job, call: Call) -> dict[str, Any]:
        """Return what decides which account and which budgets a call belongs to."""
        return {
            "account": call.account,
            "provider": call.provider,
            "agent": call.agent,
            "queue": self._config.queue,
            "tenant": job.tenant or "",
            "group": job.group or "",
        }

    def _id(self, call: Call) -> str:
        return f"{self._config.queue}/{call.id}"

    def _note_agent(self, job: Job, call: Call) -> None:
        if not call.agent:
            return
        if len(self._accounts) >= MAX_KNOWN_AGENTS:
            self._accounts.clear()
        tier = job.payload.get("service_tier")
        asked = AskedAgent(call.agent, tier if tier in SERVICE_TIERS else "")
        self._accounts[asked] = call.account

    def _waiting(self, call: Call, ms: int, why: bytes) -> WaitTurn:
        is_closed = why == b"probe"
        if why in (b"probe", b"capacity"):
            self._probed.add(call.account)
        reason = REASONS.get(why.decode(), f"budget {why.decode()} is reserved by other calls")
        return WaitTurn(ms / 1000, f"{call.account}: {reason}", is_closed)

    def _note_closed(self, account: str, seconds: float | None, *, is_waited_out: bool) -> None:
        (self._waited_out.add if is_waited_out else self._waited_out.discard)(account)
        self._closed_until[account] = time.monotonic() + (math.inf if seconds is None else seconds)


class RedisPermitRenewer:
    """Renews permits over a connection of the lease keeper's thread."""

    def __init__(
        self, connection: Connection, under_way: dict[str, _UnderWay], lease_ms: int
    ) -> None:
        self._connection = connection
        self._under_way = under_way
        self._lease_ms = lease_ms

    async def renew(self) -> None:
        """As `PermitRenewer.renew`. Sends nothing if no call is under way."""
        now = time.monotonic()
        calls = []
        for call_id, call in self._under_way.copy().items():
            if call.ends_at > now:
                calls.append((call_id, call.account))
            else:  # never settled
                self._under_way.pop(call_id, None)
        for batch in batched(calls):
            await self._connection.run(
                "gate_renew", [(None, call) for call in batch], lease_ms=self._lease_ms
            )

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


def _life(job: Job) -> str:
    """Return the name of a job among all jobs that have had its id."""
    return job.id if job.created_at is None else f"{job.id}/{round(job.created_at * 1000)}"


def _job_limits(call: Call) -> tuple[int | str, int | str]:
    tokens = call.job_max_tokens
    return _micros(call.job_max_cost_usd), "" if tokens is None else tokens


def _micros(usd: float | None) -> int | str:
    """Return an amount as scripts read it; empty: unknown."""
    return "" if usd is None else cost_micros(usd)


def _named_ms(seconds: float | None) -> int | str:
    """Return how long a provider asked to wait, in ms; empty if it named no time, or none that can be."""
    if seconds is None or not seconds >= 0:  # NaN is not
        return ""
    return round(min(seconds, MAX_RETRY_AFTER_SECONDS) * 1000)


def _closed(account: str, ms: int, why: bytes) -> Closed:
    reason = REASONS.get(why.decode(), why.decode())
    seconds = None if ms == CLOSED_FOREVER else ms / 1000
    return Closed(seconds, f"{account}: {reason}", is_waited_out=why == NO_CAPACITY)


def _over_budget(
    call: Call,
    budget: bytes,
    on_full: bytes,
    why: bytes,
    limit: int,
    spent: int,
    reserved: int,
    needed: int,
    needed_by_job: int,
) -> OverBudget:
    name, is_of_job = budget.decode(), on_full == b"job"
    if is_of_job and name == "max_tokens":
        text = f"max_tokens is {limit}, used {spent}, reserved {reserved}, and a call may need {needed}"
    elif why == b"unpriced":
        text = f"{name}: a limit in US dollars, but no price is known for {call.model:.100}: add it to [prices]"
    elif why == b"never":
        most, least, more = (dollars(n / MICROS) for n in (limit, needed_by_job, needed))
        needs = (
            f"the job needs at least {least}"
            if needed_by_job > needed
            else f"a call may cost {more}"
        )
        text = f"{name}: the limit is {most}, and {needs}"
    else:
        most, gone, kept, more = (dollars(n / MICROS) for n in (limit, spent, reserved, needed))
        needs = (
            f"the job needs about {dollars(needed_by_job / MICROS)}"
            if needed_by_job > needed
            else f"a call may cost {more}"
        )
        text = f"{name}: {gone} of {most} spent, {kept} reserved, and {needs}"
    return OverBudget(
        budget=holder_name(name),
        on_full=on_full.decode(),  # type: ignore[arg-type]
        why=text if is_of_job else f"budget {text}",
        can_ever_fit=why == b"full",
        usd=_needed(limit, needed, needed_by_job) / MICROS,
    )


def _needed(limit: int, by_call: int, by_job: int) -> int:
    """Return what has to be left for a job to go on: at most what is left while little is used."""
    return max(by_call, min(by_job, math.floor((1 - LITTLE_SHARE) * limit)))
