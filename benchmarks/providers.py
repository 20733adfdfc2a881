"""Measure what a provider that is shut for 20 s costs a fleet: `python -m benchmarks.providers [JOBS …]`.

Two worker processes of 20 slots run jobs of three agents of one account. The provider has a published limit,
is shut when they start, and refuses with 429 and `Retry-After` meanwhile. Reported for each number of jobs:
refused requests that were sent later than one round trip after the first refusal, per useful one; the time of
the drain against the provider's capacity; the busiest second against the mean; how often a job was put off or
sent back; scripts per second while the provider is shut. `CASE` selects cases by a part of their title; with
`DETAIL`, useful requests by second and the times of refusals are printed.

A large backlog is not drained to its end: DRAIN_SECONDS after the opening are measured.
"""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from aragora_q.base import Job
from aragora_q.bench import Testbed, find_server
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import ProviderConfig
from aragora_q.process import child_environment
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.worker.debate_worker import DebateWorker
from benchmarks.limited_provider import LimitedProvider, Limits, caller

SHUT_SECONDS = 20.0
WORKERS, SLOTS = 2, 20
AGENTS = ["one", "two", "three"]
DRAIN_SECONDS = 40.0
REPLY_SECONDS = 0.5
"""How long the provider needs for a reply."""

ROUND_TRIP_SECONDS = 1.0
"""How long after the first refusal requests may arrive that were granted before it was settled: processes that
have just started send hundreds at once, on a machine that they share with the provider and Redis."""


@dataclass(frozen=True)
class Case:
    """One measurement. `configured`: the workers' configuration has the provider's limit."""

    title: str
    jobs: int
    limits: Limits
    configured: bool

    @property
    def capacity(self) -> float:
        """Requests per second that the provider takes."""
        return min(self.limits.requests_per_second, self.limits.at_once / self.limits.reply_seconds)


def cases(sizes: list[int]) -> list[Case]:
    """Return a case with a rate and one with a number of requests at once, for each number of jobs."""
    found = []
    for jobs in sizes:
        rate = 20.0 if jobs <= 100 else 60.0 if jobs <= 1000 else 100.0
        honest = Limits(requests_per_second=rate, reply_seconds=REPLY_SECONDS)
        found.append(Case("rate, configured", jobs, honest, configured=True))
        if jobs <= 1000:
            short = replace(honest, retry_after_seconds=5.0)
            found.append(Case("rate, configured, Retry-After: 5", jobs, short, configured=True))
            at_once = Limits(at_once=rate, reply_seconds=2 * REPLY_SECONDS)
            found.append(Case("at once, configured", jobs, at_once, configured=True))
            found.append(Case("at once, not configured", jobs, at_once, configured=False))
    return [each for each in found if os.environ.get("CASE", "") in each.title]


def settings(case: Case, url: str) -> QueueConfig:
    """Return the workers' settings."""
    provider = ProviderConfig()
    if case.configured and math.isinf(case.limits.at_once):
        provider = ProviderConfig(requests_per_minute=60 * case.limits.requests_per_second)
    elif case.configured:
        provider = ProviderConfig(max_concurrent=int(case.limits.at_once))
    return QueueConfig(redis_url=url, queue="debates", providers={"stub": provider})


async def run_worker(number: str, config: str, address: str) -> None:
    """Run one worker process until it is killed."""
    queue = RedisStreamsQueue(QueueConfig.model_validate_json(config))
    worker = DebateWorker(queue, f"w{number}", executor=caller(address), max_concurrent=SLOTS)
    await worker.start()


async def measure(case: Case, testbed: Testbed) -> str:
    """Run one case and return its line."""
    testbed.client.flushall()
    config = settings(case, testbed.url)
    provider = LimitedProvider(case.limits).start()
    queue = RedisStreamsQueue(config)
    await queue.enqueue_many(
        [Job({"agents": AGENTS, "question": "?"}, id=f"j{n}") for n in range(case.jobs)]
    )
    provider.shut(SHUT_SECONDS)
    testbed.client.config_resetstat()
    text = config.model_dump_json(exclude_unset=True)
    arguments = [sys.executable, "-m", "benchmarks.providers", "--worker"]
    workers = [
        subprocess.Popen(
            [*arguments, str(n), text, provider.address],
            env=child_environment() | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )
        for n in range(WORKERS)
    ]
    try:
        calls = 0
        end = provider.shut_until + DRAIN_SECONDS
        while (await queue.get_queue_stats())["completed"] < case.jobs and time.monotonic() < end:
            await asyncio.sleep(0.5)
            if time.monotonic() < provider.shut_until:
                stats = testbed.client.info("commandstats")
                calls = sum(
                    stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]
                    for name in ("evalsha", "eval")
                )
    finally:
        for process in workers:
            process.kill()
            process.wait()
    counters = testbed.client.hgetall(queue.connection.keys.counters)
    await queue.close()
    provider.close()
    return line(case, provider, {n.decode(): int(v) for n, v in counters.items()}, calls)


def line(case: Case, provider: LimitedProvider, counters: Mapping[str, int], calls: int) -> str:
    """Return what was measured."""
    first, opened = min(provider.refused, default=0.0), provider.shut_until
    later = [at for at in provider.refused if at > first + ROUND_TRIP_SECONDS]
    useful = sorted(provider.useful)
    seconds = Counter(int(at - useful[0]) for at in useful)
    drain, ideal = useful[-1] - useful[0], len(useful) / case.capacity
    mean = len(useful) / max(1.0, drain)
    if os.environ.get("DETAIL"):
        print("useful by second", sorted(seconds.items()))
        print("refused later at", [round(at - opened, 1) for at in later])
    return (
        f"{case.jobs:6} jobs, {case.title:33} refused {len(provider.refused) - len(later):3} at first, "
        f"{len(later):2} later ({len(later) / len(useful):.3f} of the useful); first useful "
        f"{useful[0] - opened:4.1f} s after the opening, then {drain:5.1f} s for {len(useful)} "
        f"({drain / ideal:.2f} of the least); busiest second {max(seconds.values()) / mean:.2f} x mean; "
        f"per job put off {counters.get('put_off', 0) / case.jobs:.2f}, sent back "
        f"{counters.get('retried', 0) / case.jobs:.2f}; {calls / SHUT_SECONDS:.0f} scripts/s while shut"
    )


async def main() -> None:
    """Measure every case."""
    testbed = Testbed(find_server())
    try:
        for case in cases([int(size) for size in sys.argv[1:]] or [60, 300, 10_000]):
            print(await measure(case, testbed), flush=True)
    finally:
        testbed.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        asyncio.run(run_worker(*sys.argv[2:5]))
    else:
        asyncio.run(main())
