"""An executor whose jobs raise what ends a program: `--executor support.rude_executor:make`."""

import asyncio
import signal
import sys


def make():
    return run


async def run(job):
    await _WAYS[job.payload["way"]]()
    return {}


async def _nothing():
    pass


async def _interrupt():
    await asyncio.sleep(0)
    raise KeyboardInterrupt


async def _exit():
    await asyncio.sleep(0)
    sys.exit(3)


async def _in_a_child():
    await asyncio.create_task(_interrupt())


async def _exit_in_a_child():
    await asyncio.gather(_exit(), asyncio.sleep(0.1))


async def _in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(_interrupt())
        group.create_task(asyncio.sleep(60))


async def _in_a_thread():
    await asyncio.to_thread(_raise)


async def _in_a_callback():
    asyncio.get_running_loop().call_soon(_raise)
    await asyncio.sleep(0.1)


async def _stop_the_loop():
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.1)


async def _cancel_all():
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(60)


def _raise():
    raise KeyboardInterrupt


async def _ignore_signals():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)


_WAYS = {
    "none": _nothing,
    "own": _interrupt,
    "child": _in_a_child,
    "group": _in_a_group,
    "exit": _exit,
    "exit in a child": _exit_in_a_child,
    "thread": _in_a_thread,
    "callback": _in_a_callback,
    "stop": _stop_the_loop,
    "cancel all": _cancel_all,
    "ignore signals": _ignore_signals,
}
