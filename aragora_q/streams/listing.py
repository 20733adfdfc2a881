"""List job ids by status, newest first, page by page from indexes and lanes; never SCAN.

Called by the queue for `list`. Reads only, and transfers no payload. A job may have changed its status
since it was listed.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from aragora_q.base import TERMINAL, JobStatus
from aragora_q.errors import AragoraQError
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import GROUP

PAGE = 500
"""Ids in a page, at most."""

PAGE_BYTES = 1024 * 1024
"""About how many bytes of payloads the server reads for a page of a lane: the ids are beside them."""

T = TypeVar("T")


async def recent_ids(connection: Connection, limit: int) -> list[str]:
    """Return ids of jobs of any status, newest first: among them the `limit` newest ones.

    A job's time is that of its end, or else of its latest start, or else of its enqueue.
    """
    keys = connection.keys
    live: list[str] = []
    for stream in keys.streams:
        newest_started = await _last_delivered(connection, stream)
        for newest in ("+", newest_started):
            live += await _take(limit, _lane(connection, stream, newest, limit))
    live += await _take(limit, _members(connection, keys.delayed))
    times = await _live_times(connection, list(dict.fromkeys(live)))
    for index in (keys.completed, keys.failed, keys.cancelled):
        times |= dict(await _take(limit, _indexed(connection, index)))
    return sorted(times, key=times.__getitem__, reverse=True)


async def job_ids(connection: Connection, status: JobStatus) -> AsyncIterator[str]:
    """Iterate over the ids of jobs that have `status`, or had it a moment ago."""
    is_filtered = status in (JobStatus.PENDING, JobStatus.RETRYING)  # both wait in the same places
    for source in sources(connection, status):
        async for page in source:
            for job_id in await _with_status(connection, page, status) if is_filtered else page:
                yield job_id


def sources(
    connection: Connection, status: JobStatus, *, since: float | None = None
) -> list[AsyncIterator[list[str]]]:
    """Return where jobs of a status are found, as pages of ids.

    Lanes are read back to the Unix time `since`: earlier entries are of jobs that did not change since.
    """
    keys = connection.keys
    if status in TERMINAL:
        return [_members(connection, getattr(keys, status.value))]
    if status is JobStatus.PROCESSING:
        return [_delivered(connection, stream) for stream in keys.streams]
    oldest_ms = 0.0 if since is None else since * 1000
    lanes = [_lane(connection, stream, oldest_ms=oldest_ms) for stream in keys.streams]
    return [_members(connection, keys.delayed), *lanes]


async def _take(limit: int, pages: AsyncIterator[list[T]]) -> list[T]:
    """Return the first `limit` items of the pages."""
    items: list[T] = []
    async for page in pages:
        items += page
        if len(items) >= limit:
            break
    return items[:limit]


async def _indexed(connection: Connection, index: str) -> AsyncIterator[list[tuple[str, float]]]:
    """Iterate over members and scores by descending score, in pages.

    The cursor is a score, because members may be removed during the iteration; `seen` are the members
    that have it.
    """
    newest: bytes | str = "+inf"
    seen: set[bytes] = set()
    while True:
        reply = await connection.execute(
            "ZRANGE", index, newest, "-inf", "BYSCORE", "REV",
            "LIMIT", 0, PAGE + len(seen), "WITHSCORES",
        )  # fmt: skip
        pairs = replies.pairs(reply)
        fresh = [(member, score) for member, score in pairs if member not in seen]
        if not fresh:
            return
        yield [(replies.text(member), float(score)) for member, score in fresh]
        newest = fresh[-1][1]
        seen = {member for member, score in pairs if score == newest}


async def _members(connection: Connection, index: str) -> AsyncIterator[list[str]]:
    async for pairs in _indexed(connection, index):
        yield [member for member, _ in pairs]


async def _lane(
    connection: Connection,
    stream: str,
    newest: str = "+",
    page: int = PAGE,
    oldest_ms: float = 0.0,
) -> AsyncIterator[list[str]]:
    """Iterate over the job ids in a lane's entries from `newest` on, newest first, in pages."""
    cursor = newest
    while cursor:
        cursor, ids = await _lane_page(connection, stream, cursor, page, delivered_only=False)
        yield ids
        if cursor and float(cursor[1:].partition("-")[0]) < oldest_ms:
            return


async def _delivered(connection: Connection, stream: str) -> AsyncIterator[list[str]]:
    """Iterate over the job ids in a lane's pending entries, those delivered to a worker, in pages."""
    cursor = "-"
    while cursor:
        cursor, ids = await _lane_page(connection, stream, cursor, PAGE, delivered_only=True)
        yield ids


async def _lane_page(
    connection: Connection, stream: str, cursor: str, page: int, *, delivered_only: bool
) -> tuple[str, list[str]]:
    """Return the next page's cursor (empty: this was the last), and the job ids of this page."""
    next_cursor, *ids = await connection.run(
        "list_lane",
        keys={"stream": stream},
        delivered_only=int(delivered_only),
        cursor=cursor,
        limit=min(page, PAGE),
        max_bytes=PAGE_BYTES,
    )
    return next_cursor.decode(), [job_id.decode() for job_id in ids]


async def _last_delivered(connection: Connection, stream: str) -> str:
    """Return the id of the lane's entry that was delivered last; empty if there is none."""
    try:
        groups = await connection.execute("XINFO", "GROUPS", stream)
    except AragoraQError as error:
        if "no such key" in str(error):
            return ""  # no job was ever enqueued in this lane
        raise
    fields = [replies.text_map(group) for group in groups]
    own = next((group for group in fields if group["name"] == GROUP), {})
    return str(own.get("last-delivered-id", ""))


async def _live_times(connection: Connection, ids: Sequence[str]) -> dict[str, float]:
    """Return the times, in ms, at which jobs that have not ended were started or enqueued, by id.

    Jobs whose times are missing or corrupted come first, so that reading them raises an error.
    """
    times: dict[str, float] = {}
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        rows = await connection.execute_all(
            ("HMGET", connection.keys.job(job_id), "started_at", "created_at", "entry")
            for job_id in page
        )
        times |= {
            job_id: math.inf if isinstance(row, Exception) else time_of(row)
            for job_id, row in zip(page, rows, strict=True)
        }
    return times


def time_of(values: Sequence[bytes | None]) -> float:
    """Return the first of some times that is there, in ms; infinity if it is missing or corrupted.

    A time is Unix ms, or a stream entry's id.
    """
    first = next((value for value in values if value), b"").partition(b"-")[0]
    return float(first) if first.isdigit() else math.inf


async def _with_status(connection: Connection, page: Sequence[str], status: JobStatus) -> list[str]:
    """Filter a page by status. Jobs with an invalid status pass, so that reading them raises an error."""
    keys = [connection.keys.job(job_id) for job_id in page]
    found = await connection.execute_all([("HGET", key, "status") for key in keys]) if keys else []
    others = {other.value.encode() for other in JobStatus} - {status.value.encode()}
    return [
        job_id
        for job_id, reply in zip(page, found, strict=True)
        if isinstance(reply, bytes) and reply not in others
    ]
