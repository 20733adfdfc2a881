"""Wait until jobs, or a group, have ended: wakes up on the queue's events and polls in case an event is missed.

Shared by `wait` and `enqueue --wait`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from aragora_q.base import LIVE, Group, Job, JobStatus
from aragora_q.cli import output
from aragora_q.errors import AragoraQError, GroupNotFound, InvalidPayload, JobNotFound
from aragora_q.events import ENDINGS
from aragora_q.labels import JobFilter

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

POLL_SECONDS = 3.0
"""Longest time between two polls, and so the delay if an event is missed."""

FOLLOW_RETRY_SECONDS = 0.5
"""Pause after an error before the events are followed again."""

LOOK_AT_ONCE = 500
"""Jobs whose status is read in one round trip."""

READ_AT_ONCE = 50
"""Ended jobs that are read at the same time."""

GROUP_PAUSE_SECONDS = 0.1
"""Shortest time between two looks at a group: many jobs may end every second."""

MAX_NAMED = 20
"""Jobs that the message of a timeout names."""


class WaitTimedOut(AragoraQError):
    """The jobs did not end within the timeout; they continue."""

    exit_code = 124


async def ended_jobs(
    queue: RedisStreamsQueue,
    job_ids: Iterable[str],
    timeout_seconds: float | None,
    *,
    may_be_purged: bool = False,
    quiet: bool = False,
) -> AsyncIterator[Job]:
    """Yield the jobs in the order in which they end. Says once if one of them is held, unless `quiet`.

    Raises WaitTimedOut, and JobNotFound for a job that is unknown, unless it `may_be_purged`.
    """
    pending = dict.fromkeys(job_ids)
    says_held = not quiet
    async with _Follower(queue, timeout_seconds) as follower:
        while True:
            looked_at = follower.take(pending)
            for start in range(0, len(looked_at), LOOK_AT_ONCE):
                batch = looked_at[start : start + LOOK_AT_ONCE]
                statuses = await queue.tracker.get_statuses(batch)
                if says_held and (held := [each for each in batch if statuses[each] == "held"]):
                    await _say_held(queue, held)
                    says_held = False
                async for job_id, job in _ended(queue, batch, statuses):
                    del pending[job_id]
                    if job is not None:
                        yield job
                    elif not may_be_purged:
                        raise JobNotFound(job_id, queue.config.queue)
            if not pending:
                return
            if not await follower.wait():
                ids = " ".join(itertools.islice(pending, MAX_NAMED))
                rest = len(pending) - MAX_NAMED
                raise WaitTimedOut(
                    f"timeout: not ended after {timeout_seconds:g} s: {ids}"
                    f"{f' and {rest:,} more' if rest > 0 else ''}"
                )


async def ended_group(
    queue: RedisStreamsQueue,
    name: str,
    timeout_seconds: float | None,
    *,
    quiet: bool,
    is_complete: bool = False,
) -> Group:
    """Return a group when none of its jobs is live, or as it was before its last job was purged.

    Shows its progress on a terminal, and says that more jobs may follow if the group is not sealed, unless the
    caller knows that it `is_complete`. Raises GroupNotFound and WaitTimedOut.
    """
    group: Group | None = None
    says_held = False
    async with _Follower(queue, timeout_seconds) as follower:
        with output.ProgressBar(0, is_shown=not quiet) as bar:
            while True:
                follower.take(())
                found = await queue.tracker.get_group(name)
                if found is None and (group is None or await _has_jobs(queue, name)):
                    raise GroupNotFound(name, queue.config.queue)
                if group is not None and (found is None or found.created_at != group.created_at):
                    return group  # deleted; a new one may have its name
                says_open = group is None and not (quiet or is_complete)
                if says_open and found is not None and found.sealed_at is None:
                    output.info(
                        f"group {name} is not sealed: jobs that are enqueued after the others have ended "
                        "are not waited for"
                    )
                group = found
                assert group is not None  # noqa: S101 - for the type checker
                if group.counts["held"] and not quiet:
                    if not says_held:
                        jobs = output.count(group.counts["held"], "job")
                        output.info(f"group {name}: {jobs} held; waiting goes on")
                    says_held = True
                bar.show(group.total - group.live, _progress_text(group.counts), group.total)
                if not group.live:
                    return group
                if not await follower.wait():
                    raise WaitTimedOut(
                        f"timeout: after {timeout_seconds:g} s, "
                        f"{output.count(group.live, 'job')} of group {name} had not ended"
                    )
                await asyncio.sleep(GROUP_PAUSE_SECONDS)


async def _has_jobs(queue: RedisStreamsQueue, group: str) -> bool:
    """Return True if a group has jobs: without its hash, which another program deleted, they may run."""
    return bool(await queue.find_newest(JobFilter(group=group), 1))


class _Follower:
    """Follows the queue's events, so that a wait ends soon after its jobs. Errors surface in the next look."""

    def __init__(self, queue: RedisStreamsQueue, timeout_seconds: float | None) -> None:
        self._queue = queue
        self._deadline = time.monotonic() + (
            math.inf if timeout_seconds is None else timeout_seconds
        )
        self._woken = asyncio.Event()
        self._ended: dict[str, None] | None = None  # since the last look; None: any job may have
        self._poll_at = 0.0

    async def __aenter__(self) -> Self:
        # Before the first look, so that what ends after it is among the events.
        newest = await self._queue.newest_event_id()
        self._task = asyncio.create_task(self._follow(newest))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def take(self, pending: Collection[str]) -> list[str]:
        """Return those jobs that may have ended since the last call, because they are looked at now."""
        ended, self._ended = self._ended, {}
        self._woken.clear()
        now = time.monotonic()
        if ended is None or now >= self._poll_at:
            self._poll_at = now + POLL_SECONDS
            return list(pending)
        return [job_id for job_id in ended if job_id in pending]

    async def wait(self) -> bool:
        """Wait until a job ends, or until the next poll is due; return False if the time is up."""
        now = time.monotonic()
        if now >= self._deadline:
            return False
        pause = max(0.0, min(self._poll_at, self._deadline) - now)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), pause)
        if time.monotonic() >= self._deadline:
            self._poll_at = 0.0  # a last look at all
        return True

    async def _follow(self, after: str) -> None:
        while True:
            with suppress(AragoraQError):
                async for event in self._queue.events(after):
                    after = event["id"]
                    if event.get("event") in ENDINGS | {"held"}:
                        if self._ended is not None:
                            self._ended |= dict.fromkeys(event.get("ids", "").split())
                        self._woken.set()
            self._ended = None
            self._woken.set()
            await asyncio.sleep(FOLLOW_RETRY_SECONDS)


