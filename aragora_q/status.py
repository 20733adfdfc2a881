"""Read one job, its status, or the statistics of a queue. Never writes, never scans.

Used by the queue, the command line and the exporter. Sends commands that only read, and read-only scripts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from aragora_q import codec, tracing
from aragora_q.base import (
    HOLD_CAUSES,
    LANES,
    STALL_SECONDS,
    Group,
    Hold,
    Job,
    JobStatus,
    QueueStats,
)
from aragora_q.errors import InvalidPayload
from aragora_q.labels import decode_labels
from aragora_q.loose import json_object, text
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import BACKSTOP_MS, END_OF_TIME_MS, GROUP

THROUGHPUT_MINUTES = (1, 5, 15)

STATUSES_AT_ONCE = 500

MAX_WORKERS = 100
"""Workers that statistics list, at most."""

JOBS_AT_ONCE = 50
"""Jobs with payload and result in one round trip, at most."""

LAST_LINES = 3
"""Lines at the end of a history among which the last error is looked for: few follow it."""

LOST_PAYLOAD = b"null"

INTERNAL_WORKER_FIELDS = ("heartbeat_at", "running", "quarantined", "loop_lag_ms")
"""Fields of a worker's hash that statistics leave out or show in another form."""

_ENTRY = re.compile(r"\d{1,19}-\d{1,19}", re.ASCII)
_ABSENT = re.compile("no such key|NOGROUP", re.IGNORECASE)

Command = tuple[str | int, ...]


class JobsRead(NamedTuple):
    """Jobs that were read together."""

    jobs: list[Job | InvalidPayload | None]
    """In the order of their ids; None for a job that is unknown or past retention."""
    now: float
    """The server's time, in Unix seconds; 0 without jobs."""
    cut: set[str]
    """Ids of jobs whose payload or result is left out, because it is longer than `max_bytes`."""


class GroupsPage(NamedTuple):
    """Groups, and the cursor of the next page; empty: this is the last.

    The error of a group whose data is corrupted is in its place.
    """

    groups: list[Group | InvalidPayload]
    cursor: str


