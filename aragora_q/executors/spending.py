"""The money of a program: what it reports on fd 3 is booked, and the gates say whether it may go on.

Used by `command.py`. A report is booked once, also if the worker ends in between: `ledger.py` keeps it. Must
not know processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aragora_q.context import (
    MAX_CALL_TOKENS,
    MAX_CALL_USD,
    AttemptContext,
    Call,
    Settlement,
    new_call,
)
from aragora_q.errors import GateClosed, HoldJob, LeaseLost, PermanentError, validation_rule
from aragora_q.ledger import CallLedger
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

BOOK_SECONDS = 0.2
"""Pause between two bookings of a program."""

MAX_SEPARATE = 20
"""Reports that one booking counts as calls; of more, those to the same account and model count as one."""

MAX_WAITING = 1_000
"""Reports that wait to be booked. Then fd 3 is not read: a program that writes more has to wait."""

MAX_PAYEES = 100
"""Accounts and models of one attempt. What goes to others is booked under OTHER, without cooldowns."""

FINISH_SECONDS = 1.0
"""How long the end of a stopped program waits until everything is booked."""

MAX_COOLDOWN_SECONDS = 30 * 86_400

_Usd = Annotated[float, Field(ge=0, le=MAX_CALL_USD, allow_inf_nan=False)]
_Tokens = Annotated[int, Field(ge=0, le=MAX_CALL_TOKENS)]
_Seconds = Annotated[float, Field(ge=0, le=MAX_COOLDOWN_SECONDS, allow_inf_nan=False)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    provider: str
    account: str | None = None


class _Spent(_Message):
    usd: _Usd | None
    model: str = ""
    agent: str = ""
    input_tokens: _Tokens = 0
    output_tokens: _Tokens = 0
    cached_tokens: _Tokens = 0


class _Cooldown(_Message):
    seconds: _Seconds | None = None
    why: Literal["rate_limited", "overloaded", "credit_exhausted"] = "rate_limited"


class Payee(NamedTuple):
    """Who gets the money, and for what."""

    provider: str
    account: str
    model: str = ""
    agent: str = ""


OTHER = Payee("other", "other")


class Report(NamedTuple):
    """What a program reported of one call."""

    payee: Payee
    settlement: Settlement


def read_spent(fields: Mapping[str, Any]) -> Report:
    """Return what a program paid. Raises ValueError, which says what is wrong with the message."""
    spent = _read(_Spent, fields)
    payee = Payee(spent.provider, _account(spent), spent.model, spent.agent)
    settlement = Settlement(
        "ok", spent.input_tokens, spent.output_tokens, spent.cached_tokens, cost_usd=spent.usd
    )
    return _checked(Report(payee, settlement))


def read_cooldown(fields: Mapping[str, Any]) -> Report:
    """Return how long an account takes no calls, and why. Raises ValueError as `read_spent`."""
    cooldown = _read(_Cooldown, fields)
    payee = Payee(cooldown.provider, _account(cooldown))
    settlement = Settlement(cooldown.why, cost_usd=0.0, retry_after_seconds=cooldown.seconds)
    return _checked(Report(payee, settlement))


class Spending:
    """What the program of one attempt reports. `book` and `ask` run as tasks while the program runs."""

    def __init__(self, attempt: AttemptContext, started_at: float | None) -> None:
        self._attempt = attempt
        self._ledger = CallLedger(attempt, started_at)
        self._reports = asyncio.Queue[Report | None]()
        self._unbooked: list[Report] = []
        self._payees: set[Payee] = set()
        self._calls = 0
        self._largest_usd = 0.0
        """The most that one call took, as far as it was reported: what the job needs to go on."""
        self._to_ask: dict[Payee, Call] = {}
        self._news, self._has_room, self._ended = (asyncio.Event() for _ in range(3))
        self._is_booked = False
        self.refusal: GateClosed | HoldJob | PermanentError | None = None
        """Why the gates do not let the job go on, if they do not."""

    async def resume(self, checkpoints: Mapping[str, Any]) -> None:
        """Book what earlier attempts may not have booked, and ask whether the job may go on.

        Raises:
            GateClosed, HoldJob, PermanentError: as `AttemptContext.check`.
        """
        calls = await self._ledger.open(checkpoints)
        self._largest_usd = max((call.max_cost_usd or 0.0 for call in calls), default=0.0)
        for call in {_asked(call): call for call in calls}.values():
            await self._check(call)

    async def add(self, report: Report) -> None:
        """Book a report soon. Waits while too many do."""
        if self._reports.qsize() >= MAX_WAITING:
            self._has_room.clear()
            await self._has_room.wait()
        self._largest_usd = max(self._largest_usd, report.settlement.cost_usd or 0.0)
        self._reports.put_nowait(report)

    def end(self) -> None:
        """Expect no more reports: the program has ended, or closed fd 3."""
        if not self._ended.is_set():
            self._ended.set()
            self._reports.put_nowait(None)

    async def book(self) -> None:
        """Book all reports, the first one at once, until `end`."""
        while not self._ended.is_set() or not self._reports.empty():
            await self._take()
            await self._book()
            with suppress(TimeoutError):
                async with asyncio.timeout(BOOK_SECONDS):
                    await self._ended.wait()
        self._is_booked = True
        self._news.set()

    async def ask(self) -> None:
        """After each booking ask the gates, one question at a time, until everything is booked.

        Raises:
            GateClosed, HoldJob, PermanentError: as `AttemptContext.check`; also in `refusal`.
        """
        while self._to_ask or not self._is_booked:
            await self._news.wait()
            self._news.clear()
            while self._to_ask:
                _, call = self._to_ask.popitem()
                try:
                    await self._check(call)
                except (GateClosed, HoldJob, PermanentError) as refusal:
                    self.refusal = refusal
                    raise

    async def finish(self, booking: asyncio.Task[None], asking: asyncio.Task[None]) -> None:
        """End the tasks. If the program was stopped, wait a short time until the rest is booked."""
        self.end()
        asking.cancel()
        await asyncio.wait({booking}, timeout=FINISH_SECONDS)
        booking.cancel()
        await asyncio.gather(booking, asking, return_exceptions=True)
        if lost := [*self._unbooked, *self._waiting()]:
            known = [each.settlement.cost_usd or 0.0 for each in lost]
            logger.error(
                "what a program reported on fd 3 may not be booked",
                extra={"reports": len(lost), "usd": round(sum(known), 6)},
            )

    async def _take(self) -> None:
        """Wait for a report, and take all that there are."""
        if report := await self._reports.get():
            self._unbooked.append(report)
        self._unbooked += self._waiting()
        self._has_room.set()

    def _waiting(self) -> list[Report]:
        waiting = []
        while not self._reports.empty():
            if report := self._reports.get_nowait():
                waiting.append(report)
        return waiting

    async def _book(self) -> None:
        if not self._unbooked:
            return
        reports = [Report(self._known(payee), each) for payee, each in self._unbooked]
        reports = [each for each in reports if each.payee is not OTHER or _is_paid(each)]
        calls = [(self._call(each), each.settlement) for each in _summed(reports)]
        with suppress(LeaseLost):  # they are booked, and the lease keeper ends the attempt
            await self._ledger.book(calls)
        self._unbooked = []
        self._to_ask |= {_asked(call): call for call, _ in calls}
        self._news.set()

    async def _check(self, call: Call) -> None:
        await self._attempt.check(replace(call, max_cost_usd=self._largest_usd))

    def _call(self, report: Report) -> Call:
        self._calls += 1
        return _call_of(report, self._attempt.call_id(f"fd3.{self._calls}"))

    def _known(self, payee: Payee) -> Payee:
        if payee not in self._payees:
            if len(self._payees) >= MAX_PAYEES:
                return OTHER
            self._payees.add(payee)
        return payee


def _is_paid(report: Report) -> bool:
    """Return False for a cooldown."""
    return report.settlement.outcome == "ok"


def _asked(call: Call) -> Payee:
    """Return what the gates' answer depends on."""
    return Payee(call.provider, call.account, agent=call.agent)


