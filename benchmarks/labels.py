"""Measure what labels cost the server: in each transition of a job, and in memory.

Called by `measurements.py`. The cost is the server's CPU time per job. Windows of jobs with and without labels
alternate, and so do windows of a small and of a large group, so that both see the same machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from statistics import median
from typing import Any, TypeVar

from aragora_q import codec
from aragora_q.base import Job, JobStatus
from aragora_q.bench import PAYLOAD, RESULT, Result, Testbed
from aragora_q.contracts import (
    Completed,
    Failed,
    Identity,
    Outcome,
    Released,
    Report,
    Retry,
    WorkerSession,
)
from aragora_q.redis.scripts import batched
from aragora_q.streams.queue import RedisStreamsQueue

TENANT_AND_TAGS = {"tenant": "customer-1", "tags": {"env": "prod", "team": "research"}}
KINDS: dict[str, dict[str, Any]] = {
    "bare": {},
    "grouped": {"group": "small"},
    "small": {"group": "small", **TENANT_AND_TAGS},
    "large": {"group": "large", **TENANT_AND_TAGS},
}
COMPARED = ("bare", "small", "large")
"""A large group is compared with a small one, jobs in a small one with those that have no labels."""

SMALL_GROUP = 10
FAR_SECONDS = 1_000_000.0
"""Delay of the jobs that are in the groups from the beginning: no window sees them."""

TICK_SECONDS = 0.003
"""Longer than the server's millisecond: what is due or old then was not before."""

LIFE = ("enqueue", "start", "complete")
OUTCOMES: dict[str, Outcome] = {
    "release": Released(),
    "retry": Retry("no", 0),
    "fail": Failed("no"),
    "complete": Completed(codec.encode(RESULT)),
}
Call = Callable[[], Awaitable[Any]]
Costs = dict[str, float]
"""Server CPU in µs per job, by transition."""

T = TypeVar("T")


def results(samples: dict[str, list[Costs]], calls: str, large_group: int) -> Iterator[Result]:
    """Yield what a whole life, the enqueue and the costliest other transition cost, as ratios."""
    others = [step for step in samples["bare"][0] if step != "enqueue"]
    for name, ours, baseline in (("labels", "small", "bare"), ("group", "large", "small")):
        pairs = list(zip(samples[ours], samples[baseline], strict=True))
        costliest = max(others, key=lambda step: median(a[step] / b[step] for a, b in pairs))
        for part, steps in (("life", LIFE), ("enqueue", ("enqueue",)), ("other", (costliest,))):
            groups = f"group of {large_group:,} / {SMALL_GROUP}"
            of = "with / without labels" if name == "labels" else groups
            yield Result(
                f"{name}_{calls}_{part}",
                f"Redis CPU, {' + '.join(steps)}, {calls} calls, {of}",
                "µs",
                [sum(a[step] for step in steps) for a, _ in pairs],
                [sum(b[step] for step in steps) for _, b in pairs],
            )


async def measure(
    testbed: Testbed, windows: int, jobs: int, size: int, large_group: int
) -> dict[str, list[Costs]]:
    """Return the costs in each window of `jobs` jobs, in calls of `size` jobs, by kind."""
    samples: dict[str, list[Costs]] = {kind: [] for kind in COMPARED}
    async with testbed.queue() as queue:
        session = queue.session(Identity("benchmark"))
        await session.register({})
        for kind, count in (("small", SMALL_GROUP), ("large", large_group)):
            for batch in batched(range(count), 10_000):
                members = [Job(payload={}, delay_seconds=FAR_SECONDS, **KINDS[kind]) for _ in batch]
                await queue.enqueue_many(members)
        for _ in range(windows + 1):
            for kind in COMPARED:
                window = _Window(testbed, queue, session, jobs, size)
                await window.run(KINDS[kind])
                samples[kind].append(window.costs)
    testbed.client.flushall()
    return {kind: costs[1:] for kind, costs in samples.items()}  # the first one warms up


class _Window:
    """Jobs that are taken through every transition."""

    def __init__(
        self,
        testbed: Testbed,
        queue: RedisStreamsQueue,
        session: WorkerSession,
        jobs: int,
        size: int,
    ) -> None:
        self._testbed, self._queue, self._session = testbed, queue, session
        self._jobs, self._size = jobs, size
        self.costs: Costs = {}

    async def run(self, labels: dict[str, Any]) -> None:
        ids = await self._enqueue(labels)
        for name, outcome in OUTCOMES.items():
            await self._report(name, outcome)
            if name == "retry":
                await self._step("promote", [self._promote] * self._calls)
            if name == "fail":
                await self._step("requeue", self._each(self._queue.requeue, ids))
        await self._step("purge", [lambda: self._purge(JobStatus.COMPLETED)] * self._calls)
        ids = await self._enqueue(labels)
        await self._step("cancel", self._each(self._queue.cancel_many, ids))
        await asyncio.sleep(TICK_SECONDS)
        for _ in range(self._calls):
            await self._purge(JobStatus.CANCELLED)

    @property
    def _calls(self) -> int:
        return self._jobs // self._size

    def _each(self, send: Callable[[list[T]], Awaitable[Any]], items: Sequence[T]) -> list[Call]:
        return [lambda batch=batch: send(batch) for batch in batched(items, self._size)]  # type: ignore[misc]

    async def _step(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Send `calls`, and note the server's CPU time if it is the first step of this name."""
        before = self._testbed.cpu_seconds()
        replies = [await call() for call in calls]
        self.costs.setdefault(name, (self._testbed.cpu_seconds() - before) / self._jobs * 1e6)
        return replies

    async def _enqueue(self, labels: dict[str, Any]) -> list[str]:
        jobs = [Job(payload=PAYLOAD, **labels) for _ in range(self._jobs)]
        await self._step("enqueue", self._each(self._queue.enqueue_many, jobs))
        return [job.id for job in jobs]

    async def _report(self, name: str, outcome: Outcome) -> None:
        replies = await self._step("start", [lambda: self._session.start(self._size)] * self._calls)
        reports = [Report(job, outcome) for reply in replies for job in reply.jobs]
        await self._step(name, self._each(self._session.report, reports))
        await asyncio.sleep(TICK_SECONDS)

    async def _promote(self) -> None:
        keys, config = self._queue.connection.keys, self._queue.config
        await self._queue.connection.run(
            "promote",
            job_prefix=keys.job_prefix,
            retention_ms=config.retention_ms,
            limit=self._size,
        )

    async def _purge(self, status: JobStatus) -> None:
        keys = self._queue.connection.keys
        await self._queue.connection.run(
            "purge",
            keys={"index": getattr(keys, status.value)},
            job_prefix=keys.job_prefix,
            status=status.value,
            older_than_ms=0,
            limit=self._size,
            dry_run=0,
            by="",
            reason="",
        )
