"""An executor whose jobs do what their payload says, good or bad: for workers that tests break.

`--executor fault_jobs:make`. The payload's `do` is a list of steps, done in order:
    ["sleep", seconds]      wait, as an honest job does
    ["block", seconds]      block the event loop
    ["thread", seconds]     sleep in a thread of asyncio's own, which nothing can cancel
    ["stay"]                go on for ever, cancelled or not
    ["fail", n]             raise, in the first n attempts
    ["later", n]            ask to be called later, in the first n starts
    ["permanent"]           raise what no retry can mend
    ["exit"]                end the process without a word
    ["eat"]                 take memory until the kernel says no
    ["note"]                put job, fence, attempt and pid into the file that FAULT_JOBS_FILE names
"""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from aragora_q.errors import PermanentError, RetryLater


def make():
    return run


async def run(job):
    for step, *args in job.payload.get("do", ()):
        await _STEPS[step](job, *args)
    return {"attempt": job.attempts, "fence": job.fence, "crashes": job.crashes}


async def _sleep(job, seconds):
    await asyncio.sleep(seconds)


async def _block(job, seconds):
    time.sleep(seconds)


async def _thread(job, seconds):
    await asyncio.to_thread(time.sleep, seconds)


async def _stay(job):
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


async def _fail(job, times):
    if job.attempts <= times:
        raise RuntimeError(f"attempt {job.attempts} was told to fail")


async def _later(job, times):
    if job.fence <= times:
        raise RetryLater("told to come later", delay_seconds=0.05)


async def _permanent(job):
    raise PermanentError("told to fail for good")


async def _exit(job):
    os._exit(9)


async def _eat(job):
    taken = []
    while True:
        taken.append(bytearray(16 * 1024 * 1024))
        await asyncio.sleep(0)


async def _note(job):
    with Path(os.environ["FAULT_JOBS_FILE"]).open("a") as file:
        file.write(f"{job.id} {job.fence} {job.attempts} {os.getpid()}\n")


_STEPS = {
    "sleep": _sleep,
    "block": _block,
    "thread": _thread,
    "stay": _stay,
    "fail": _fail,
    "later": _later,
    "permanent": _permanent,
    "exit": _exit,
    "eat": _eat,
    "note": _note,
}
