"""The results of groups: read once for all who look at a group, with what was counted from them.

Kept by the console; used by the pages and the API. A group is read again when a job has changed its status;
while some of its jobs are live, not more often than the time that it takes allows.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from aragora_q.errors import InvalidPayload
from aragora_q.experiments.reading import read_rows
from aragora_q.web.snapshot import SharedReads

if TYPE_CHECKING:
    from aragora_q.base import Group
    from aragora_q.experiments.comparison import Comparison
    from aragora_q.experiments.evaluation import Evaluation
    from aragora_q.experiments.rows import Row
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_DEBATES = 2_000
"""Debates of a group whose results are kept in memory: about 4 MB."""

MAX_GROUPS = 8
"""Groups whose results are kept."""

MAX_AGE_SECONDS = 30.0
"""Oldest results of a group whose numbers of jobs by status have not changed: a failed job may have been
requeued, and failed again."""

REST = 10
"""A live group is read again after this many times as long as that takes."""

T = TypeVar("T")


class GroupTooLarge(InvalidPayload):
    """The group has more debates than are kept in memory for readers."""


@dataclass
class Results:
    """The debates of a group, without their answers, and what was counted from them so far."""

    rows: Sequence[Row]
    counting: asyncio.Lock
    """Of all groups: one is counted at a time."""
    seconds: float
    """What reading and counting took so far."""
    _counted: dict[str, Any] = field(default_factory=dict)

    async def comparison(self) -> Comparison:
        """Return the comparison of the arms."""
        from aragora_q.experiments.comparison import compare  # noqa: PLC0415 - the other pages need it not

        return await self._count("comparison", compare)

    async def evaluation(self) -> Evaluation:
        """Return the evaluation of the arms."""
        from aragora_q.experiments.evaluation import evaluate  # noqa: PLC0415 - the other pages need it not

        return await self._count("evaluation", evaluate)

    async def _count(self, name: str, function: Callable[[Sequence[Row]], T]) -> T:
        """Return what a function makes of the rows; it runs once, in a thread."""
        async with self.counting:
            if name not in self._counted:
                began = time.monotonic()
                self._counted[name] = await asyncio.to_thread(function, self.rows)
                self.seconds += time.monotonic() - began
        found: T = self._counted[name]
        return found


@dataclass
class _Version:
    """The results of a group that were read last: at what numbers of jobs by status, and when."""

    created_at: float
    """When the group was: one of the same name that was deleted and made again has nothing in common."""
    counts: str
    began_at: float
    results: Results | None = None
    """None: they are being read."""

    @property
    def rests_until(self) -> float:
        return math.inf if self.results is None else self.began_at + REST * self.results.seconds


class ResultsOfGroups:
    """The results of the groups that were asked for last."""

    def __init__(self) -> None:
        self._reads = SharedReads(MAX_AGE_SECONDS, MAX_GROUPS)
        self._versions: dict[str, _Version] = {}
        self._counting = asyncio.Lock()

    async def of(self, queue: RedisStreamsQueue, group: Group) -> tuple[Results, float]:
        """Return the results of a group, and after how many seconds newer ones can be had; 0: they are new.

        Raises:
            GroupTooLarge: it has more than MAX_DEBATES jobs.
        """
        check_size(group)
        counts = f"{group.created_at} {dict(group.counts)}"
        version, now = self._versions.pop(group.name, None), time.monotonic()
        if version and version.created_at != group.created_at:
            version = None
        if version is None or (
            version.counts != counts and not (group.live and now < version.rests_until)
        ):
            version = _Version(group.created_at, counts, now)
        self._versions[group.name] = version
        if len(self._versions) > MAX_GROUPS:
            del self._versions[next(iter(self._versions))]
        try:
            results = await self._reads.get(
                f"{group.name} {version.counts}", lambda: self._read(queue, group.name)
            )
        except BaseException:
            self._versions.pop(group.name, None)
            raise
        version.results = results
        return results, 0.0 if version.counts == counts else max(1.0, version.rests_until - now)

    async def close(self) -> None:
        """Stop the reads that run."""
        await self._reads.close()

    async def _read(self, queue: RedisStreamsQueue, name: str) -> Results:
        began = time.monotonic()
        rows = [replace(row, answer="") for row in await read_rows(queue, name)]
        return Results(rows, self._counting, time.monotonic() - began)


def check_size(group: Group) -> None:
    """Raise GroupTooLarge if a group has more than MAX_DEBATES jobs."""
    if (jobs := group.total - group.counts.get("purged", 0)) > MAX_DEBATES:
        raise GroupTooLarge(
            f"group {group.name} has {jobs:,} jobs; the console reads the results of at most {MAX_DEBATES:,}",
            hint=f"use the command line: aragora-q table {group.name}",
        )
