"""Measure what a paid call costs: the server's CPU time for acquire and settle, and the worker's.

Called by `measurements.py`. The calls pass one provider's gate and two budgets; as many as one process may have
are in flight at the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from aragora_q.base import Job
from aragora_q.bench import Result, Testbed
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import BudgetConfig, ProviderConfig
from aragora_q.context import Call, Settlement
from aragora_q.contracts import Granted
from aragora_q.gates.client import RedisGates
from aragora_q.streams.queue import RedisStreamsQueue

IN_FLIGHT = 1_000
LIMIT_USD = 1_000_000.0

Costs = tuple[float, float]
"""CPU time per call: the server's in µs, the worker's in ms."""


def results(costs: list[Costs], calls: int) -> Iterator[Result]:
    """Yield the costs as results."""
    servers, workers = zip(*costs, strict=True)
    title = f"acquire + settle, 2 budgets, {min(calls, IN_FLIGHT):,} calls in flight"
    yield Result("gates_server", f"Redis CPU, {title}", "µs", servers)
    yield Result("gates_worker", f"worker CPU, {title}", "ms", workers)


async def measure(testbed: Testbed, windows: int, calls: int) -> list[Costs]:
    """Return the costs in each window of `calls` calls. The first window warms up."""
    config = QueueConfig(
        redis_url=testbed.url,
        budgets={
            "all": BudgetConfig(limit_usd=LIMIT_USD, window="month"),
            "tenants": BudgetConfig(limit_usd=LIMIT_USD, window="day", scope="tenant"),
        },
        providers={
            "provider": ProviderConfig(requests_per_minute=10_000_000, tokens_per_minute=1e11)
        },
    )
    queue = RedisStreamsQueue(config)
    gates = queue.gates("benchmark")
    try:
        await gates.refresh()
        costs = [await _window(testbed, gates, f"{n}", calls) for n in range(windows + 1)]
    finally:
        await gates.close()
        await queue.close()
        testbed.client.flushall()
    return costs[1:]


async def _window(testbed: Testbed, gates: RedisGates, name: str, calls: int) -> Costs:
    numbers = iter(range(calls))
    arrived = asyncio.Barrier(min(calls, IN_FLIGHT))

    async def pay() -> None:
        is_first = True
        for number in numbers:
            call = _call(f"{name}/{number}")
            job = Job(payload={}, id=f"job-{number % 100}", tenant=f"tenant-{number % 10}")
            if not isinstance(await gates.acquire(job, call), Granted):
                raise TypeError("a call of the benchmark was not granted")
            if is_first:  # now all are in flight
                await arrived.wait()
                is_first = False
            await gates.settle(job, call, Settlement("ok", 700, 300, 0, 0.01))

    server, worker = testbed.cpu_seconds(), time.process_time()
    await asyncio.gather(*(pay() for _ in range(min(calls, IN_FLIGHT))))
    worker, server = time.process_time() - worker, testbed.cpu_seconds() - server
    return server / calls * 1e6, worker / calls * 1e3


def _call(call_id: str) -> Call:
    return Call(
        id=call_id,
        agent="agent",
        provider="provider",
        account="provider@12345678",
        model="model",
        max_input_tokens=1_000,
        max_output_tokens=1_000,
        max_cost_usd=0.02,
    )
