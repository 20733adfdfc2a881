"""Executors whose worker is killed once, after a paid call was kept with its job and before it is settled.

`--executor support.crashing_payers:program` runs the program named by PROGRAM; `function` makes one call in
Python. The file named by CRASH_FILE says that the crash has happened.
"""

import asyncio
import os
import signal
from pathlib import Path

from aragora_q.config.settings import QueueConfig
from aragora_q.context import current_attempt
from aragora_q.executors import command
from aragora_q.ledger import LEDGER
from aragora_q.worker.attempt import Attempt


def program():
    _crash_once()
    return command.create(QueueConfig(exec_command=os.environ["PROGRAM"]))


def function():
    _crash_once()
    return pay


async def pay(job):
    attempt = current_attempt()
    async with attempt.call("acme", key="draft", max_cost_usd=0.5) as call:
        call.spent(cost_usd=0.25 if "spent/ledger" not in await attempt.checkpoints() else 0.125)
    return {}


def _crash_once():
    settle = Attempt.settle

    async def crash(self, call, settlement):
        file = Path(os.environ["CRASH_FILE"])
        if not file.exists():
            while LEDGER not in await self.checkpoints():
                await asyncio.sleep(0.01)
            file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        await settle(self, call, settlement)

    Attempt.settle = crash