async def _say_held(queue: RedisStreamsQueue, job_ids: Sequence[str]) -> None:
    [job] = await queue.tracker.get_jobs(job_ids[:1])
    why = f" {job.hold.text}" if isinstance(job, Job) and job.hold else ""
    more = f", and {output.count(len(job_ids) - 1, 'more job')}" if len(job_ids) > 1 else ""
    output.info(f"job {job_ids[0]} is held{why}{more}; waiting goes on")


async def _ended(
    queue: RedisStreamsQueue, job_ids: Sequence[str], statuses: Mapping[str, str | None]
) -> AsyncIterator[tuple[str, Job | None]]:
    """Yield those jobs that have ended; None for one that is unknown."""
    ended = [job_id for job_id in job_ids if statuses[job_id] not in LIVE]
    for start in range(0, len(ended), READ_AT_ONCE):
        batch = ended[start : start + READ_AT_ONCE]
        for job_id, job in zip(batch, await queue.tracker.get_jobs(batch), strict=True):
            if isinstance(job, InvalidPayload):
                raise job
            yield job_id, job


async def require_job(queue: RedisStreamsQueue, job_id: str) -> Job:
    """Return the job. Raises JobNotFound, or InvalidPayload if its data is corrupted."""
    job = await queue.get_job(job_id)
    if job is None:
        raise JobNotFound(job_id, queue.config.queue)
    return job


def exit_code(job: Job) -> int:
    """Return 0 if the job completed, 1 if it failed or was cancelled."""
    return int(job.status is not JobStatus.COMPLETED)


def group_exit_code(group: Group) -> int:
    """Return 0 if all jobs completed, 1 if one failed or was cancelled. Purged ones do not count."""
    return int(group.counts["failed"] + group.counts["cancelled"] > 0)


def _progress_text(counts: Mapping[str, int]) -> str:
    cancelled = f", {counts['cancelled']:,} cancelled" if counts["cancelled"] else ""
    held = f", {counts['held']:,} held" if counts["held"] else ""
    return (
        f"{counts['completed']:,} completed, {counts['failed']:,} failed{cancelled}, "
        f"{counts['processing']:,} running{held}"
    )
