"""Executors for tests: one whose jobs wait at a gate, one that does what a job's payload says.

`--executor support.executors:make` gives a worker process the second. The payload's `do` is a list of
steps, run in order:
    ["sleep", seconds]      wait without blocking the event loop
    ["until", path]         wait until the file exists
    ["block", seconds]      block the event loop
    ["thread", seconds]     sleep in a thread of asyncio's pool, which cannot be cancelled
    ["stay"]                ignore every cancellation
    ["swallow", seconds]    sleep, and ignore every cancellation meanwhile
    ["fail", n]             raise RuntimeError in the first n attempts
    ["later", n]            raise RetryLater in the first n starts
    ["hold", n, cause]      raise HoldJob, for a budget or another cause, in the first n starts
    ["permanent", partial]  raise PermanentError, with a partial result if there is one
    ["exit"]                end the process at once
    ["eat"]                 allocate memory until the kernel refuses
    ["watch imports"]       from now on, append the modules that are imported to the file named by IMPORTS_FILE
    ["pay", n]              make n paid calls through the gates, as `support.paying` says
    ["note"]                append job, fence, attempt and pid to the file named by RUN_LOG_FILE
"""

import asyncio
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from support.paying import pay

from aragora_q.context import current_attempt
from aragora_q.errors import HoldJob, PermanentError, RetryLater


async def succeed(job):
    return {}


class GatedExecutor:
    """Jobs wait until `gate` is set; `entered`, `left` and `cancelled` list their ids in order."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.entered, self.left, self.cancelled = [], [], []

    async def __call__(self, job):
        self.entered.append(job.id)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise
        self.left.append(job.id)
        return {"attempt": job.attempts}


def make():
    return run


async def run(job):
    for step, *args in job.payload.get("do", ()):
        await _STEPS[step](job, *args)
    return {"attempt": job.attempts, "fence": job.fence, "crashes": job.crashes}


async def _sleep(job, seconds):
    await asyncio.sleep(seconds)


async def _until(job, path):
    while not Path(path).exists():
        await asyncio.sleep(0.05)


async def _block(job, seconds):
    time.sleep(seconds)


async def _thread(job, seconds):
    await asyncio.to_thread(time.sleep, seconds)


async def _stay(job):
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


async def _swallow(job, seconds):
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


async def _fail(job, times):
    if job.attempts <= times:
        raise RuntimeError(f"attempt {job.attempts} fails as its payload asks")


async def _is_done(name, times):
    """Whether this step was done in so many earlier starts; else it is now."""
    attempt = current_attempt()
    done = (await attempt.checkpoints()).get(name, {}).get("times", 0)
    if done < times:
        await attempt.checkpoint(name, {"times": done + 1})
    return done >= times


async def _later(job, times):
    if not await _is_done("later", times):
        raise RetryLater("retry later, as the payload asks", delay_seconds=0.05)


async def _hold(job, times, cause="budget"):
    if not await _is_done("hold", times):
        raise HoldJob("held, as the payload asks", cause=cause, by="day/all", usd=0.1)


async def _permanent(job, partial=None):
    raise PermanentError("fails permanently, as the payload asks", partial_result=partial)


async def _exit(job):
    os._exit(9)


async def _eat(job):
    taken = []
    while True:
        taken.append(bytearray(16 * 1024 * 1024))
        await asyncio.sleep(0)


async def _note(job):
    with Path(os.environ["RUN_LOG_FILE"]).open("a") as file:
        file.write(f"{job.id} {job.fence} {job.attempts} {os.getpid()}\n")


async def _watch_imports(job):
    file = Path(os.environ["IMPORTS_FILE"]).open("a", buffering=1)  # noqa: SIM115 - until the process ends

    def watch(event, args):
        if event == "import":
            file.write(f"{args[0]}\n")

    sys.addaudithook(watch)


_STEPS = {
    "sleep": _sleep,
    "until": _until,
    "block": _block,
    "thread": _thread,
    "stay": _stay,
    "swallow": _swallow,
    "fail": _fail,
    "later": _later,
    "hold": _hold,
    "permanent": _permanent,
    "exit": _exit,
    "eat": _eat,
    "watch imports": _watch_imports,
    "note": _note,
    "pay": pay,
}
