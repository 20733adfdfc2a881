"""Paid calls between their reply and their booking, kept with the job: a crash counts each of them once.

Used by the attempt for `AttemptContext.call`, by the `command` executor for what programs report, and, of its
functions, by debates, whose journal is their ledger. Knows the hooks of the attempt; must not know Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from aragora_q.context import AttemptContext, Call, PaidCall, Settlement, check_key, new_call
from aragora_q.errors import PermanentError
from aragora_q.observability.logs import get_logger

logger = get_logger(__name__)

LEDGER = "spent/ledger"
"""The checkpoint of `CallLedger`. Executors do not write it."""

SETTLE_SECONDS = 2.0
"""How long an attempt that is being cancelled waits for a settlement, which the next attempt may repeat."""

SETTLE_AGAIN_SECONDS = 12 * 3600.0
"""Age up to which calls of earlier attempts are settled again: shorter than their records are kept."""

NOT_SENT = Settlement("not_sent", cost_usd=0.0)
UNKNOWN = Settlement("unknown")

Entry = dict[str, Any]
"""A call that was paid for: `id`, `agent`, `provider`, `account`, `model`, `in`, `out` and `cached` (tokens),
`usd` (None: unknown), `outcome`, `at` (its end, Unix seconds), `reported` (`Call.is_reported`; optional)."""


def call_of(entry: Mapping[str, Any]) -> Call:
    """Return a call that was sent earlier: what it took is the most that it can take."""
    return Call(
        id=entry["id"],
        agent=entry["agent"],
        provider=entry["provider"],
        account=entry["account"],
        model=entry["model"],
        max_input_tokens=entry["in"],
        max_output_tokens=entry["out"],
        max_cost_usd=entry["usd"],
        is_reported=entry.get("reported") is True,
    )


def settlement_of(entry: Mapping[str, Any]) -> Settlement:
    """Return what became of a call that was sent earlier."""
    return Settlement(
        entry["outcome"],
        input_tokens=entry["in"],
        output_tokens=entry["out"],
        cached_tokens=entry["cached"],
        cost_usd=entry["usd"],
    )


async def acquire(attempt: AttemptContext, call: Call) -> None:
    """As `AttemptContext.acquire`. If the attempt is cancelled meanwhile, free what may have been granted."""
    try:
        await attempt.acquire(call)
    except asyncio.CancelledError:
        await settle(attempt, call, NOT_SENT)
        raise


async def settle(attempt: AttemptContext, call: Call, settlement: Settlement) -> None:
    """Settle a call, even if the attempt is cancelled meanwhile; then not at any price."""
    await _even_if_cancelled(partial(attempt.settle, call, settlement))


async def settle_again(
    attempt: AttemptContext,
    entries: Iterable[Mapping[str, Any]],
    now: float,
    *,
    job_max_tokens: int | None = None,
    job_max_cost_usd: float | None = None,
) -> None:
    """Settle the recent calls of a ledger: whether earlier attempts did is not known. `now`: Unix seconds."""
    for entry in entries:
        if entry["at"] >= now - SETTLE_AGAIN_SECONDS:
            call = replace(
                call_of(entry), job_max_tokens=job_max_tokens, job_max_cost_usd=job_max_cost_usd
            )
            await attempt.settle(call, settlement_of(entry))


class CallLedger:
    """The calls of one attempt that were paid for and may not be booked yet, as one checkpoint.

    `now` is the time of the server's clock, in Unix seconds; None: this host's counts.
    """

    def __init__(self, attempt: AttemptContext, now: float | None) -> None:
        self._attempt = attempt
        self._clock_offset = (time.time() if now is None else now) - time.monotonic()
        self._unsettled: dict[str, Entry] = {}
        self._numbers = Counter[str]()
        self._opening, self._writing = asyncio.Lock(), asyncio.Lock()
        self._is_open = self._is_full = False

    async def open(self, checkpoints: Mapping[str, Any] | None = None) -> list[Call]:
        """Settle again what earlier attempts paid and may not have booked, once; return their last calls.

        `checkpoints` are those of the job, if they are known.
        """
        async with self._opening:
            if self._is_open:
                return []
            if checkpoints is None:
                checkpoints = await self._attempt.checkpoints()
            calls = _calls_in(checkpoints.get(LEDGER))
            paid = [entry for entry in calls if entry["outcome"] == "ok"]  # a cooldown passes
            await settle_again(self._attempt, paid, self._now())
            self._is_open = True
            return [call_of(entry) for entry in calls]

    @asynccontextmanager
    async def call(self, provider: str, *, key: str, **options: Any) -> AsyncIterator[PaidCall]:
        """As `AttemptContext.call`."""
        check_key(key)
        self._numbers[key] += 1
        call_id = self._attempt.call_id(f"{key}.{self._numbers[key]}")
        call = new_call(call_id, provider, **options)
        await self.open()
        await acquire(self._attempt, call)
        paid = PaidCall(call)
        try:
            yield paid
        finally:
            await self._end(call, paid.settlement)

    async def _end(self, call: Call, settlement: Settlement | None) -> None:
        if settlement is None:
            logger.warning(
                "what a paid call took was not reported: its reservation counts as spent",
                extra={"call": call.id, "provider": call.provider},
            )
            settlement = UNKNOWN
        if settlement.outcome == "ok":
            await self.book([(call, settlement)])
        else:  # after a crash, its reservation says the same, or nothing was spent
            await settle(self._attempt, call, settlement)

    async def book(self, calls: Iterable[tuple[Call, Settlement]]) -> None:
        """Settle calls that were paid for, and store them meanwhile; bounded while the attempt is being
        cancelled.

        After a crash, one of both is enough; but no attempt reads what was stored if the job has ended.

        Raises:
            LeaseLost: they are settled, but not stored.
        """
        booked, at = list(calls), round(self._now(), 3)
        self._unsettled |= {call.id: _entry(call, each, at) for call, each in booked}

        async def settle_all() -> None:
            for call, settlement in booked:
                await self._attempt.settle(call, settlement)
                self._unsettled.pop(call.id, None)

        async def do_both() -> None:
            done = await asyncio.gather(self._write(), settle_all(), return_exceptions=True)
            for error in filter(None, done):
                raise error

        await _even_if_cancelled(do_both)

    async def _write(self) -> None:
        async with self._writing:  # a later state must not be replaced by an earlier one
            try:
                await self._attempt.checkpoint(LEDGER, {"calls": list(self._unsettled.values())})
            except PermanentError as error:  # they are booked nevertheless
                if not self._is_full:
                    logger.warning(
                        "paid calls are not kept with the job", extra={"reason": str(error)}
                    )
                self._is_full = True

    def _now(self) -> float:
        return time.monotonic() + self._clock_offset


async def _even_if_cancelled(send: Callable[[], Awaitable[None]]) -> None:
    """Run `send`, which may be repeated: again if the attempt is cancelled meanwhile. Bounded from then on."""
    task = asyncio.current_task()
    try:
        if not (task and task.cancelling()):
            await send()
            return
    except asyncio.CancelledError:  # what was sent may not have arrived
        await _briefly(send)
        raise
    await _briefly(send)


async def _briefly(send: Callable[[], Awaitable[None]]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECONDS):
            await send()


def _entry(call: Call, settlement: Settlement, at: float) -> Entry:
    return {
        "id": call.id,
        "agent": call.agent,
        "provider": call.provider,
        "account": call.account,
        "model": call.model,
        "in": settlement.input_tokens,
        "out": settlement.output_tokens,
        "cached": settlement.cached_tokens,
        "usd": settlement.cost_usd,
        "outcome": settlement.outcome,
        "at": at,
        "reported": call.is_reported,
    }


def _calls_in(ledger: object) -> list[Entry]:
    """Return the calls of a stored ledger; those of another form, which another program wrote, do not count."""
    calls = ledger.get("calls") if isinstance(ledger, dict) else None
    found = []
    for entry in calls if isinstance(calls, list) else ():
        with suppress(KeyError, TypeError, ValueError):
            call_of(entry), settlement_of(entry), entry["at"] + 0.0
            found.append(entry)
    return found