def _summed(reports: list[Report]) -> list[Report]:
    """Return reports; if there are many, those of one kind as one, as far as a sum can hold them."""
    if len(reports) <= MAX_SEPARATE:
        return reports
    sums: dict[tuple[Payee, str, bool], Settlement] = {}
    full = []
    for payee, each in reports:
        kind = payee, each.outcome, each.cost_usd is None
        earlier = sums.get(kind)
        try:
            sums[kind] = _sum(earlier, each) if earlier else each
        except ValueError:
            full.append(Report(payee, each))
    return [*(Report(kind[0], each) for kind, each in sums.items()), *full]


def _sum(one: Settlement, other: Settlement) -> Settlement:
    """Return two settlements as one. Raises ValueError if it is more than one may have."""
    seconds = [
        each.retry_after_seconds for each in (one, other) if each.retry_after_seconds is not None
    ]
    return Settlement(
        one.outcome,
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cached_tokens + other.cached_tokens,
        cost_usd=None if one.cost_usd is None else one.cost_usd + (other.cost_usd or 0.0),
        retry_after_seconds=max(seconds, default=None),
    )


def _call_of(report: Report, call_id: str) -> Call:
    payee, settlement = report
    call = new_call(
        call_id,
        payee.provider,
        account=payee.account,
        model=payee.model,
        agent=payee.agent,
        max_cost_usd=settlement.cost_usd,
        max_input_tokens=settlement.input_tokens,
        max_output_tokens=settlement.output_tokens,
    )
    return replace(call, is_reported=True)


def _account(message: _Message) -> str:
    return message.provider if message.account is None else message.account


M = TypeVar("M", bound=_Message)


def _read(form: type[M], fields: Mapping[str, Any]) -> M:
    try:
        return form.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, fault["loc"])) or "the message"
        match fault["type"]:
            case "missing":
                why = f"{field} is missing"
            case "extra_forbidden":
                why = f"unknown field {field!r:.100}; the fields are {', '.join(form.model_fields)}"
            case _:
                why = f"{field} {validation_rule(fault['msg'])}, not {fault['input']!r:.100}"
        raise ValueError(why) from None


def _checked(report: Report) -> Report:
    """Return a report whose names can be kept. Raises ValueError."""
    _call_of(report, "fd3")
    return report
