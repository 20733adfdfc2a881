"""Find jobs by a filter: through the index of a label or of a status, page by page; never SCAN.

Called by the queue. A filter is answered from the smallest index that holds all its jobs, and the server
checks the other conditions for each of its members: `find.lua`, or `find_live.lua` for live jobs, which are in
the lanes and the delayed index; `find_page.lua` for one page in one call. Reads only, and transfers no payload.
A job may have changed since it was found.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from aragora_q.base import JOB_ID_PATTERN, LIVE, TERMINAL, JobStatus
from aragora_q.errors import InvalidPayload
from aragora_q.labels import JobFilter
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection

SCAN_MEMBERS = 1_000
"""Members of an index that the server reads for a page, at most: about 10 ms if their hashes are read, too."""

SCAN_ENTRIES = 1_000
"""Entries of lanes that the server reads for a page, at most: about 10 ms."""

SCAN_BYTES = 4 * 1024 * 1024
"""Payloads that the server reads for a page of lanes, about: the ids are next to them."""

LANE_PAGES = 5
"""Pages of lanes that are tried first if entries before `since` need not be read."""

PAGE = 500
"""Jobs in a page, about."""

JOBS_ON_PAGE = 50
"""Jobs on a page that is shown."""

LIVE_JOBS = "live"
"""What `find.lua` answers if the lanes are to be read."""


class Found(NamedTuple):
    """A job that matches: `ms` is the time of its enqueue if labels were wanted, else of its last change."""

    id: str
    ms: float


class JobPage(NamedTuple):
    """One page of the jobs that match a filter."""

    ids: list[str]
    """The newest first. There may be few, or none, on a page that is not the last."""
    cursor: str
    """With it, `find_page` returns the next page; empty: this is the last."""


_CURSOR = re.compile(
    r"\d{1,15}:"
    r"([1-6]:\d{1,19}:\d{1,19}"
    rf"|([7-9]|1[0-2]):(-?\d{{1,25}}(\.\d{{1,20}})?(e[+-]?\d{{1,3}})?|-?inf):{JOB_ID_PATTERN.pattern})",
    re.ASCII,
)
"""What `find_page.lua` says of the last member that it read."""


async def page(connection: Connection, wanted: JobFilter, cursor: str, limit: int) -> JobPage:
    """Return the page of matching jobs, newest first, that follows `cursor`.

    Raises:
        InvalidPayload: `cursor` does not come from a page.
    """
    if cursor and not _CURSOR.fullmatch(cursor):
        raise InvalidPayload(
            f"invalid cursor {cursor!r:.100}: it is not one that a page of jobs ended with",
            hint="begin with the first page, without a cursor",
        )
    next_cursor, *ids = await connection.run(
        "find_page",
        wanted_labels=" ".join(wanted.labels),
        statuses=" ".join(sorted(wanted.statuses)),
        since_ms=_ms(wanted.since),
        until_ms=_ms(wanted.until),
        cursor=cursor,
        limit=limit,
        scan_limit=SCAN_MEMBERS,
        max_bytes=SCAN_BYTES,
    )
    return JobPage([replies.text(job_id) for job_id in ids], next_cursor.decode())


async def pages(
    connection: Connection, wanted: JobFilter, *, with_expired: bool = False
) -> AsyncIterator[list[str]]:
    """Iterate over the ids of all matching jobs, in pages, in any order.

    `with_expired` includes ended jobs past retention that were not purged yet.
    """
    for part in _parts(wanted):
        async for jobs in _walk(connection, part, with_expired=with_expired):
            if jobs:
                yield [job.id for job in jobs]


async def newest(connection: Connection, wanted: JobFilter, limit: int) -> list[str]:
    """Return the newest matching jobs, at most `limit`, newest first.

    With labels, newest by the time of enqueue; otherwise by the end, or the start or enqueue of live jobs.
    """
    if wanted.labels and wanted.since is not None and limit <= PAGE and not _is_live_only(wanted):
        async for step in _steps(connection, wanted, with_expired=False, limit=limit):
            is_in_order = step.source in wanted.labels
            if is_in_order and (step.is_last or step.number >= limit):
                return [job.id for job in step.jobs[:limit]]
            break  # few of those enqueued last match: other indexes may be smaller

    async def newest_of(part: JobFilter) -> list[Found]:
        return [job async for jobs in _walk(connection, part, limit=limit) for job in jobs]

    parts = await asyncio.gather(*map(newest_of, _parts(wanted)))
    found = sorted((job for jobs in parts for job in jobs), key=lambda job: job.ms, reverse=True)
    return list(dict.fromkeys(job.id for job in found))[:limit]  # one may have moved meanwhile


async def count(connection: Connection, wanted: JobFilter, *, with_expired: bool = False) -> int:
    """Return the number of matching jobs."""
    steps = [
        step
        for part in _parts(wanted)
        async for step in _steps(connection, part, with_expired=with_expired, count_only=True)
    ]
    return sum(step.number for step in steps)


def _parts(wanted: JobFilter) -> list[JobFilter]:
    """Split a filter into filters that one index answers each; no job matches two of them at a time.

    A job may move while they are read: live ones come first, so that a job that ends is found in one of them;
    failed ones before cancelled ones, so that a job that was requeued and fails again is found once.
    """
    statuses = wanted.statuses or frozenset(JobStatus)
    is_mixed = not (statuses <= TERMINAL or statuses <= LIVE)
    if wanted.labels and is_mixed and wanted.since is None:
        return [wanted]  # the index of a label has jobs of every status
    parts = [replace(wanted, statuses=statuses & LIVE)] if statuses & LIVE else []
    ended = sorted(statuses & TERMINAL, reverse=True)
    return parts + [replace(wanted, statuses=frozenset({status})) for status in ended]


def _is_live_only(wanted: JobFilter) -> bool:
    return bool(wanted.statuses) and wanted.statuses <= LIVE


async def _walk(
    connection: Connection,
    part: JobFilter,
    *,
    limit: int | None = None,
    with_expired: bool = False,
) -> AsyncIterator[list[Found]]:
    """Iterate over the matching jobs of a part, in pages; with a `limit`, at least over its newest ones."""
    total = 0
    async for step in _steps(connection, part, with_expired=with_expired, limit=limit):
        yield step.jobs
        total += step.number
        is_in_order = not part.labels or step.source in part.labels
        if limit is not None and is_in_order and step.source != LIVE_JOBS and total >= limit:
            return


class _Step(NamedTuple):
    """What one call of a script found, and in which index."""

    source: str
    number: int
    jobs: list[Found]
    is_last: bool


async def _steps(
    connection: Connection,
    part: JobFilter,
    *,
    with_expired: bool,
    limit: int | None = None,
    count_only: bool = False,
) -> AsyncIterator[_Step]:
    """Run the script of the index that answers a part, one page at a time, until its end."""
    args: dict[str, Any] = {
        "wanted_labels": " ".join(part.labels),
        "statuses": " ".join(sorted(part.statuses)),
        "since_ms": _ms(part.since),
        "until_ms": _ms(part.until),
        "ordered": int(limit is not None),
        "count_only": int(count_only),
        "limit": SCAN_MEMBERS if count_only else limit or PAGE,
    }
    is_live_only = _is_live_only(part)
    if is_live_only and part.labels and part.since is not None:
        steps = [step async for step in _lane_steps(connection, args, LANE_PAGES)]
        if steps[-1].is_last:
            for step in steps:
                yield step
            return
    source, cursor = LIVE_JOBS if is_live_only and not part.labels else "", None
    while source != LIVE_JOBS and cursor != "":
        answer, next_cursor, number, *rows = await connection.run(
            "find",
            **{**args, "limit": args["limit"] if count_only else min(args["limit"], PAGE)},
            with_expired=int(with_expired),
            source=source,
            cursor=cursor or "",
            scan_limit=SCAN_MEMBERS,
        )
        source, cursor = answer.decode(), next_cursor.decode()
        if source != LIVE_JOBS:
            yield _Step(source, number, _found(rows), is_last=not cursor)
    if source == LIVE_JOBS:
        async for step in _lane_steps(connection, args):
            yield step


async def _lane_steps(
    connection: Connection, args: dict[str, Any], pages: int | None = None
) -> AsyncIterator[_Step]:
    """Read live jobs from the lanes and the delayed index, at most so many pages."""
    cursor, is_last = "", False
    while not is_last and pages != 0:
        next_cursor, number, *rows = await connection.run(
            "find_live", **args, cursor=cursor, scan_limit=SCAN_ENTRIES, max_bytes=SCAN_BYTES
        )
        cursor = next_cursor.decode()
        is_last = not cursor
        pages = None if pages is None else pages - 1
        yield _Step(LIVE_JOBS, number, _found(rows), is_last=is_last)


def _found(rows: Sequence[bytes]) -> list[Found]:
    return [Found(replies.text(job_id), float(ms)) for job_id, ms in replies.pairs(rows)]


def _ms(seconds: float | None) -> str | int:
    return "" if seconds is None else round(seconds * 1000)
