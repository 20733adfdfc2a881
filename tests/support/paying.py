"""The step `pay` of the nemesis' jobs: paid calls through the gates, to a provider that bills every request.

The provider is the file named by BILLS_FILE: a request appends the id of its call, its highest price and what
is billed, in whole micro-dollars, and whether the reply says what was taken. Then the reply takes its time.
"""

import asyncio
import os
import random
from contextlib import suppress
from pathlib import Path

from aragora_q.context import Call, Settlement, current_attempt
from aragora_q.errors import GateClosed, HoldJob, JobLimitReached, LeaseLost, PermanentError
from aragora_q.money import MICROS

REFUSALS = (GateClosed, HoldJob, JobLimitReached, PermanentError)
CALL_SECONDS = 4.0
"""Shorter than some workers are frozen: they settle late what was estimated meanwhile."""

PROVIDER = "acme"
RATE_LIMITED, UNKNOWN, OVERRUN = 0.01, 0.1, 0.1
"""Shares of requests: refused; of replies that do not say what they took; billed above their reservation."""


async def pay(job, count):
    """Make so many calls, one after another. A call in the journal is settled again, not sent again."""
    attempt = current_attempt()
    journal = await attempt.checkpoints()
    for number in range(count):
        key = f"pay.{number}"
        if key in journal:
            entry = journal[key]
            await attempt.settle(Call(**entry["call"]), Settlement(**entry["settlement"]))
            continue
        call = _call(job, attempt.call_id(key), number)
        try:
            await attempt.acquire(call)
        except REFUSALS:
            return
        settlement = await _send(call)
        entry = {"call": {name: getattr(call, name) for name in call.__slots__},
                 "settlement": {name: getattr(settlement, name) for name in settlement.__slots__}}  # fmt: skip
        with suppress(LeaseLost):  # a zombie's call was billed, too
            await attempt.checkpoint(key, entry)
        await attempt.settle(call, settlement)


def _call(job, call_id, number):
    roll = random.Random(f"{job.id} {number}").random()  # the same in every attempt
    return Call(
        id=call_id, agent=f"a{number}", provider=PROVIDER, account=f"{PROVIDER}@0", model="m",
        max_input_tokens=100, max_output_tokens=100, max_cost_usd=round(0.01 + roll * 0.1, 6),
        timeout_seconds=CALL_SECONDS, job_max_tokens=1_000,
    )  # fmt: skip


async def _send(call):
    choose = random.Random(call.id)
    roll = choose.random()
    if roll < RATE_LIMITED:
        return Settlement("rate_limited", cost_usd=0.0, retry_after_seconds=0.1)
    share = choose.uniform(1.0, 1.5) if roll > 1 - OVERRUN else choose.uniform(0.1, 1.0)
    usd = round(call.max_cost_usd * share, 6)
    is_known = not RATE_LIMITED <= roll < RATE_LIMITED + UNKNOWN
    if not is_known:
        usd = min(usd, call.max_cost_usd)
    bill = (call.id, round(call.max_cost_usd * MICROS), round(usd * MICROS), int(is_known))
    with Path(os.environ["BILLS_FILE"]).open("a") as file:
        file.write(" ".join(map(str, bill)) + "\n")
    await asyncio.sleep(choose.choice([0, 0.02, 0.1, 0.5]))
    if is_known:
        return Settlement("ok", cost_usd=usd, input_tokens=50, output_tokens=20)
    return Settlement("timeout")
