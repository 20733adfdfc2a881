"""Reads: one job, its status, the queue's statistics. Never writes, never scans.

Used by the queue, the command line and the exporter. Plain commands only, so that an account without
the right to run scripts can read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aragora_q import codec as wire
from aragora_q.base import LANES, Job, JobStatus
from aragora_q.errors import InvalidPayload
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import BACKSTOP_MS, GROUP

THROUGHPUT_MINUTES = (1, 5, 15)
_ABSENT = re.compile("no such key|NOGROUP", re.IGNORECASE)
LOST_PAYLOAD = b"null"
READS = 3
"""How often a job's payload is looked for before it counts as deleted by somebody."""

STATUSES_AT_ONCE = 500

END_OF_TIME_MS = 253_402_300_800_000
"""The year 10000, of which no calendar of Python's knows."""


class JobStatusTracker:
    """Reads the state that the transitions' scripts keep."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys = connection.keys

    async def get_status(self, job_id: str) -> JobStatus | None:
        """The job's status; None if it is unknown or past retention. Raises InvalidPayload."""
        word = (await self.get_statuses([job_id]))[job_id]
        with _reading(job_id):
            return None if word is None else JobStatus(word)

    async def get_statuses(self, job_ids: Sequence[str]) -> dict[str, str | None]:
        """By id the word that stands for the job's status, which is a JobStatus unless somebody else
        wrote there; None for jobs that are unknown or past retention.
        """
        words: dict[str, str | None] = {}
        for start in range(0, len(job_ids), STATUSES_AT_ONCE):
            batch = job_ids[start : start + STATUSES_AT_ONCE]
            keys = [self._keys.job(job_id) for job_id in batch]
            rows = await self._read(
                *(command for key in keys for command in (("HGET", key, "status"), ("PTTL", key)))
            )
            for job_id, word, ttl_ms in zip(batch, rows[::2], rows[1::2], strict=True):
                is_known = word is not None and not _is_past_retention(ttl_ms)
                words[job_id] = _text(word) if is_known else None
        return words

    async def get_job(self, job_id: str) -> Job | None:
        """All that is known of a job; None if it is unknown or past retention. Raises InvalidPayload
        for what somebody else made of it.
        """
        for _ in range(READS):
            job = await self._read_job(job_id)
            if job is None or job.raw_payload:
                return job
        if job is not None:
            job.raw_payload = LOST_PAYLOAD
            job.payload = decode_payload(LOST_PAYLOAD)
        return job

    async def _read_job(self, job_id: str) -> Job | None:
        """Two reads, so the job may move between them; then `raw_payload` is empty."""
        keys = self._keys
        raw, ttl_ms, payload, result, history, progress, due_ms, *ended = await self._read(
            ("HGETALL", keys.job(job_id)),
            ("PTTL", keys.job(job_id)),
            ("GET", keys.payload(job_id)),
            ("GET", keys.result(job_id)),
            ("LRANGE", keys.history(job_id), -1, -1),
            ("HGET", keys.journal(job_id), "progress"),
            ("ZSCORE", keys.delayed, job_id),
            *(("ZSCORE", index, job_id) for index in (keys.completed, keys.failed, keys.cancelled)),
        )
        fields = _decoded(raw)
        if "status" not in fields or _is_past_retention(ttl_ms):
            return None
        job = job_from_fields(job_id, fields)
        if result is not None:
            payload, _, result = result.partition(b"\n")
        elif payload is None and "entry" in fields:
            payload = await self._payload_in_stream(job.priority, fields["entry"])
        job.raw_payload = payload or b""
        job.payload = decode_payload(job.raw_payload) if payload else {}
        with _reading(job_id):
            job.result = None if result is None else _object(result, "its result")
            job.error = _object(history[0], "its history").get("error") if history else None
            job.progress = _object(progress, "its progress") if progress else None
        job.completed_at = next((float(ms) / 1000 for ms in ended if ms is not None), None)
        job.due_at = float(due_ms) / 1000 if due_ms is not None else None
        return job

    async def history(self, job_id: str) -> list[dict[str, Any]]:
        """What went wrong with a job, oldest first: `at`, `cause`, `attempt`, `worker`, `error`.

        Raises InvalidPayload.
        """
        rows = await self._connection.execute("LRANGE", self._keys.history(job_id), 0, -1)
        with _reading(job_id):
            return [_object(row, "its history") for row in rows]

    async def queue_stats(self) -> dict[str, Any]:
        """The queue at a glance, in constant time; zeros and empty lists before first use."""
        keys = self._keys
        server_time = await self._connection.execute("TIME")
        now_ms = int(server_time[0]) * 1000 + int(server_time[1]) // 1000
        rows = await self._read(
            *(("XLEN", stream) for stream in keys.streams),
            *(("XINFO", "GROUPS", stream) for stream in keys.streams),
            *(
                ("ZCARD", key)
                for key in (keys.delayed, keys.completed, keys.failed, keys.cancelled)
            ),
            ("ZRANGE", keys.delayed, 0, 0, "WITHSCORES"),
            ("HGETALL", keys.counters),
            ("HGETALL", keys.control),
            ("ZRANGE", keys.workers, 0, -1, "WITHSCORES"),
            *(
                ("ZCOUNT", index, f"({now_ms - minutes * 60_000}", "+inf")
                for index in (keys.completed, keys.failed)
                for minutes in THROUGHPUT_MINUTES
            ),
        )
        lengths, rows = rows[:3], rows[3:]
        groups = [[_decoded(group) for group in _or_empty(reply)] for reply in rows[:3]]
        (delayed, completed, failed, cancelled), rows = rows[3:7], rows[7:]
        next_due, counters, control, workers = rows[:4]
        done = rows[4:]
        ours = [next((g for g in lane if g["name"] == GROUP), {}) for lane in groups]
        pending = [int(group.get("pending", 0)) for group in ours]
        waiting = [length - held for length, held in zip(lengths, pending, strict=True)]
        control = _decoded(control)
        wholes = {name: _whole(value) for name, value in _decoded(counters).items()}
        counters = {name: value for name, value in wholes.items() if value is not None}
        return {
            "stream_length": sum(lengths),
            "pending_count": sum(pending),
            "groups": [group for lane in groups for group in lane],
            "waiting": dict(zip(LANES, waiting, strict=True)),
            "running": sum(pending),
            "delayed": delayed,
            "next_due_seconds": _seconds_until(next_due, now_ms),
            "completed": completed,
            "failed": failed,
            "cancelled": cancelled,
            "oldest_waiting_seconds": await self._oldest_waiting(ours, now_ms),
            "throughput": {
                f"{name}_{minutes}m": done[at * len(THROUGHPUT_MINUTES) + n]
                for at, name in enumerate(("completed", "failed"))
                for n, minutes in enumerate(THROUGHPUT_MINUTES)
            },
            "counters": {n: v for n, v in counters.items() if not n.endswith("_at")},
            "last_reap_at": counters.get("last_reap_at"),
            "last_purge_at": counters.get("last_purge_at"),
            "now": now_ms,
            "paused": "paused" in control,
            "paused_at": _whole(control.get("paused")),
            "grace_until": _if_later(control.get("grace_until"), now_ms),
            "workers": await self._workers(workers, now_ms),
        }

    async def started_at(self, job_ids: Sequence[str]) -> dict[str, int]:
        """When the jobs that run now, of those named, started: Unix ms by id."""
        rows = await self._read(
            *(("HMGET", self._keys.job(job_id), "status", "started_at") for job_id in job_ids)
        )
        return {
            job_id: started_at
            for job_id, (status, started) in zip(job_ids, rows, strict=True)
            if status == b"processing" and (started_at := _whole(started))
        }

    async def consumers(self) -> set[str]:
        """Names of the group's consumers, over all lanes."""
        return {row["name"] for row in await self._consumers()}

    async def _consumers(self) -> list[dict[str, Any]]:
        replies = await self._read(
            *(("XINFO", "CONSUMERS", stream, GROUP) for stream in self._keys.streams)
        )
        return [_decoded(row) for reply in replies for row in reply or ()]

    async def worker_ids(self) -> set[str]:
        """Ids of all workers that signed on and were not forgotten since."""
        return {
            _text(name)
            for name in await self._connection.execute("ZRANGE", self._keys.workers, 0, -1)
        }

    async def _read(self, *commands: tuple[str | int, ...]) -> list[Any]:
        """Many reads in one round trip. A stream that does not exist yet reads as nothing."""
        replies = await self._connection.execute_all(commands)
        for reply in replies:
            if isinstance(reply, Exception) and not _ABSENT.search(str(reply)):
                with self._connection.translating():
                    raise reply
        return [None if isinstance(reply, Exception) else reply for reply in replies]

    async def _payload_in_stream(self, priority: int, entry: str) -> bytes | None:
        rows = await self._connection.execute(
            "XRANGE", self._keys.stream_of(priority), entry, entry
        )
        fields = rows[0][1] if rows else {}
        return _bytes_map(fields).get(b"payload") if fields else None

    async def _oldest_waiting(self, groups: list[dict[str, Any]], now_ms: int) -> float | None:
        """Age of the first entry not yet delivered, over all lanes; None when nothing waits."""
        rows = await self._read(
            *(
                ("XRANGE", stream, f"({group.get('last-delivered-id', '0-0')}", "+", "COUNT", 1)
                for stream, group in zip(self._keys.streams, groups, strict=True)
            )
        )
        added = [int(reply[0][0].partition(b"-")[0]) for reply in rows if reply]
        return max(0, now_ms - min(added)) / 1000 if added else None

    async def _workers(self, heartbeats: Any, now_ms: int) -> list[dict[str, Any]]:
        """`running` names jobs as of the last heartbeat, `holds` counts what is the worker's now.

        A worker `is_alive` whose heartbeat is younger than its own lease.
        """
        beats = _pairs(heartbeats)
        rows = await self._read(*(("HGETALL", self._keys.worker(name)) for name, _ in beats))
        records = [_decoded(row) for row in rows]
        default_lease_ms = self._connection.config.claim_idle_ms
        holds = Counter[str]()
        for row in await self._consumers():
            holds[row["name"]] += row["pending"]
        return [
            {
                "worker_id": name,
                "heartbeat_age_seconds": max(0.0, now_ms - beat) / 1000,
                "jobs_leased": holds[name],
                **{
                    field: value
                    for field, value in record.items()
                    if field not in ("heartbeat_at", "running", "quarantined")
                },
                "is_alive": now_ms - beat < (_whole(record.get("lease_ms")) or default_lease_ms),
                "running": record.get("running", "").split(),
            }
            for (name, beat), record in zip(beats, records, strict=True)
        ]


