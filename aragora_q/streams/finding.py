"""Find jobs by a filter: through the index of a label or of a status, page by page; never SCAN.

Called by the queue. A filter is answered from the smallest index that holds all its jobs, and the other
conditions are checked for each of its members: by the server (`find.lua`), or here for live jobs, which are
in lanes. Reads only, and transfers no payload. A job may have changed since it was found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from aragora_q.base import LIVE, TERMINAL, JobStatus
from aragora_q.labels import JobFilter
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.streams import listing

SCAN_MEMBERS = 5_000
"""Members of an index that the server reads for a page, at most: 5 ms."""

PAGE = 500
"""Jobs in a page, about."""

LANES = "live"
"""What `find.lua` answers if the lanes are to be read."""


class Found(NamedTuple):
    """A job that matches: `ms` is the time of its enqueue if labels were wanted, else of its end or start."""

    id: str
    ms: float


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
    found = [
        job
        for part in _parts(wanted)
        async for jobs in _walk(connection, part, limit=limit)
        for job in jobs
    ]
    found.sort(key=lambda job: job.ms, reverse=True)
    return [job.id for job in found[:limit]]


async def count(connection: Connection, wanted: JobFilter, *, with_expired: bool = False) -> int:
    """Return the number of matching jobs."""
    total = 0
    for part in _parts(wanted):
        source, cursor = "", None
        while cursor != "":
            source, cursor, number, _ = await _find(
                connection, part, source, cursor or "", with_expired=with_expired, count_only=True
            )
            total += number
        if source == LANES:
            async for jobs in _walk_lanes(connection, part, None):
                total += len(jobs)
    return total


def _parts(wanted: JobFilter) -> list[JobFilter]:
    """Split a filter into filters that one index answers each; no job matches two of them."""
    statuses = wanted.statuses or frozenset(JobStatus)
    if wanted.labels and not (statuses <= TERMINAL or statuses <= LIVE):
        return [wanted]  # the index of a label has jobs of every status
    parts = [
        replace(wanted, statuses=frozenset({status})) for status in sorted(statuses & TERMINAL)
    ]
    if statuses & LIVE:
        parts.append(replace(wanted, statuses=statuses & LIVE))
    return parts


async def _walk(
    connection: Connection,
    part: JobFilter,
    *,
    limit: int | None = None,
    with_expired: bool = False,
) -> AsyncIterator[list[Found]]:
    """Iterate over the matching jobs of a part, in pages; with a `limit`, at least over its newest ones."""
    source, cursor, total = "", None, 0
    while cursor != "":
        source, cursor, number, jobs = await _find(
            connection, part, source, cursor or "", with_expired=with_expired,
            limit=limit or PAGE, is_ordered=limit is not None,
        )  # fmt: skip
        total += number
        yield jobs
        is_in_order = not part.labels or source in part.labels
        if limit is not None and is_in_order and total >= limit:
            return
    if source == LANES:
        async for jobs in _walk_lanes(connection, part, None if part.labels else limit):
            yield jobs


async def _find(
    connection: Connection,
    part: JobFilter,
    source: str,
    cursor: str,
    *,
    with_expired: bool,
    limit: int = PAGE,
    is_ordered: bool = False,
    count_only: bool = False,
) -> tuple[str, str, int, list[Found]]:
    """Run one step of `find.lua`: the index it reads, the next cursor, the number of jobs, the jobs."""
    source_read, next_cursor, number, *rows = await connection.run(
        "find",
        wanted_labels=" ".join(part.labels),
        statuses=" ".join(sorted(part.statuses)),
        since_ms=_ms(part.since),
        until_ms=_ms(part.until),
        with_expired=int(with_expired),
        ordered=int(is_ordered),
        source=source,
        cursor=cursor,
        scan_limit=SCAN_MEMBERS,
        limit=SCAN_MEMBERS if count_only else min(limit, PAGE),
        count_only=int(count_only),
    )
    jobs = [Found(job_id.decode(), float(ms)) for job_id, ms in replies.pairs(rows)]
    return source_read.decode(), next_cursor.decode(), number, jobs


async def _walk_lanes(
    connection: Connection, part: JobFilter, limit: int | None
) -> AsyncIterator[list[Found]]:
    """Iterate over the matching live jobs, in pages, `limit` of each place that has jobs of a status."""
    for status in sorted(part.statuses):
        for ids_by_page in listing.sources(connection, status, since=part.since):
            total = 0
            async for ids in ids_by_page:
                jobs = await _matching(connection, part, status, ids)
                total += len(jobs)
                yield jobs
                if limit is not None and total >= limit:
                    break


async def _matching(
    connection: Connection, part: JobFilter, status: JobStatus, ids: Sequence[str]
) -> list[Found]:
    """Return those jobs of a page that have `status`, the wanted labels and a time in the range."""
    if not ids:
        return []
    keys = connection.keys
    labels, *rows = await connection.execute_all(
        [
            ("HMGET", keys.labels, *ids),
            *(("HMGET", keys.job(job_id), "status", "started_at", "created_at", "entry") for job_id in ids),
        ]
    )  # fmt: skip
    has_labels = not isinstance(labels, Exception)
    found = []
    for n, (job_id, row) in enumerate(zip(ids, rows, strict=True)):
        if isinstance(row, Exception) or row[0] != status.value.encode():
            continue
        own = set(replies.text(labels[n] or b"").split()) if has_labels else set()
        enqueued, updated = listing.time_of(row[2:]), listing.time_of(row[1:])
        if own.issuperset(part.labels) and _is_in_range(updated, part):
            found.append(Found(job_id, enqueued if part.labels else updated))
    return found


def _is_in_range(ms: float, part: JobFilter) -> bool:
    is_late_enough = part.since is None or ms >= part.since * 1000
    return is_late_enough and (part.until is None or ms < part.until * 1000)


def _ms(seconds: float | None) -> str | int:
    return "" if seconds is None else round(seconds * 1000)
