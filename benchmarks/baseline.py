"""The floor: the least that a queue on Redis Streams does, by hand, with redis-py, hiredis and uvloop.

No job is fenced, counted, indexed, measured or logged here, none is retried, none survives its
worker. Run as a process of its own, `python -m aragora_q.bench.floor MEASURE PORT COUNT`; prints one
number of seconds, or a list of them, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
import uvloop

from aragora_q.bench.jobs import PAYLOAD_BYTES, RESULT_BYTES

STREAM, GROUP = "floor:stream", "floor"
BATCH = 100
PAYLOAD = b"x" * PAYLOAD_BYTES
RESULT = b"x" * RESULT_BYTES
TTL_SECONDS = 7 * 86_400
WARM_UP = 500


async def bulk(client: Any, count: int) -> float:
    """Pipelined XADD."""
    await _add(client, WARM_UP)
    began = time.perf_counter()
    await _add(client, count)
    return time.perf_counter() - began


async def _add(client: Any, count: int) -> None:
    for first in range(0, count, BATCH):
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(BATCH, count - first)):
            pipeline.xadd(STREAM, {"payload": PAYLOAD})
        await pipeline.execute()


async def single(client: Any, count: int) -> float:
    """One awaited XADD after the other."""
    await _add(client, WARM_UP)
    began = time.perf_counter()
    for _ in range(count):
        await client.xadd(STREAM, {"payload": PAYLOAD})
    return time.perf_counter() - began


async def drain(client: Any, count: int) -> float:
    """XREADGROUP, then XACK, XDEL, HSET and EXPIRE for each job in one pipeline."""
    await client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    await _add(client, count)
    began = time.perf_counter()
    done = 0
    while done < count:
        [[_, entries]] = await client.xreadgroup(GROUP, "floor", {STREAM: ">"}, count=BATCH)
        pipeline = client.pipeline(transaction=False)
        for entry_id, _ in entries:
            key = b"floor:job:" + entry_id
            pipeline.xack(STREAM, GROUP, entry_id)
            pipeline.xdel(STREAM, entry_id)
            pipeline.hset(key, mapping={"status": "completed", "result": RESULT})
            pipeline.expire(key, TTL_SECONDS)
        await pipeline.execute()
        done += len(entries)
    return time.perf_counter() - began


async def receive(client: Any, count: int) -> list[float]:
    """A blocked XREADGROUP: how old each entry is when it arrives, by the clock its sender put in."""
    await client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    ages: list[float] = []
    while len(ages) < count:
        reply = await client.xreadgroup(GROUP, "floor", {STREAM: ">"}, count=1, block=2_000)
        now_ns = time.monotonic_ns()
        for _, entries in reply or ():
            ages.extend((now_ns - int(fields[b"sent_ns"])) / 1e9 for _, fields in entries)
    return ages


async def send(client: Any) -> None:
    """What `receive` waits for; awaited by the measuring process."""
    await client.xadd(STREAM, {"payload": PAYLOAD, "sent_ns": time.monotonic_ns()})


def connect(port: int) -> Any:
    """redis-py as fast as it comes: RESP2, and no timer around every reply."""
    return redis.asyncio.Redis(port=port, protocol=2, socket_timeout=None)


MEASURES: dict[str, Callable[[Any, int], Awaitable[Any]]] = {
    measure.__name__: measure for measure in (bulk, single, drain, receive)
}


async def _main(name: str, port: int, count: int) -> None:
    client = connect(port)
    try:
        sys.stdout.write(json.dumps(await MEASURES[name](client, count)))
    finally:
        await client.aclose()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