def _is_past_retention(ttl_ms: int) -> bool:
    """By the server's clock: an ended job's keys live a backstop longer than its retention."""
    return 0 <= ttl_ms < BACKSTOP_MS


def job_from_fields(job_id: str, fields: Mapping[str, str]) -> Job:
    """A job of the fields that its hash holds; payload, result and error are not among them."""
    with _reading(job_id):
        return _job_from_fields(job_id, fields)


@contextmanager
def _reading(job_id: str) -> Iterator[None]:
    """What no job of ours can look like becomes InvalidPayload."""
    try:
        yield
    except ValueError as error:
        raise InvalidPayload(
            f"what Redis holds for job {job_id} is not a job: {error}",
            hint="something else wrote there; aragora-q doctor --repair puts right what it can",
        ) from None


def _job_from_fields(job_id: str, fields: Mapping[str, str]) -> Job:
    lease_owner = fields.get("lease_owner", "")
    return Job(
        payload={},
        id=job_id,
        priority=int(fields.get("priority", 0)),
        max_attempts=int(fields.get("max_attempts", 0)) or None,
        status=JobStatus(fields["status"]),
        attempts=int(fields.get("attempts", 0)),
        crashes=int(fields.get("crashes", 0)),
        fence=int(fields.get("fence", 0)),
        worker_id=lease_owner.partition("@")[0] or None,
        created_at=_seconds(fields.get("created_at") or fields.get("entry", "").partition("-")[0]),
        started_at=_seconds(fields.get("started_at")),
    )


