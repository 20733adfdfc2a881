"""Enqueues with a queue in Python: `python client.py PROGRAM OPERATION COUNT` prints a line of JSON.

A program has a coroutine function `client` that opens its queue and calls `measure` with two coroutine
functions: one enqueues a job, the other, if the queue has a bulk call, so many jobs. The programs in other
languages take the same arguments and print the same.
"""

import asyncio
import importlib
import json
import os
import random
import sys
import time

from peer import RUN, RUNS

WARM_UP_JOBS = 50
PAUSE_SECONDS = 0.02, 0.15
"""Least and most time between two jobs of the latency measurement, so that nothing can adapt to a rhythm."""


async def one(enqueue, _enqueue_many, _count):
    """Enqueue one job: this is measured from outside, with the start of the process."""
    await enqueue()


async def single(enqueue, _enqueue_many, count):
    """Measure one enqueue after another."""
    for _ in range(WARM_UP_JOBS):
        await enqueue()
    began = time.perf_counter()
    for _ in range(count):
        await enqueue()
    return {"seconds": time.perf_counter() - began, "jobs": WARM_UP_JOBS + count}


async def bulk(enqueue, enqueue_many, count):
    """Measure the bulk call; without one, single calls."""
    if enqueue_many is None:
        return await single(enqueue, None, count)
    await enqueue()
    began = time.perf_counter()
    await enqueue_many(count)
    return {"seconds": time.perf_counter() - began, "jobs": count + 1}


async def latency(enqueue, _enqueue_many, count):
    """Enqueue single jobs to an idle worker. The first one only shows that the worker is there."""
    sent_ns = []
    for number in range(1, count + 2):
        await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
        sent_ns.append(time.monotonic_ns())
        await enqueue()
        while os.fstat(RUNS).st_size < RUN.size * number:
            await asyncio.sleep(0.01)
    return {"sent_ns": sent_ns}


OPERATIONS = {"one": one, "single": single, "bulk": bulk, "latency": latency}


def main():
    program, operation, count = sys.argv[1:]

    async def measure(enqueue, enqueue_many=None):
        print(json.dumps(await OPERATIONS[operation](enqueue, enqueue_many, int(count))))

    client = importlib.import_module(program).client(measure)
    try:
        import uvloop  # noqa: PLC0415 - some environments have it
    except ImportError:
        asyncio.run(client)
    else:
        uvloop.run(client)


main()