class JobStatusTracker:
    """Read jobs and statistics of one queue. `RedisStreamsQueue.tracker` is one.

    All methods raise RedisUnreachable, TryAgain or AccessDenied if Redis does not answer.

    Example:
        >>> import asyncio
        >>> from aragora_q import create_debate_job, create_redis_queue
        >>> async def main() -> None:
        ...     queue = await create_redis_queue()
        ...     job_id = await queue.enqueue(create_debate_job("Tea?", ["demo", "demo"]))
        ...     print(await queue.tracker.get_status(job_id))
        ...     await queue.close()
        >>> asyncio.run(main())
        pending
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys = connection.keys

    async def get_status(self, job_id: str) -> JobStatus | None:
        """Return a job's status; None if the job is unknown or past retention.

        Raises:
            InvalidPayload: the job's hash has an invalid status.
        """
        status = (await self.get_statuses([job_id]))[job_id]
        with _reading(job_id):
            return None if status is None else JobStatus(status)

    async def get_statuses(self, job_ids: Sequence[str]) -> dict[str, str | None]:
        """Return the statuses of many jobs by id; None for a job that is unknown or past retention.

        A status is text as Redis holds it: not a JobStatus if another program has changed it.
        """
        statuses: dict[str, str | None] = {}
        for start in range(0, len(job_ids), STATUSES_AT_ONCE):
            batch = job_ids[start : start + STATUSES_AT_ONCE]
            keys = [self._keys.job(job_id) for job_id in batch]
            rows = await self._read(
                *(command for key in keys for command in (("HGET", key, "status"), ("PTTL", key)))
            )
            for job_id, status, ttl_ms in zip(batch, rows[::2], rows[1::2], strict=True):
                is_known = status is not None and not _is_past_retention(ttl_ms)
                statuses[job_id] = replies.text(status) if is_known else None
        return statuses

    async def get_job(self, job_id: str) -> Job | None:
        """Return a job with payload, result, last error and progress; None if unknown or past retention.

        Raises:
            InvalidPayload: the job's data in Redis is corrupted.
        """
        [job] = await self.get_jobs([job_id])
        if isinstance(job, InvalidPayload):
            raise job
        return job

    async def get_jobs(self, job_ids: Sequence[str]) -> list[Job | InvalidPayload | None]:
        """Return many jobs as `get_job` does, in the order of their ids.

        The error of a job whose data is corrupted is returned in its place.
        """
        return (await self.read_jobs(job_ids)).jobs

    async def read_jobs(self, job_ids: Sequence[str], *, max_bytes: int = 0) -> JobsRead:
        """Return many jobs as `get_jobs` does, and the server's time at which the last of them were read.

        JOBS_AT_ONCE of them take one round trip; more, if their payloads and results have more than 8 MiB. With
        `max_bytes`, a longer result is left out, and of a longer payload all but the beginning of its question.
        """
        read = JobsRead([], 0.0, set())
        while len(read.jobs) < len(job_ids):
            batch = job_ids[len(read.jobs) :][:JOBS_AT_ONCE]
            items = [(self._keys.job(job_id), (job_id,)) for job_id in batch]
            now_ms, *rows = await self._connection.run("read_jobs", items, max_bytes=max_bytes)
            read = read._replace(now=now_ms / 1000)
            # A page that is too large ends early.
            for job_id, row in zip(batch, rows, strict=False):
                try:
                    with _reading(job_id):
                        read.jobs.append(None if row is None else _job_from_row(job_id, row))
                except InvalidPayload as error:
                    read.jobs.append(error)
                if isinstance(row, list) and row[3]:
                    read.cut.add(job_id)
        return read

    async def labels(self, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return `group`, `tenant` and `tags` of many jobs by id, without those that a job does not have."""
        found = (
            await self._connection.execute("HMGET", self._keys.labels, *job_ids) if job_ids else ()
        )
        return {job_id: decode_labels(raw) for job_id, raw in zip(job_ids, found, strict=True)}

    async def get_group(self, name: str) -> Group | None:
        """Return a group; None if it has no job.

        Raises:
            InvalidPayload: the group's data in Redis is corrupted.
        """
        [group] = await self._groups([name])
        if isinstance(group, InvalidPayload):
            raise group
        return group

    async def groups(self, limit: int = 100) -> list[Group | InvalidPayload]:
        """Return the newest groups, by their first job, at most `limit`.

        The error of a group whose data is corrupted is returned in its place.
        """
        newest = await self._connection.execute("ZRANGE", self._keys.groups, 0, limit - 1, "REV")
        names = [replies.text(name) for name in newest]
        return [group for group in await self._groups(names) if group is not None]

    async def groups_page(self, cursor: str = "", limit: int = 100) -> GroupsPage:
        """Return groups, newest first, by their first job: the page after `cursor`, or the first.

        Raises:
            InvalidPayload: `cursor` does not come from a page.
        """
        first_at, skipped = _group_cursor(cursor)
        newest = replies.scored(
            await self._connection.execute(
                "ZRANGE", self._keys.groups, first_at, "-inf", "BYSCORE", "REV",
                "LIMIT", skipped, limit + 1, "WITHSCORES",
            )
        )  # fmt: skip
        names = [name for name, _ in newest[:limit]]
        groups = [group for group in await self._groups(names) if group is not None]
        if len(newest) <= limit:
            return GroupsPage(groups, "")
        last_at = f"{newest[limit - 1][1]:.0f}"
        seen = sum(f"{at:.0f}" == last_at for _, at in newest[:limit])
        return GroupsPage(groups, f"{last_at}-{seen + (skipped if last_at == first_at else 0)}")

    async def _groups(self, names: Sequence[str]) -> list[Group | InvalidPayload | None]:
        rows = await self._connection.execute_all(
            ("HGETALL", self._keys.group(name)) for name in names
        )
        found: list[Group | InvalidPayload | None] = []
        for name, row in zip(names, rows, strict=True):
            if isinstance(row, Exception) and "WRONGTYPE" not in str(row):
                with self._connection.translating():
                    raise row
            try:
                with _reading(name, "group"):
                    found.append(_group_from_reply(name, row))
            except InvalidPayload as error:
                found.append(error)
        return found

    async def history(self, job_id: str) -> list[dict[str, Any]]:
        """Return a job's errors, crashes and deferrals, and what operators did with it, oldest first.

        Each has `at` (Unix ms), `cause`, `attempt`, and either `worker` and `error`, or `by` and `reason`.

        Raises:
            InvalidPayload: the job's history in Redis is corrupted.
        """
        rows = await self._connection.execute("LRANGE", self._keys.history(job_id), 0, -1)
        with _reading(job_id):
            return [_object(row, "history") for row in rows]

    async def last_errors(self, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the last line of each job's history that has an error, by id, in one round trip.

        Empty for a job without one, and for one whose history is corrupted.
        """
        rows = await self._connection.execute_all(
            ("LRANGE", self._keys.history(job_id), -LAST_LINES, -1) for job_id in job_ids
        )
        found: dict[str, dict[str, Any]] = {}
        for job_id, row in zip(job_ids, rows, strict=True):
            lines = [] if isinstance(row, Exception) else [json_object(line) for line in row]
            found[job_id] = next((line for line in reversed(lines) if "error" in line), {})
        return found

    async def checkpoints(self, job_id: str) -> dict[str, dict[str, Any]]:
        """Return a job's checkpoints so far, by name; empty if the job is unknown or past retention.

        Raises:
            InvalidPayload: a checkpoint of the job in Redis is corrupted.
        """
        [journal] = await self.journals([job_id])
        if isinstance(journal, InvalidPayload):
            raise journal
        return journal

    async def journals(
        self, job_ids: Sequence[str]
    ) -> list[dict[str, dict[str, Any]] | InvalidPayload]:
        """Return the checkpoints of many jobs, each as `checkpoints` does, in one round trip.

        The error of a job with a corrupted checkpoint is returned in its place. A journal may have 4 MiB.
        """
        rows = await self._connection.execute_all(
            command
            for job_id in job_ids
            for job in [self._keys.job(job_id)]
            for command in (
                ("HGET", job, "status"),
                ("PTTL", job),
                ("HGETALL", self._keys.journal(job_id)),
            )
        )
        return [self._journal(job_id, rows[3 * n : 3 * n + 3]) for n, job_id in enumerate(job_ids)]

    def _journal(
        self, job_id: str, row: Sequence[Any]
    ) -> dict[str, dict[str, Any]] | InvalidPayload:
        for reply in row:
            if isinstance(reply, Exception) and "WRONGTYPE" not in str(reply):
                with self._connection.translating():
                    raise reply
        status, ttl_ms, journal = row
        if status is None or _is_past_retention(ttl_ms):
            return {}
        try:
            with _reading(job_id):
                if isinstance(status, Exception) or isinstance(journal, Exception):
                    raise ValueError("a key of it has another type")  # noqa: TRY004 - like bad JSON
                return decode_checkpoints(job_id, journal)
        except InvalidPayload as error:
            return error

    async def checkpoint(self, job_id: str, name: str) -> dict[str, Any]:
        """Return one checkpoint of a job; empty if there is none, or it is not a JSON object."""
        key = self._keys.journal(job_id)
        return json_object(await self._connection.execute("HGET", key, f"checkpoint:{name}"))

    async def server_time(self) -> float:
        """Return the Unix seconds of the server's clock: ages of jobs count by it, not by a client's."""
        seconds, micros = await self._connection.execute("TIME")
        return int(seconds) + int(micros) / 1e6

    async def queue_stats(self) -> QueueStats:
        """Return the queue's statistics, in four round trips; zeros and empty lists before first use."""
        keys = self._keys
        now_ms = int(await self.server_time() * 1000)
        lanes = dict(zip(LANES, keys.streams, strict=True))
        indexes = {
            name: getattr(keys, name)
            for name in ("delayed", "held", "completed", "failed", "cancelled")
        }
        recent: dict[str, Command] = {
            f"{name}_{minutes}m": ("ZCOUNT", indexes[name], f"({now_ms - minutes * 60_000}", "+inf")
            for name in ("completed", "failed")
            for minutes in THROUGHPUT_MINUTES
        }
        alive_after = f"({now_ms - self._connection.config.claim_idle_ms}"
        reply = await self._read_named(
            {
                "next_due": ("ZRANGE", keys.delayed, 0, 0, "WITHSCORES"),
                "first_held": ("ZRANGE", keys.held, 0, 0, "WITHSCORES"),
                "counters": ("HGETALL", keys.counters),
                "control": ("HGETALL", keys.control),
                "heartbeats": ("ZRANGE", keys.workers, 0, MAX_WORKERS - 1, "WITHSCORES"),
                "workers": ("ZCARD", keys.workers),
                "alive": ("ZCOUNT", keys.workers, alive_after, "+inf"),
                **{
                    ("consumers", lane): ("XINFO", "CONSUMERS", stream, GROUP)
                    for lane, stream in lanes.items()
                },
                **{("length", lane): ("XLEN", stream) for lane, stream in lanes.items()},
                **{("groups", lane): ("XINFO", "GROUPS", stream) for lane, stream in lanes.items()},
                **{("size", name): ("ZCARD", key) for name, key in indexes.items()},
                **{("recent", name): command for name, command in recent.items()},
            }
        )
        groups = {
            lane: [replies.text_map(group) for group in reply["groups", lane] or ()]
            for lane in LANES
        }
        own = {lane: next((g for g in groups[lane] if g["name"] == GROUP), {}) for lane in LANES}
        pending = {lane: int(own[lane].get("pending", 0)) for lane in LANES}
        next_due = replies.scored(reply["next_due"])
        first_held = replies.scored(reply["first_held"])
        control = replies.text_map(reply["control"])
        numbers = {
            name: _parse_int(value) for name, value in replies.text_map(reply["counters"]).items()
        }
        counters = {name: value for name, value in numbers.items() if value is not None}
        leased = Counter[str]()
        for lane in LANES:
            for consumer in map(replies.text_map, reply["consumers", lane] or ()):
                leased[consumer["name"]] += consumer["pending"]
        workers = await self._workers(reply["heartbeats"], leased, now_ms)
        is_complete = len(workers) == reply["workers"]
        alive = sum(worker["is_alive"] for worker in workers) if is_complete else reply["alive"]
        return {
            "stream_length": sum(reply["length", lane] for lane in LANES),
            "pending_count": sum(pending.values()),
            "groups": [group for lane in LANES for group in groups[lane]],
            "waiting": {lane: reply["length", lane] - pending[lane] for lane in LANES},
            "running": sum(pending.values()),
            "delayed": reply["size", "delayed"],
            "held": reply["size", "held"],
            "oldest_held_seconds": (
                max(0.0, now_ms - first_held[0][1]) / 1000 if first_held else None
            ),
            "next_due_seconds": max(0.0, next_due[0][1] - now_ms) / 1000 if next_due else None,
            "completed": reply["size", "completed"],
            "failed": reply["size", "failed"],
            "cancelled": reply["size", "cancelled"],
            "oldest_waiting_seconds": await self._oldest_waiting(own, now_ms),
            "throughput": {name: reply["recent", name] for name in recent},
            "counters": {n: v for n, v in counters.items() if not n.endswith("_at")},
            "last_reap_at": counters.get("last_reap_at"),
            "last_purge_at": counters.get("last_purge_at"),
            "now": now_ms,
            "paused": "paused" in control,
            "paused_at": _parse_int(control.get("paused")),
            "paused_by": control.get("paused_by"),
            "paused_reason": control.get("paused_reason"),
            "resumed_at": _parse_int(control.get("resumed")),
            "resumed_by": control.get("resumed_by"),
            "resumed_reason": control.get("resumed_reason"),
            "grace_until": _if_later(control.get("grace_until"), now_ms),
            "worker_counts": {"alive": alive, "silent": reply["workers"] - alive},
            "workers": workers,
        }

    async def started_at(self, job_ids: Sequence[str]) -> dict[str, int]:
        """Return the start times, in Unix ms by id, of those jobs that are running."""
        rows = await self._read(
            *(("HMGET", self._keys.job(job_id), "status", "started_at") for job_id in job_ids)
        )
        return {
            job_id: started_at
            for job_id, (status, started) in zip(job_ids, rows, strict=True)
            if status == b"processing" and (started_at := _parse_int(started))
        }

    async def consumers(self) -> set[str]:
        """Return the names of the group's consumers, over all lanes."""
        lanes = await self._read(
            *(("XINFO", "CONSUMERS", stream, GROUP) for stream in self._keys.streams)
        )
        return {replies.text_map(consumer)["name"] for lane in lanes for consumer in lane or ()}

    async def worker_ids(self) -> set[str]:
        """Return the ids of all registered workers, dead ones included until they are removed."""
        names = await self._connection.execute("ZRANGE", self._keys.workers, 0, -1)
        return {replies.text(name) for name in names}

    async def _read(self, *commands: Command) -> list[Any]:
        """Run many reads in one round trip. A stream that does not exist yet reads as None."""
        return await self._connection.read_all(commands, absent=_ABSENT)

    async def _read_named(
        self, commands: Mapping[str | tuple[str, str], Command]
    ) -> dict[str | tuple[str, str], Any]:
        """Run many reads in one round trip; return each reply under its command's name."""
        return dict(zip(commands, await self._read(*commands.values()), strict=True))

    async def _oldest_waiting(
        self, groups: Mapping[str, Mapping[str, Any]], now_ms: int
    ) -> float | None:
        """Return the age, in seconds, of the oldest undelivered entry of all lanes; None if none waits."""
        rows = await self._read(
            *(
                (
                    "XRANGE",
                    stream,
                    f"({groups[lane].get('last-delivered-id', '0-0')}",
                    "+",
                    "COUNT",
                    1,
                )
                for lane, stream in zip(LANES, self._keys.streams, strict=True)
            )
        )
        added = [int(row[0][0].partition(b"-")[0]) for row in rows if row]
        return max(0, now_ms - min(added)) / 1000 if added else None

    async def _workers(
        self, heartbeats: Any, leased: Mapping[str, int], now_ms: int
    ) -> list[dict[str, Any]]:
        """Return a record per worker; see `QueueStats.workers`."""
        last_heartbeats = replies.scored(heartbeats)
        rows = await self._read(
            *(("HGETALL", self._keys.worker(name)) for name, _ in last_heartbeats)
        )
        records = [replies.text_map(row) for row in rows]
        default_lease_ms = self._connection.config.claim_idle_ms
        return [
            {
                "worker_id": name,
                "heartbeat_age_seconds": max(0.0, now_ms - beat) / 1000,
                "jobs_leased": leased[name],
                **{f: value for f, value in record.items() if f not in INTERNAL_WORKER_FIELDS},
                "is_alive": now_ms - beat
                < (_parse_int(record.get("lease_ms")) or default_lease_ms),
                "event_loop_lag_seconds": (_parse_int(record.get("loop_lag_ms")) or 0) / 1000,
                "running": record.get("running", "").split(),
            }
            for (name, beat), record in zip(last_heartbeats, records, strict=True)
        ]


def stalled_workers(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the live workers of `stats` whose event loop did not respond for STALL_SECONDS or longer."""
    return [
        worker
        for worker in stats["workers"]
        if worker["is_alive"] and worker["event_loop_lag_seconds"] >= STALL_SECONDS
    ]


def _is_past_retention(ttl_ms: int) -> bool:
    """Return True if an ended job is no longer shown; its keys live BACKSTOP_MS longer."""
    return 0 <= ttl_ms < BACKSTOP_MS


@contextmanager
def _reading(name: str, kind: str = "job") -> Iterator[None]:
    """Raise InvalidPayload for a ValueError, which corrupted data causes."""
    try:
        yield
    except ValueError as error:
        raise InvalidPayload(
            f"data of {kind} {name} in Redis is corrupted: {error}",
            hint="another program may have written to this key; run aragora-q doctor --repair",
        ) from None


def _job_from_row(job_id: str, row: Any) -> Job:
    """Return a job as `read_jobs.lua` read it. Raises ValueError if the data is corrupted."""
    if isinstance(row, bytes):
        raise ValueError(replies.text(row))  # noqa: TRY004 - a key of another type
    raw, payload, result, is_cut, history, progress, due_ms, labels, *ended = row
    fields = replies.text_map(raw)
    job = _job_from_fields(job_id, fields, labels)
    if result is not None:
        kept, newline, result = result.rpartition(b"\n")  # nothing is kept there of a failed job
        if payload is None:
            payload = kept if newline or not is_cut else result
    entry = fields.get("entry", "")
    if payload is None and entry and not _ENTRY.fullmatch(entry):
        raise ValueError(f"entry {entry!r:.100} is not the id of a stream entry")
    job.raw_payload = LOST_PAYLOAD if payload is None else payload
    job.payload = _beginning(job.raw_payload) if is_cut else decode_payload(job.raw_payload)
    if not is_cut:
        job.result = None if result is None else _object(result, "result")
    job.error = _last(history, "error")
    job.hold = _hold_from_fields(fields, history)
    job.progress = _object(progress, "progress") if progress else None
    job.completed_at = next((_as_seconds(float(ms)) for ms in ended if ms is not None), None)
    job.due_at = _seconds(fields.get("held_due")) if due_ms is None else _as_seconds(float(due_ms))
    return job


def _job_from_fields(job_id: str, fields: Mapping[str, str], labels: bytes | None) -> Job:
    lease_owner = fields.get("lease_owner", "")
    is_completed = fields["status"] == JobStatus.COMPLETED  # `complete.lua` says what it leaves out
    return Job(
        payload={},
        id=job_id,
        priority=int(fields.get("priority", 0)),
        max_attempts=int(fields.get("max_attempts", 0)) or None,
        status=JobStatus(fields["status"]),
        attempts=int(fields.get("attempts", is_completed)),
        crashes=int(fields.get("crashes", 0)),
        fence=int(fields.get("fence", 0)),
        worker_id=lease_owner.partition("@")[0] or None,
        created_at=_seconds(fields.get("created_at") or fields.get("entry", "").partition("-")[0]),
        started_at=_seconds(
            fields.get("started_at", fields.get("fence") if is_completed else None)
        ),
        trace=tracing.carried(fields.get("trace", "")),
        **decode_labels(labels),
    )


def _hold_from_fields(fields: Mapping[str, str], history: Sequence[bytes]) -> Hold | None:
    """Return why a job is held, or will be; None if nothing holds it. The reason is in the history."""
    since = fields.get("held_at") if fields["status"] == "held" else fields.get("hold_asked")
    if since is None and fields["status"] != "held":
        return None
    cause = fields.get("hold_cause")
    return Hold(
        cause=cause if cause in HOLD_CAUSES else "person",
        by=fields.get("hold_by", ""),
        reason=_last(history, "reason", cause="held") or "",
        since=_seconds(since) or 0.0,
        until=_seconds(fields.get("hold_until")),
    )


def _group_cursor(cursor: str) -> tuple[str, int]:
    """Return the time of a page's first group, and how many groups of that time were on pages before."""
    if not cursor:
        return "+inf", 0
    match = re.fullmatch(r"([0-9]{1,15})-([0-9]{1,9})", cursor)
    if match is None:
        raise InvalidPayload(
            f"invalid cursor {cursor!r:.100}: it is not one that a page of groups ended with",
            hint="begin with the first page, without a cursor",
        )
    return match[1], int(match[2])


def _last(history: Sequence[bytes], name: str, cause: str | None = None) -> str | None:
    """Return the latest text in a job's history, of the lines with a cause or of all lines."""
    lines = (_object(line, "history") for line in reversed(history))
    found = (line for line in lines if name in line and cause in (None, line.get("cause")))
    return next((text(line[name]) for line in found), None)


def _group_from_reply(name: str, reply: Any) -> Group | None:
    """Return a group; None if it has no job. Raises ValueError if the data is corrupted."""
    if isinstance(reply, Exception):
        raise ValueError("its key has another type")  # noqa: TRY004 - a bad value, like bad numbers
    fields = replies.text_map(reply)
    if "created_at" not in fields:
        return None
    counts = {status: int(fields.get(status, 0)) for status in (*JobStatus, "purged")}
    return Group(
        name=name,
        counts={str(status): count for status, count in counts.items()},
        created_at=int(fields["created_at"]) / 1000,
        sealed_at=_seconds(fields.get("sealed_at")),
        ended_at=_seconds(fields.get("ended_at")),
        cancelled_at=_seconds(fields.get("cancelled_at")),
        cancelled_by=fields.get("cancelled_by", ""),
        cancelled_reason=fields.get("cancelled_reason", ""),
        then_id=fields.get("then_id"),
        then_status=fields.get("then"),
        notify=tuple(fields.get("notify", "").split()),
    )


def decode_payload(raw: bytes) -> dict[str, Any]:
    """Return a payload as an object; anything that is not a JSON object as `{"malformed": "…"}`."""
    try:
        payload = codec.decode(raw)
    except ValueError:
        payload = None
    if isinstance(payload, dict):
        return payload
    return {"malformed": raw.decode(errors="backslashreplace")}


_QUESTION = re.compile(r'"question": ?"((?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*)')
"""A question, as far as it is there."""


def _beginning(raw: bytes) -> dict[str, Any]:
    """Return a payload that may be cut off; if it is, its question as far as that is there."""
    payload = decode_payload(raw)
    question = _QUESTION.search(payload["malformed"]) if "malformed" in payload else None
    return {"question": json.loads(f'"{question[1]}"')} if question else payload


def decode_checkpoints(job_id: str, journal: Any) -> dict[str, dict[str, Any]]:
    """Return the checkpoints in the reply to HGETALL of a job's journal, by name.

    Raises:
        InvalidPayload: a checkpoint is not a JSON object.
    """
    with _reading(job_id):
        return {
            name.removeprefix(b"checkpoint:").decode(): _object(value, replies.text(name))
            for name, value in replies.pairs(journal)
            if name.startswith(b"checkpoint:") and not _is_damaged_seed(name, value)
        }


def _is_damaged_seed(name: bytes, value: bytes) -> bool:
    """Return True for a checkpoint copied from another job that cannot be read: it counts for nothing."""
    return name.startswith(b"checkpoint:seed/") and not json_object(value)


def _object(raw: bytes, what: str) -> dict[str, Any]:
    value = codec.decode(raw)
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a JSON object")  # noqa: TRY004 - a bad value, like bad JSON
    return value


def _seconds(ms: str | None) -> float | None:
    return _as_seconds(int(ms)) if ms else None


def _as_seconds(ms: float) -> float:
    if not 0 <= ms < END_OF_TIME_MS:
        raise ValueError(f"{ms} is not a time in ms")
    return ms / 1000


def _parse_int(value: Any) -> int | None:
    """Return a whole number; None if the value is missing or not a number."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _if_later(ms: str | None, now_ms: int) -> int | None:
    """Return a time in ms if it is still in the future, otherwise None."""
    moment = _parse_int((ms or "").partition(".")[0])
    return moment if moment and moment > now_ms else None