def decode_payload(raw: bytes) -> dict[str, Any]:
    """The payload as an object; one that is none (a stranger's) shows as `{"malformed": "…"}`."""
    try:
        payload = wire.decode(raw)
    except ValueError:
        payload = None
    if isinstance(payload, dict):
        return payload
    return {"malformed": raw.decode(errors="backslashreplace")}


def _object(raw: bytes, what: str) -> dict[str, Any]:
    value = wire.decode(raw)
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no JSON object")  # noqa: TRY004 - a bad value, like bad JSON
    return value


def _seconds(ms: str | None) -> float | None:
    if not ms:
        return None
    if not 0 <= int(ms) < END_OF_TIME_MS:
        raise ValueError(f"{ms} is no time in ms")
    return int(ms) / 1000


def _whole(text: Any) -> int | None:
    """A whole number that we wrote; None for none, and for what a stranger put in its place."""
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _if_later(ms: str | None, now_ms: int) -> int | None:
    """The grace after an outage: a moment that is still to come."""
    moment = _whole((ms or "").partition(".")[0])
    return moment if moment and moment > now_ms else None


def _seconds_until(first: Any, now_ms: int) -> float | None:
    pairs = _pairs(first)
    return max(0.0, pairs[0][1] - now_ms) / 1000 if pairs else None


def _or_empty(reply: Any) -> Any:
    return reply or []


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _bytes_map(reply: Any) -> dict[bytes, Any]:
    """Field-value pairs as redis-py may hand them over: a mapping, or a flat list."""
    if isinstance(reply, Mapping):
        return dict(reply)
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _decoded(reply: Any) -> dict[str, Any]:
    return {_text(name): _text(value) for name, value in _bytes_map(reply or {}).items()}


def _pairs(reply: Any) -> list[tuple[str, float]]:
    """Members and scores as redis-py may hand them over: pairs, or a flat list."""
    rows = list(reply or [])
    if rows and not isinstance(rows[0], list | tuple):
        rows = list(zip(rows[::2], rows[1::2], strict=True))
    return [(_text(member), float(score)) for member, score in rows]
