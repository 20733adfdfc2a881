"""Ids of a queue's jobs by status, newest first: read page by page off indexes and lanes, never SCAN.

Called by the queue for `list`. Reads only; what it gives may have moved on by the time it is looked at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aragora_q.base import TERMINAL, JobStatus
from aragora_q.errors import AragoraQError
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import GROUP

PAGE = 500


async def recent_ids(connection: Connection, limit: int) -> list[str]:
    """Ids of the newest jobs of any status: `limit` at most of each index and lane."""
    keys = connection.keys
    sources = (
        *(_delivered(connection, stream) for stream in keys.streams),
        *(_lane(connection, stream, min(limit, PAGE)) for stream in keys.streams),
        *(
            _indexed(connection, index)
            for index in (keys.delayed, keys.completed, keys.failed, keys.cancelled)
        ),
    )
    found: dict[str, None] = {}
    for source in sources:
        number = 0
        async for job_id in source:
            found[job_id] = None
            number += 1
            if number == limit:
                break
    return list(found)


async def job_ids(connection: Connection, status: JobStatus) -> AsyncIterator[str]:
    """Ids of the jobs that have `status`, or had it a moment ago."""
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
    """Members by falling score; a cursor of scores, since members may go while we read."""
    newest: bytes | str = "+inf"
    seen: set[bytes] = set()
    while True:
        rows = await connection.execute(
            "ZRANGE", index, newest, "-inf", "BYSCORE", "REV",
            "LIMIT", 0, PAGE + len(seen), "WITHSCORES",
        )  # fmt: skip
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        fresh = [(member, score) for member, score in pairs if member not in seen]
        for member, _ in fresh:
            yield _text(member)
        if not fresh:
            return
        newest = fresh[-1][1]
        seen = {member for member, score in pairs if score == newest}


async def _lane(connection: Connection, stream: str, page: int = PAGE) -> AsyncIterator[str]:
    """Ids in a lane's entries, from its tail."""
    last = "+"
    while True:
        rows = await connection.execute("XREVRANGE", stream, last, "-", "COUNT", page)
        for _, fields in rows:
            yield _id_in(fields)
        if len(rows) < page:
            return
        last = f"({rows[-1][0].decode()}"


async def _delivered(connection: Connection, stream: str) -> AsyncIterator[str]:
    """Ids in entries that a worker has taken, as the pending list names them."""
    first = "-"
    while True:
        try:
            # In bytes, so that redis-py does not take the reply for the short form's and trip over it.
            pending = await connection.execute(b"XPENDING", stream, GROUP, first, "+", PAGE)
        except AragoraQError as error:
            if "NOGROUP" in str(error):
                return  # nothing was ever enqueued in this lane
            raise
        entries = [row[0].decode() for row in pending]
        rows = await connection.execute_all(("XRANGE", stream, each, each) for each in entries)
        for row in rows:
            if row and not isinstance(row, Exception):
                yield _id_in(row[0][1])
        if len(pending) < PAGE:
            return
        first = f"({entries[-1]}"


async def _with_status(
    connection: Connection, found: AsyncIterator[str], status: JobStatus
) -> AsyncIterator[str]:
    """Those of `found` whose hash says `status`, or what nobody knows: the reader will error."""
    page: list[str] = []

    async def matching() -> list[str]:
        keys = [connection.keys.job(job_id) for job_id in page]
        replies = await connection.execute_all(("HGET", key, "status") for key in keys)
        others = {each.value.encode() for each in JobStatus} - {status.value.encode()}
        return [
            job_id
            for job_id, reply in zip(page, replies, strict=True)
            if isinstance(reply, bytes) and reply not in others
        ]

    async for job_id in found:
        page.append(job_id)
        if len(page) == PAGE:
            for match in await matching():
                yield match
            page.clear()
    for match in await matching():
        yield match


def _id_in(fields: Any) -> str:
    """The job id of an entry, whose fields redis-py may hand over as a mapping or a flat list."""
    if not isinstance(fields, dict):
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    return _text(fields.get(b"id", b""))


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
