"""List job ids by status, newest first, page by page from indexes and lanes; never SCAN.

Called by the queue for `list`. Reads only; a job may have changed its status since it was listed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aragora_q.base import TERMINAL, JobStatus
from aragora_q.errors import AragoraQError
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import GROUP

PAGE = 500


async def recent_ids(connection: Connection, limit: int) -> list[str]:
    """Return ids of the newest jobs of any status: at most `limit` of each index and lane."""
    keys = connection.keys
    sources = (
        *(_delivered(connection, stream) for stream in keys.streams),
        *(_lane(connection, stream, min(limit, PAGE)) for stream in keys.streams),
        *(
            _indexed(connection, index)
            for index in (keys.delayed, keys.completed, keys.failed, keys.cancelled)
        ),
    )
    ids: dict[str, None] = {}
    for source in sources:
        count = 0
        async for job_id in source:
            ids[job_id] = None
            count += 1
            if count == limit:
                break
    return list(ids)


async def job_ids(connection: Connection, status: JobStatus) -> AsyncIterator[str]:
    """Iterate over the ids of jobs that have `status`, or had it a moment ago."""
    keys = connection.keys
    if status in TERMINAL:
        async for job_id in _indexed(connection, getattr(keys, status.value)):
            yield job_id
        return
    if status is JobStatus.PROCESSING:
        for stream in keys.streams:
            async for job_id in _delivered(connection, stream):
                yield job_id
        return
    async for job_id in _with_status(connection, _indexed(connection, keys.delayed), status):
        yield job_id
    for stream in keys.streams:
        async for job_id in _with_status(connection, _lane(connection, stream), status):
            yield job_id


async def _indexed(connection: Connection, index: str) -> AsyncIterator[str]:
    """Iterate over members by descending score. The cursor is a score, because members may be removed
    during the iteration; `seen` are the members that have it.
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
        for member, _ in fresh:
            yield replies.text(member)
        if not fresh:
            return
        newest = fresh[-1][1]
        seen = {member for member, score in pairs if score == newest}


async def _lane(connection: Connection, stream: str, page: int = PAGE) -> AsyncIterator[str]:
    """Iterate over the job ids in a lane's entries, newest first."""
    last = "+"
    while True:
        rows = await connection.execute("XREVRANGE", stream, last, "-", "COUNT", page)
        for _, fields in rows:
            yield _id_in(fields)
        if len(rows) < page:
            return
        last = f"({rows[-1][0].decode()}"


async def _delivered(connection: Connection, stream: str) -> AsyncIterator[str]:
    """Iterate over the job ids in a lane's pending entries: those delivered to a worker."""
    first = "-"
    while True:
        try:
            # As bytes: for "XPENDING", redis-py would parse the reply as that of the short form, and fail.
            pending = await connection.execute(b"XPENDING", stream, GROUP, first, "+", PAGE)
        except AragoraQError as error:
            if "NOGROUP" in str(error):
                return  # no job was ever enqueued in this lane
            raise
        entries = [row[0].decode() for row in pending]
        rows = await connection.execute_all(("XRANGE", stream, entry, entry) for entry in entries)
        for row in rows:
            if row and not isinstance(row, Exception):
                yield _id_in(row[0][1])
        if len(pending) < PAGE:
            return
        first = f"({entries[-1]}"


async def _with_status(
    connection: Connection, ids: AsyncIterator[str], status: JobStatus
) -> AsyncIterator[str]:
    """Filter `ids` by status. Jobs with an invalid status pass, so that reading them raises an error."""
    page: list[str] = []

    async def matching() -> list[str]:
        keys = [connection.keys.job(job_id) for job_id in page]
        replies = await connection.execute_all(("HGET", key, "status") for key in keys)
        others = {other.value.encode() for other in JobStatus} - {status.value.encode()}
        return [
            job_id
            for job_id, reply in zip(page, replies, strict=True)
            if isinstance(reply, bytes) and reply not in others
        ]

    async for job_id in ids:
        page.append(job_id)
        if len(page) == PAGE:
            for match in await matching():
                yield match
            page.clear()
    for match in await matching():
        yield match


def _id_in(fields: Any) -> str:
    """Return the job id in an entry's fields; empty if there is none."""
    return replies.text(dict(replies.pairs(fields)).get(b"id", b""))
